// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "daemon/base/file.h"

namespace ublkd::volume {

/// What is said on the guard's socket, each a line. An ublkd says that it serves, and is known to
/// live as long as its connection; the guard lets go of all devices and says so.
inline constexpr absl::string_view kServingLine = "serving\n";
inline constexpr absl::string_view kClearLine = "clear\n";
/// Of another guard: whatever waits is to be answered with errors as long as its connection stands.
inline constexpr absl::string_view kNowLine = "now\n";

/// Where guard and ublkd meet unless they are told otherwise.
std::string GuardSocketOf(const std::string& state_dir);

/// ublkd's connection to ublkd-guard, which is looked for again and again. Any thread.
class GuardLink {
 public:
  enum class State {
    /// Not looked for yet.
    kUnknown,
    kAbsent,
    /// Connected; it may still serve devices of ours.
    kAsked,
    /// Connected; it serves none.
    kClear,
  };

  /// How long a guard is given to let go of its devices.
  static constexpr absl::Duration kPatience = absl::Seconds(5);
  /// How soon a guard that has come is found.
  static constexpr absl::Duration kPoll = absl::Seconds(1);

  explicit GuardLink(std::string socket_path) : socket_path_(std::move(socket_path)) {}
  /// Hangs up, by which the guard knows that nobody serves.
  ~GuardLink();
  GuardLink(const GuardLink&) = delete;
  GuardLink& operator=(const GuardLink&) = delete;

  /// Begins to look for the guard, on a thread of its own. Call once.
  void Start();
  State state() const;
  bool connected() const;
  /// Returns when there is no guard, or it serves no device, or time is over. After Start.
  void WaitUntilClear(absl::Duration limit);

 private:
  void Run();
  void Attend(const UniqueFd& connection);
  /// False when the link is to end.
  bool Pause(absl::Duration time) const;
  void SetState(State state);

  const std::string socket_path_;
  /// Readable when the link is to end.
  UniqueFd end_;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kUnknown;
};

}  // namespace ublkd::volume
