// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/status.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace ublkd {
namespace {

absl::StatusOr<int> Half(int number) {
  if (number % 2 != 0) return absl::InvalidArgumentError("odd");
  return number / 2;
}

absl::StatusOr<int> Quarter(int number) {
  UBLKD_ASSIGN_OR_RETURN(const int half, Half(number));
  UBLKD_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

absl::Status Check(int number) {
  UBLKD_RETURN_IF_ERROR(Half(number).status());
  return absl::OkStatus();
}

TEST(Status, MacrosPassValuesOnAndErrorsUp) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_TRUE(Check(2).ok());
  EXPECT_EQ(Check(3).message(), "odd");
}

TEST(Status, ErrnoStatusSaysWhatWhyAndRemedy) {
  const absl::Status status = ErrnoStatus(ENOENT, "cannot open /x", "create it first");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "cannot open /x: No such file or directory; create it first");
  EXPECT_EQ(ErrnoStatus(EACCES, "x").code(), absl::StatusCode::kPermissionDenied);
}

TEST(Status, AnnotateKeepsTheCode) {
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
  const absl::Status status = Annotate(absl::NotFoundError("gone"), "volume a");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "volume a: gone");
}

}  // namespace
}  // namespace ublkd
