// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/buffer_mode.h"

#include <gtest/gtest.h>

namespace ublkd::ublk {
namespace {

const Features kNone;
const Features kOfAll(FeaturesOf(BufferMode::kUserCopy).bits() |
                      FeaturesOf(BufferMode::kZeroCopy).bits());
constexpr DataUse kUses[] = {DataUse::kBytes, DataUse::kCopies, DataUse::kForwards,
                             DataUse::kNothing};

TEST(BufferMode, TheCheapestThatTargetAndDriverCanDoIsChosen) {
  EXPECT_EQ(*ChooseBufferMode({}, DataUse::kForwards, kOfAll), BufferMode::kZeroCopy);
  EXPECT_EQ(*ChooseBufferMode({}, DataUse::kCopies, kOfAll), BufferMode::kUserCopy);
  EXPECT_EQ(*ChooseBufferMode({}, DataUse::kBytes, kOfAll), BufferMode::kCopy);
  EXPECT_EQ(*ChooseBufferMode({}, DataUse::kNothing, kOfAll), BufferMode::kCopy);
  for (const DataUse use : kUses) {
    EXPECT_EQ(*ChooseBufferMode({}, use, kNone), BufferMode::kCopy);
  }
}

TEST(BufferMode, HalfOfWhatZeroCopyNeedsIsNotEnough) {
  const Features half = Features().With(Feature::kAutoBufReg);
  EXPECT_EQ(*ChooseBufferMode({}, DataUse::kForwards, half), BufferMode::kCopy);
}

TEST(BufferMode, CopyCanAlwaysBeAskedFor) {
  for (const DataUse use : kUses) {
    EXPECT_EQ(*ChooseBufferMode(BufferMode::kCopy, use, kOfAll), BufferMode::kCopy);
  }
}

TEST(BufferMode, WhoNeverTouchesTheDataCanBeServedInAny) {
  for (const BufferMode mode : {BufferMode::kCopy, BufferMode::kUserCopy, BufferMode::kZeroCopy}) {
    EXPECT_EQ(*ChooseBufferMode(mode, DataUse::kNothing, kOfAll), mode);
  }
  EXPECT_EQ(ChooseBufferMode(BufferMode::kZeroCopy, DataUse::kNothing, kNone).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(BufferMode, AModeThatCannotBeIsRefusedWithTheReason) {
  const auto target = ChooseBufferMode(BufferMode::kZeroCopy, DataUse::kCopies, kOfAll);
  EXPECT_EQ(target.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(target.status().message(),
            "buffer mode zero-copy: this target cannot be served in it; ask for user-copy or copy, "
            "or for none");
  const auto driver = ChooseBufferMode(BufferMode::kUserCopy, DataUse::kCopies, kNone);
  EXPECT_EQ(driver.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(driver.status().message(),
            "buffer mode user-copy: the ublk driver does not offer USER_COPY; ask for copy, or for "
            "none");
}

TEST(BufferMode, ADeviceTellsItsMode) {
  for (const BufferMode mode : {BufferMode::kCopy, BufferMode::kUserCopy, BufferMode::kZeroCopy}) {
    EXPECT_EQ(BufferModeOf(FeaturesOf(mode).With(Feature::kUserRecovery)), mode);
    EXPECT_EQ(ParseBufferMode(BufferModeName(mode)), mode);
  }
  EXPECT_EQ(ParseBufferMode(""), std::nullopt);
  EXPECT_EQ(ParseBufferMode("zero"), std::nullopt);
}

}  // namespace
}  // namespace ublkd::ublk
