// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ublkd::test {

/// A program that runs beside the test. Killed and reaped with its owner.
class Process {
 public:
  /// Starts argv[0] (found on PATH) with stdout and stderr appended to `log_path`.
  static absl::StatusOr<std::unique_ptr<Process>> Start(const std::vector<std::string>& argv,
                                                        const std::string& log_path);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  bool Running();
  void Signal(int signal_number) const;
  /// The exit code, or 128 plus the signal that ended it; DEADLINE_EXCEEDED when it still runs.
  absl::StatusOr<int> Wait(std::chrono::milliseconds limit);

 private:
  explicit Process(pid_t pid) : pid_(pid) {}

  pid_t pid_;
  bool reaped_ = false;
  int wait_status_ = 0;
};

/// Runs argv to its end and returns what it printed. An exit code other than 0 or more time than
/// `limit` is an error that holds the command and its output.
absl::StatusOr<std::string> RunCommand(const std::vector<std::string>& argv,
                                       std::chrono::seconds limit = std::chrono::seconds(120));

/// Polls `condition` until it holds or `limit` has passed; says which.
template <typename Condition>
bool Eventually(Condition&& condition, std::chrono::milliseconds limit);

void PauseBeforeNextLook();

template <typename Condition>
bool Eventually(Condition&& condition, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    PauseBeforeNextLook();
  }
  return true;
}

}  // namespace ublkd::test
