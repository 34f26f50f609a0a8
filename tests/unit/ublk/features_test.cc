// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/features.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "driver/uapi/ublk_cmd.h"

namespace ublkd::ublk {
namespace {

TEST(Features, NamesAreThoseOfTheAbi) {
  EXPECT_THAT(
      Features(UBLK_F_CMD_IOCTL_ENCODE | UBLK_F_PER_IO_DAEMON | UBLK_F_IO_DESC_SIZE).Names(),
      testing::ElementsAre("CMD_IOCTL_ENCODE", "PER_IO_DAEMON", "IO_DESC_SIZE"));
  EXPECT_EQ(uint64_t{1} << static_cast<unsigned>(Feature::kSafeStopDev), UBLK_F_SAFE_STOP_DEV);
  EXPECT_EQ(uint64_t{1} << static_cast<unsigned>(Feature::kQuiesce), UBLK_F_QUIESCE);
}

TEST(Features, UnknownBitsHaveANameToo) {
  EXPECT_THAT(Features(uint64_t{1} << 63).Names(), testing::ElementsAre("BIT_63"));
}

TEST(Features, EveryKnownNameIsParsed) {
  for (unsigned bit = 0; bit <= static_cast<unsigned>(Feature::kIoDescSize); ++bit) {
    const Features features(uint64_t{1} << bit);
    Feature feature{};
    ASSERT_TRUE(Features::Parse(features.Names().at(0), feature)) << "bit " << bit;
    EXPECT_EQ(static_cast<unsigned>(feature), bit);
    EXPECT_TRUE(features.Has(feature));
    EXPECT_EQ(Features().With(feature), features);
  }
  Feature feature{};
  EXPECT_FALSE(Features::Parse("WARP_DRIVE", feature));
}

}  // namespace
}  // namespace ublkd::ublk
