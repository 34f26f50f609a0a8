// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/command_ring.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cerrno>

#include "daemon/base/file.h"

namespace ublkd::uring {
namespace {

constexpr uint32_t kAnyOpcode = 0x1234;

class CommandRingTest : public testing::Test {
 protected:
  void SetUp() override {
    auto ring = CommandRing::Create();
    ASSERT_TRUE(ring.ok()) << ring.status();
    ring_ = *std::move(ring);
  }

  std::unique_ptr<CommandRing> ring_;
  std::array<char, kCommandPayloadBytes + 1> payload_ = {};
};

TEST_F(CommandRingTest, AFileWithoutCommandsSaysSoEachTime) {
  const UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(ring_->Run(file.get(), kAnyOpcode, payload_.data(), kCommandPayloadBytes),
              -EOPNOTSUPP);
  }
}

TEST_F(CommandRingTest, ABoundedCommandThatEndsInTimeGivesItsOwnResult) {
  const UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(ring_->Run(file.get(), kAnyOpcode, payload_.data(), 32, 10'000), -EOPNOTSUPP);
}

TEST_F(CommandRingTest, AClosedDescriptorIsBadF) {
  EXPECT_EQ(ring_->Run(-1, kAnyOpcode, payload_.data(), 32), -EBADF);
}

TEST_F(CommandRingTest, AnOverlongPayloadIsRefusedAndNothingIsSent) {
  EXPECT_EQ(ring_->Run(-1, kAnyOpcode, payload_.data(), payload_.size()), -EINVAL);
}

}  // namespace
}  // namespace ublkd::uring
