// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace ublkd::ublk {
namespace {

TEST(Control, WithoutADriverTheRemedyIsNamed) {
  const absl::Status status = Control::Open("/dev/no-such-ublk-control").status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("ublk_drv"));
}

TEST(Control, WhatIsNoDriverIsRefused) {
  const absl::Status status = Control::Open("/dev/null").status();
  EXPECT_FALSE(status.ok()) << "/dev/null knows no ublk commands";
}

}  // namespace
}  // namespace ublkd::ublk
