// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "daemon/target/target.h"
#include "daemon/target/throttle.h"

namespace ublkd::target {

/// A layer over any target that holds back what comes faster than its throttle allows. It has no
/// part in the requests themselves, so it inherits what serves them.
template <Target Inner>
class LimitLayer : public Inner {
 public:
  class Queue;

  LimitLayer(Inner inner, std::shared_ptr<Throttle> throttle)
      : Inner(std::move(inner)), throttle_(std::move(throttle)) {}

  absl::StatusOr<Queue> OpenQueue(uring::Ring& ring) {
    UBLKD_ASSIGN_OR_RETURN(QueueOf<Inner> queue, Inner::OpenQueue(ring));
    return Queue(std::move(queue), std::make_unique<Gate>(throttle_, ring));
  }

  void LetPass() { throttle_->Release(); }

 private:
  std::shared_ptr<Throttle> throttle_;
};

template <Target Inner>
class LimitLayer<Inner>::Queue : public QueueOf<Inner> {
 public:
  static_assert(!HoldsBack<QueueOf<Inner>>, "one layer has all limits of a device");

  Queue(QueueOf<Inner> inner, std::unique_ptr<Gate> gate)
      : QueueOf<Inner>(std::move(inner)), gate_(std::move(gate)) {}

  Admission Admit(const Request& request) { return gate_->Admit(request); }

 private:
  std::unique_ptr<Gate> gate_;
};

/// As MakeDeviceTarget, under the limits of `throttle` when there is one.
template <Target T>
absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeLimitedTarget(
    T target, std::shared_ptr<Throttle> throttle) {
  if (throttle == nullptr) return MakeDeviceTarget(std::move(target));
  return MakeDeviceTarget(LimitLayer<T>(std::move(target), std::move(throttle)));
}

}  // namespace ublkd::target
