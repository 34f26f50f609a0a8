// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/throttle.h"

#include <algorithm>
#include <utility>

#include "daemon/ublk/geometry.h"

namespace ublkd::target {
namespace {

TokenBucket::Rate IosOf(const IoLimits& limits) {
  return {.tokens = limits.iops, .period_ns = uring::kNsPerSecond, .burst = limits.burst_ios};
}

/// Bytes are counted by the sector: 512 times as far from an overflow.
TokenBucket::Rate SectorsOf(const IoLimits& limits) {
  return {.tokens = limits.bytes_per_second,
          .period_ns = uring::kNsPerSecond * ublk::kSectorBytes,
          .burst = limits.burst_bytes / ublk::kSectorBytes};
}

}  // namespace

Meter::Share Meter::CostOf(const ublk::Request& request) {
  switch (request.op) {
    case ublk::Op::kRead:
    case ublk::Op::kWrite:
      return {.ios = 1, .sectors = request.length_bytes / ublk::kSectorBytes};
    case ublk::Op::kDiscard:
    case ublk::Op::kWriteZeroes:
      return {.ios = 1};
    case ublk::Op::kFlush:
      break;
  }
  return {};
}

Meter::Meter(const IoLimits& limits, uint64_t now_ns)
    : limited_(limits.limited()),
      ios_(IosOf(limits), now_ns),
      sectors_(SectorsOf(limits), now_ns) {}

Meter::Meter(const IoLimits& limits, uint64_t now_ns, const Meter& earlier)
    : limited_(limits.limited()),
      ios_(IosOf(limits), now_ns, earlier.ios_),
      sectors_(SectorsOf(limits), now_ns, earlier.sectors_) {}

Meter::Share Meter::Take(const Share& cost, uint64_t now_ns) {
  return {.ios = ios_.Take(cost.ios, now_ns), .sectors = sectors_.Take(cost.sectors, now_ns)};
}

Meter::Share Meter::Keep(const Share& position, const Share& cost, uint64_t now_ns) {
  return {.ios = ios_.Keep(position.ios, cost.ios, now_ns),
          .sectors = sectors_.Keep(position.sectors, cost.sectors, now_ns)};
}

uint64_t Meter::DueNs(const Share& position) const {
  return std::max(ios_.DueNs(position.ios), sectors_.DueNs(position.sectors));
}

Throttle::Throttle(const IoLimits& limits, Clock now_ns)
    : now_ns_(std::move(now_ns)), meter_(std::make_shared<Meter>(limits, now_ns_())) {}

void Throttle::Set(const IoLimits& limits) {
  const std::lock_guard lock(mutex_);
  if (!released_) Change(limits);
}

void Throttle::Release() {
  const std::lock_guard lock(mutex_);
  released_ = true;
  Change({});
}

void Throttle::Change(const IoLimits& limits) {
  meter_ = std::make_shared<Meter>(limits, now_ns_(), *meter_);
  ++generation_;
  for (Gate* gate : gates_) {
    gate->newest_generation_.store(generation_, std::memory_order_release);
  }
}

void Admission::await_suspend(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  gate_.Enqueue(*this);
}

Gate::Gate(std::shared_ptr<Throttle> throttle, uring::Ring& ring)
    : throttle_(std::move(throttle)), ring_(ring) {
  const std::lock_guard lock(throttle_->mutex_);
  throttle_->gates_.insert(this);
  meter_ = throttle_->meter_;
  generation_ = throttle_->generation_;
  newest_generation_ = generation_;
}

Gate::~Gate() {
  const std::lock_guard lock(throttle_->mutex_);
  throttle_->gates_.erase(this);
}

/// Looks whether the limits have changed. What was set before holds for all queues from then on, so
/// it waits for another queue that is looking, too.
void Gate::Refresh() {
  if (newest_generation_.load(std::memory_order_acquire) == generation_) [[likely]]
    return;
  // The earlier one is freed after the lock.
  std::shared_ptr<Meter> meter;
  const std::lock_guard lock(throttle_->mutex_);
  meter = throttle_->meter_;
  generation_ = throttle_->generation_;
  open_in_ = kNeverOpen;
  meter_.swap(meter);
  if (first_ == nullptr || !first_->has_taken_) return;
  first_->position_ =
      meter_->Keep(first_->position_, Meter::CostOf(first_->request_), throttle_->now_ns_());
}

bool Gate::TryPass(Admission& admission) {
  if (Meter::CostOf(admission.request_).ios == 0) return true;
  Refresh();
  if (first_ != nullptr) return false;
  if (!meter_->limited()) {
    open_in_ = generation_;
    return true;
  }
  return WaitNs(admission) == 0;
}

void Gate::Enqueue(Admission& admission) {
  admission.held_back_ = true;
  (last_ == nullptr ? first_ : last_->next_) = &admission;
  last_ = &admission;
  if (is_passing_) return;
  is_passing_ = true;
  passing_.emplace(PassWaiting());
  passing_->Start();
}

/// Lets those who wait pass, one after the other, until none is left.
uring::RootTask Gate::PassWaiting() {
  while (first_ != nullptr) {
    co_await ring_.Sleep(std::min(WaitNs(*first_), Throttle::kLongestSleepNs));
    Refresh();
    PassDue();
  }
  is_passing_ = false;
}

/// How long the first who waits must do so still; it takes what it costs when it becomes the first.
uint64_t Gate::WaitNs(Admission& admission) {
  const uint64_t now_ns = throttle_->now_ns_();
  if (!admission.has_taken_) {
    admission.position_ = meter_->Take(Meter::CostOf(admission.request_), now_ns);
    admission.has_taken_ = true;
  }
  const uint64_t due_ns = meter_->DueNs(admission.position_);
  return due_ns > now_ns ? due_ns - now_ns : 0;
}

void Gate::PassDue() {
  while (first_ != nullptr && WaitNs(*first_) == 0) {
    Admission& passed = *first_;
    first_ = passed.next_;
    if (first_ == nullptr) last_ = nullptr;
    // It may be gone when this returns.
    passed.waiter_.resume();
  }
}

}  // namespace ublkd::target
