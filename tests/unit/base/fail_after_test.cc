// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/fail_after.h"

#include <gtest/gtest.h>

namespace ublkd {
namespace {

TEST(FailAfter, IsReadInWholeSeconds) {
  EXPECT_EQ(*ParseFailAfter("wait"), 0u);
  EXPECT_EQ(*ParseFailAfter("0"), 0u);
  EXPECT_EQ(*ParseFailAfter("90"), 90u);
  EXPECT_EQ(*ParseFailAfter("90s"), 90u);
  EXPECT_EQ(*ParseFailAfter("5m"), 300u);
  EXPECT_EQ(*ParseFailAfter("1h30m"), 5400u);
  EXPECT_EQ(*ParseFailAfter("2000ms"), 2u);
}

TEST(FailAfter, AnythingElseIsRefused) {
  for (const char* text :
       {"", "never", "-1", "-5m", "500ms", "1.5s", "5 minutes", "inf", "50000000h"}) {
    const auto read = ParseFailAfter(text);
    ASSERT_FALSE(read.ok()) << text << " is read as " << *read;
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(read.status().message().find(text), std::string::npos);
  }
}

TEST(FailAfter, IsWrittenAsItIsRead) {
  for (const char* text : {"wait", "1s", "1m30s", "5m", "2h"}) {
    EXPECT_EQ(FormatFailAfter(*ParseFailAfter(text)), text);
  }
}

}  // namespace
}  // namespace ublkd
