// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

/// Work that may hang in the kernel (mount, unmount, statfs, mkfs on a device whose backend is
/// gone) runs in a child process with a deadline, so that no thread of ours is ever lost to it.
///
/// A child that is past its deadline is killed; one that cannot be killed, because it waits in the
/// kernel, is left behind under the name of its owner (a volume id) and remembered until it ends.
namespace ublkd::csi {

/// What a program did.
struct CommandResult {
  /// Exit status, or 128 plus the number of the signal that ended it.
  int exit_status = 0;
  /// The end of what it wrote to stdout and stderr, at most kMaxOutputBytes.
  std::string output;

  static constexpr size_t kMaxOutputBytes = 4096;
};

/// Runs a program, found in PATH, without a shell and without input. NOT_FOUND when it is not
/// installed, DEADLINE_EXCEEDED when it had to be killed. The program dies with this process.
absl::StatusOr<CommandResult> RunCommand(const std::string& owner,
                                         const std::vector<std::string>& arguments,
                                         std::chrono::milliseconds deadline);

/// Runs `body` in a child. It returns 0 or an errno and may use system calls only: no allocation,
/// no locks, no logging. `result` (of `result_bytes`, at most a pipe's worth) is copied back when
/// it returns 0. The error says `what` was tried.
absl::Status RunInChild(const std::string& owner, absl::string_view what,
                        std::chrono::milliseconds deadline, const std::function<int()>& body,
                        void* result = nullptr, size_t result_bytes = 0);

/// True while a child that was given up on still runs for `owner`. Nothing else may be done for
/// this owner until it has ended.
bool HasStuckChild(const std::string& owner);

}  // namespace ublkd::csi
