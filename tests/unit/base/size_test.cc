// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/size.h"

#include <gtest/gtest.h>

#include <limits>

namespace ublkd {
namespace {

TEST(ParseBytes, ReadsPlainNumbersAndUnits) {
  EXPECT_EQ(*ParseBytes("0"), 0u);
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("512B"), 512u);
  EXPECT_EQ(*ParseBytes("64MiB"), 64u << 20);
  EXPECT_EQ(*ParseBytes("64M"), 64u << 20);
  EXPECT_EQ(*ParseBytes("64Mi"), 64u << 20);
  EXPECT_EQ(*ParseBytes("10 GiB"), uint64_t{10} << 30);
  EXPECT_EQ(*ParseBytes("1.5TiB"), uint64_t{3} << 39);
  EXPECT_EQ(*ParseBytes("2KB"), 2000u);
  EXPECT_EQ(*ParseBytes("18446744073709551615"), std::numeric_limits<uint64_t>::max());
}

TEST(ParseBytes, RefusesWhatIsNoSizeAndNamesIt) {
  for (const char* text : {"", "MiB", "ten", "-1", "1X", "1.3", "1MiBx", "18446744073709551616",
                           "16EiB", "nan", "1e3", "0.3KiB"}) {
    const auto bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text << " was read as " << *bytes;
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(bytes.status().message().find(text), absl::string_view::npos) << bytes.status();
  }
}

TEST(FormatBytes, UsesTheLargestUnitThatFits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(uint64_t{64} << 20), "64 MiB");
  EXPECT_EQ(FormatBytes(uint64_t{3} << 39), "1.5 TiB");
}

}  // namespace
}  // namespace ublkd
