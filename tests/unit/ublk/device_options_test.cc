// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "daemon/ublk/device.h"

namespace ublkd::ublk {
namespace {

TEST(DefaultDepth, QueuesShareTheRequestsOfADevice) {
  EXPECT_EQ(DefaultDepth(1), 128);
  EXPECT_EQ(DefaultDepth(2), 128);
  EXPECT_EQ(DefaultDepth(3), 85);
  EXPECT_EQ(DefaultDepth(4), 64);
  EXPECT_EQ(DefaultDepth(kMaxQueues), 64);
}

}  // namespace
}  // namespace ublkd::ublk
