// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/outcome.h"

#include <iostream>
#include <string>

#include "absl/strings/cord.h"

namespace ublkd::ctl {
namespace {

// A payload tells our own errors from those of ublkd, whatever their codes.
constexpr char kUsageMark[] = "ublkctl/usage";
constexpr char kUnreachableMark[] = "ublkctl/unreachable";

absl::Status Marked(absl::Status status, absl::string_view mark) {
  status.SetPayload(mark, absl::Cord());
  return status;
}

}  // namespace

absl::Status UsageError(absl::string_view message) {
  return Marked(absl::InvalidArgumentError(message), kUsageMark);
}

absl::Status UnreachableError(absl::string_view message) {
  return Marked(absl::UnavailableError(message), kUnreachableMark);
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return ExitCode::kDone;
  if (status.GetPayload(kUsageMark).has_value()) return ExitCode::kUsage;
  if (status.GetPayload(kUnreachableMark).has_value()) return ExitCode::kUnreachable;
  return ExitCode::kRefused;
}

ExitCode Report(const absl::Status& status) {
  if (!status.ok()) std::cerr << "ublkctl: " << status.message() << "\n";
  return ExitCodeOf(status);
}

}  // namespace ublkd::ctl
