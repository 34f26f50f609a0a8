// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "absl/base/thread_annotations.h"
#include "daemon/target/io_limits.h"
#include "daemon/target/token_bucket.h"
#include "daemon/ublk/request.h"
#include "daemon/uring/clock.h"
#include "daemon/uring/ring.h"
#include "daemon/uring/task.h"

/// Limits of a device: requests that come too fast are held back before its target sees them.
namespace ublkd::target {

/// The buckets of one set of limits, shared by the queue threads of a device.
class Meter {
 public:
  /// What one request takes, or has taken.
  struct Share {
    uint64_t ios = 0;
    uint64_t sectors = 0;
  };
  /// Nothing for a flush; a discard or write-zeroes is an I/O, but moves no data.
  static Share CostOf(const ublk::Request& request);

  Meter(const IoLimits& limits, uint64_t now_ns);
  /// Goes on where `earlier` is.
  Meter(const IoLimits& limits, uint64_t now_ns, const Meter& earlier);

  bool limited() const { return limited_; }
  /// Takes what a request costs and returns its positions.
  Share Take(const Share& cost, uint64_t now_ns);
  /// The positions here of what was taken from the earlier one.
  Share Keep(const Share& position, const Share& cost, uint64_t now_ns);
  uint64_t DueNs(const Share& position) const;

 private:
  const bool limited_;
  TokenBucket ios_;
  TokenBucket sectors_;
};

class Gate;

/// The limits of a device, which may be changed while it is served. Any thread.
///
/// From the start of a limit on, the device has done at most burst + rate x time of it at any
/// moment; from any later moment on at most that and one request for each queue, which may have
/// paid before and been let pass after. Requests of a queue pass in the order in which they came,
/// and queues take turns, so that none starves, whatever the size of its requests.
class Throttle {
 public:
  /// The longest that a request which waits does not look at what has changed.
  static constexpr uint64_t kLongestSleepNs = 10'000'000;

  using Clock = std::function<uint64_t()>;

  /// `limits` are complete (CompleteLimits) and within the bounds of io_limits.h. `now_ns` is
  /// called by all threads.
  explicit Throttle(const IoLimits& limits = {}, Clock now_ns = uring::MonotonicNs);
  Throttle(const Throttle&) = delete;
  Throttle& operator=(const Throttle&) = delete;

  /// Other limits, for requests that wait, too: those go on after kLongestSleepNs at the latest if
  /// they may.
  void Set(const IoLimits& limits) ABSL_LOCKS_EXCLUDED(mutex_);

  /// Ends all limits for good, because the device ends.
  void Release() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class Gate;
  void Change(const IoLimits& limits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock now_ns_;
  /// Held for moments, when limits change or a queue begins or ends.
  std::mutex mutex_;
  std::shared_ptr<Meter> meter_ ABSL_GUARDED_BY(mutex_);
  /// Grows with each change.
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 1;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Gate*> gates_ ABSL_GUARDED_BY(mutex_);
};

/// Awaited before a request is handed to the target; tells whether the request was held back.
class [[nodiscard]] Admission {
 public:
  Admission(Gate& gate, const ublk::Request& request) : gate_(gate), request_(request) {}
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  inline bool await_ready();
  void await_suspend(std::coroutine_handle<> waiter);
  bool await_resume() const noexcept { return held_back_; }

 private:
  friend class Gate;
  Gate& gate_;
  const ublk::Request& request_;
  bool held_back_ = false;
  // Only of one that is held back:
  /// It has taken what it costs; only the first of a queue has.
  bool has_taken_ = false;
  Meter::Share position_;
  std::coroutine_handle<> waiter_;
  Admission* next_ = nullptr;
};

/// What the requests of one queue thread pass. Belongs to that thread; is destroyed when no request
/// waits.
class alignas(64) Gate {
 public:
  /// `ring` outlives the gate.
  Gate(std::shared_ptr<Throttle> throttle, uring::Ring& ring);
  ~Gate();
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  /// `request` must stay until the admission was awaited.
  Admission Admit(const ublk::Request& request) { return {*this, request}; }

 private:
  friend class Admission;
  friend class Throttle;
  static constexpr uint64_t kNeverOpen = 0;

  /// Without a limit: all that a request has to look at.
  bool IsOpen() const { return newest_generation_.load(std::memory_order_relaxed) == open_in_; }
  bool TryPass(Admission& admission);
  void Enqueue(Admission& admission);
  void Refresh();
  uring::RootTask PassWaiting();
  uint64_t WaitNs(Admission& admission);
  void PassDue();

  /// Throttle's; the only thing that other threads write.
  std::atomic<uint64_t> newest_generation_;
  /// The generation in which there is no limit and nobody waits, or kNeverOpen.
  uint64_t open_in_ = kNeverOpen;
  /// That of `meter_`.
  uint64_t generation_ = 0;
  std::shared_ptr<Meter> meter_;
  const std::shared_ptr<Throttle> throttle_;
  uring::Ring& ring_;
  /// First in, first out.
  Admission* first_ = nullptr;
  Admission* last_ = nullptr;
  /// `passing_` runs.
  bool is_passing_ = false;
  std::optional<uring::RootTask> passing_;
};

inline bool Admission::await_ready() {
  if (gate_.IsOpen()) [[likely]]
    return true;
  return gate_.TryPass(*this);
}

}  // namespace ublkd::target
