// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>

#include "absl/status/status.h"

namespace ublkd::demo {

/// Prints what happens, as it happens, each step with the time since the start.
class Story {
 public:
  /// Begins a step: "[ 12.3 s] TEXT ... ".
  void Begin(const std::string& text);
  /// Ends it with what came out and how long it took: "OUTCOME (0.41 s)".
  void End(const std::string& outcome);
  /// A line beneath the last step.
  void Note(const std::string& text);
  /// Ends a step that failed.
  void Fail(const absl::Status& status);

 private:
  using Clock = std::chrono::steady_clock;

  Clock::time_point start_ = Clock::now();
  Clock::time_point step_start_ = start_;
  bool in_step_ = false;
};

}  // namespace ublkd::demo
