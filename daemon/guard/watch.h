// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <list>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "daemon/base/file.h"
#include "daemon/guard/guard.h"

namespace ublkd::guard {

struct WatchOptions {
  /// Of the guard; a lock beside it keeps a second guard waiting.
  std::string socket;
  /// For the shutdown of the node: whatever waits is answered with errors at once, and the watch
  /// ends when no device is in use.
  bool now = false;
  /// How long an ublkd that lives has to find a guard that has just started.
  absl::Duration grace = absl::Seconds(3);
};

/// Knows whether an ublkd lives, by its connection to the guard's socket, and has the guard act
/// when none does. One thread.
class Watch {
 public:
  /// How often devices are looked at while no ublkd is there.
  static constexpr absl::Duration kLookPause = absl::Milliseconds(500);
  /// How often one looks whether another guard has ended.
  static constexpr absl::Duration kTurnPause = absl::Seconds(1);

  /// `guard` outlives the watch; `end` is a descriptor that becomes readable when the watch is to
  /// end. The clock is the guard's.
  Watch(WatchOptions options, Guard& guard, Guard::Clock clock, int end)
      : options_(std::move(options)), guard_(guard), clock_(std::move(clock)), end_(end) {}

  /// Watches to the end. Waits for its turn while another guard has the socket. The error says what
  /// could not be had.
  absl::Status Run();

 private:
  struct Caller {
    UniqueFd connection;
    std::string line;
    /// An ublkd that serves.
    bool serves = false;
    /// Another guard, which wants errors at once.
    bool wants_errors = false;
  };

  absl::StatusOr<bool> AwaitTurn();
  absl::StatusOr<bool> TryLock();
  /// False when the watch is to end.
  bool WaitForEvents(absl::Duration limit);
  void Accept();
  void Listen(Caller& caller);
  void Obey(Caller& caller, const std::string& line);
  bool served() const;
  bool now() const;

  const WatchOptions options_;
  Guard& guard_;
  const Guard::Clock clock_;
  const int end_;
  UniqueFd lock_;
  UniqueFd listener_;
  std::list<Caller> callers_;
};

}  // namespace ublkd::guard
