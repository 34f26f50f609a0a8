// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstdint>
#include <utility>

#include "daemon/target/target.h"

namespace ublkd::target {

/// A layer over any target: reads and writes that touch one place fail with EIO, all else goes
/// through.
template <Target Inner>
class FaultLayer {
 public:
  class Queue;

  FaultLayer(Inner inner, uint64_t bad_offset_bytes)
      : inner_(std::move(inner)), bad_offset_bytes_(bad_offset_bytes) {}

  Geometry geometry() const { return inner_.geometry(); }

  absl::StatusOr<Queue> OpenQueue(uring::Ring& ring) {
    UBLKD_ASSIGN_OR_RETURN(QueueOf<Inner> queue, inner_.OpenQueue(ring));
    return Queue(std::move(queue), bad_offset_bytes_);
  }

 private:
  Inner inner_;
  uint64_t bad_offset_bytes_;
};

template <Target Inner>
class FaultLayer<Inner>::Queue {
 public:
  using InnerQueue = QueueOf<Inner>;

  Queue(InnerQueue inner, uint64_t bad_offset_bytes)
      : inner_(std::move(inner)), bad_offset_bytes_(bad_offset_bytes) {}

  uring::Task<Result> Read(const Request& request) {
    if (IsBad(request)) co_return Result::Error(EIO);
    co_return co_await internal::Read(inner_, request);
  }
  uring::Task<Result> Write(const Request& request) {
    if (IsBad(request)) co_return Result::Error(EIO);
    co_return co_await internal::Write(inner_, request);
  }
  auto Flush(const Request& request) requires CanFlush<InnerQueue> { return inner_.Flush(request); }
  auto Discard(const Request& request) requires CanDiscard<InnerQueue> {
    return inner_.Discard(request);
  }
  auto WriteZeroes(const Request& request) requires CanWriteZeroes<InnerQueue> {
    return inner_.WriteZeroes(request);
  }

 private:
  bool IsBad(const Request& request) const {
    return request.offset_bytes <= bad_offset_bytes_ &&
           bad_offset_bytes_ < request.offset_bytes + request.length_bytes;
  }

  InnerQueue inner_;
  uint64_t bad_offset_bytes_;
};

}  // namespace ublkd::target
