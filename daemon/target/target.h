// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/base/status.h"
#include "daemon/target/serve.h"
#include "daemon/ublk/device_target.h"
#include "daemon/ublk/geometry.h"
#include "daemon/ublk/request.h"
#include "daemon/uring/result.h"
#include "daemon/uring/ring.h"

/// Writing a target: README.md of this folder.
namespace ublkd::target {

using ublk::DataUse;
using ublk::Geometry;
using ublk::Request;
using uring::Result;

/// What a target's `OpenQueue` opens.
template <typename T>
using QueueOf =
    typename decltype(std::declval<T&>().OpenQueue(std::declval<uring::Ring&>()))::value_type;

/// What a device does with its requests: what it looks like, and a part for each queue thread.
/// `OpenQueue` is called from several threads, maybe at once.
template <typename T>
concept Target = requires(T& target, const T& constant, uring::Ring& ring) {
  { constant.geometry() } -> std::convertible_to<Geometry>;
  { target.OpenQueue(ring) } -> std::same_as<absl::StatusOr<QueueOf<T>>>;
}
&&Queue<QueueOf<T>>;

/// A target whose disk may grow while it is served tells how much of it there is now. It is asked
/// on any thread.
template <typename T>
concept CanGrow = requires(const T& target) {
  { target.AvailableBytes() } -> std::same_as<absl::StatusOr<uint64_t>>;
};

namespace internal {

template <typename Q>
class TypedQueueTarget : public ublk::QueueTarget {
 public:
  explicit TypedQueueTarget(Q queue) : queue_(std::move(queue)) {}
  uring::RootTask Serve(ublk::Tag& tag) override { return ServeTag(tag, queue_); }

 private:
  Q queue_;
};

template <Target T>
class TypedDeviceTarget : public ublk::DeviceTarget {
 public:
  TypedDeviceTarget(T target, const Geometry& geometry)
      : target_(std::move(target)), geometry_(geometry) {}

  const Geometry& geometry() const override { return geometry_; }
  ublk::DataUse data_use() const override { return DataUseOf<QueueOf<T>>(); }
  absl::StatusOr<uint64_t> AvailableBytes() const override {
    if constexpr (CanGrow<T>) {
      return target_.AvailableBytes();
    } else {
      return geometry_.size_bytes;
    }
  }

  absl::StatusOr<std::unique_ptr<ublk::QueueTarget>> OpenQueue(uring::Ring& ring) override {
    UBLKD_ASSIGN_OR_RETURN(QueueOf<T> queue, target_.OpenQueue(ring));
    return std::make_unique<TypedQueueTarget<QueueOf<T>>>(std::move(queue));
  }

  void LetPass() override {
    if constexpr (requires(T & target) { target.LetPass(); }) target_.LetPass();
  }

 private:
  T target_;
  Geometry geometry_;
};

}  // namespace internal

/// Makes the target servable. Its geometry is completed, and what its queue has no method for is
/// not advertised. INVALID_ARGUMENT: the geometry is out of range.
template <Target T>
absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeDeviceTarget(T target) {
  using Q = QueueOf<T>;
  Geometry geometry = target.geometry();
  geometry.can_flush = geometry.can_flush && CanFlush<Q>;
  geometry.can_discard = geometry.can_discard && CanDiscard<Q>;
  geometry.can_write_zeroes = geometry.can_write_zeroes && CanWriteZeroes<Q>;
  UBLKD_RETURN_IF_ERROR(ublk::CompleteGeometry(geometry));
  return std::make_unique<internal::TypedDeviceTarget<T>>(std::move(target), geometry);
}

}  // namespace ublkd::target
