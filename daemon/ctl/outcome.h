// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ublkd::ctl {

/// What ublkctl exits with.
enum class ExitCode : int {
  kDone = 0,
  /// ublkd refused.
  kRefused = 1,
  /// The command line is wrong; nothing was sent.
  kUsage = 2,
  /// ublkd cannot be reached or does not answer.
  kUnreachable = 3,
};

/// A status that ends in ExitCode::kUsage.
absl::Status UsageError(absl::string_view message);

/// A status that ends in ExitCode::kUnreachable.
absl::Status UnreachableError(absl::string_view message);

/// The exit code that belongs to `status`; an error that was made by neither function above is a
/// refusal.
ExitCode ExitCodeOf(const absl::Status& status);

/// Prints "ublkctl: <message>" on stderr and returns the exit code of `status`.
ExitCode Report(const absl::Status& status);

}  // namespace ublkd::ctl
