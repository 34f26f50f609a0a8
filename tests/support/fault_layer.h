// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/base/file.h"
#include "daemon/target/target.h"

/// A layer under which things go wrong on purpose, for tests with and without a driver.
namespace ublkd::target {

/// One thing that goes wrong: which requests it meets, and what becomes of them.
struct Fault {
  /// Absent: all.
  std::optional<ublk::Op> op = {};
  /// Meets what touches this range; a flush touches all.
  uint64_t begin_bytes = 0;
  uint64_t end_bytes = ~uint64_t{0};
  /// Meets each n-th of those, beginning with the n-th.
  uint64_t every = 1;
  /// Meets no more than so many.
  uint64_t times = ~uint64_t{0};

  /// First they wait for so long.
  uint64_t delay_ns = 0;
  /// Then until Faults::Release.
  bool hang = false;
  /// Then reads and writes are passed on in pieces of so many bytes; with an error only the first.
  uint32_t piece_bytes = 0;
  /// Then they are answered with this positive errno.
  int error_number = 0;
};

/// What goes wrong in the layers that were made with it. Any thread, at any time; a request meets
/// the first of the faults that are for it when it comes.
class Faults {
 public:
  void Add(const Fault& fault) {
    const std::lock_guard lock(mutex_);
    faults_.push_back({fault, 0, 0});
  }
  /// From now on nothing goes wrong; what hangs still hangs.
  void Clear() {
    const std::lock_guard lock(mutex_);
    faults_.clear();
  }
  /// What hangs goes on. A fault that makes others hang stays.
  void Release() {
    const std::lock_guard lock(mutex_);
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(gate_->get(), &one, sizeof(one));
    gate_ = MakeGate();
  }
  /// Requests that hang now.
  size_t hanging() const {
    const std::lock_guard lock(mutex_);
    return hanging_;
  }
  /// Requests that have met a fault.
  uint64_t met() const {
    const std::lock_guard lock(mutex_);
    return met_;
  }

 private:
  template <Target Inner>
  friend class FaultLayer;
  /// Readable once those who wait at it are released.
  using Gate = std::shared_ptr<UniqueFd>;
  struct Counted {
    Fault fault;
    uint64_t matched;
    uint64_t met;
  };

  static Gate MakeGate() {
    return std::make_shared<UniqueFd>(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  }
  static bool Matches(const Fault& fault, const Request& request) {
    if (fault.op.has_value() && *fault.op != request.op) return false;
    return request.length_bytes == 0 ||
           (request.offset_bytes < fault.end_bytes &&
            fault.begin_bytes < request.offset_bytes + request.length_bytes);
  }
  std::optional<Fault> Meet(const Request& request) {
    const std::lock_guard lock(mutex_);
    for (Counted& counted : faults_) {
      const Fault& fault = counted.fault;
      if (counted.met == fault.times || !Matches(fault, request)) continue;
      if (++counted.matched % fault.every != 0) continue;
      ++counted.met;
      ++met_;
      return fault;
    }
    return std::nullopt;
  }
  Gate Arrive() {
    const std::lock_guard lock(mutex_);
    ++hanging_;
    return gate_;
  }
  void Depart() {
    const std::lock_guard lock(mutex_);
    --hanging_;
  }

  mutable std::mutex mutex_;
  std::vector<Counted> faults_;
  Gate gate_ = MakeGate();
  size_t hanging_ = 0;
  uint64_t met_ = 0;
};

/// A layer over any target. A request that meets no fault is passed on as it is, and the data of
/// one that does is not looked at.
template <Target Inner>
class FaultLayer {
 public:
  class Queue;

  FaultLayer(Inner inner, std::shared_ptr<Faults> faults)
      : inner_(std::move(inner)), faults_(std::move(faults)) {}

  Geometry geometry() const { return inner_.geometry(); }

  absl::StatusOr<Queue> OpenQueue(uring::Ring& ring) {
    UBLKD_ASSIGN_OR_RETURN(QueueOf<Inner> queue, inner_.OpenQueue(ring));
    return Queue(std::move(queue), ring, faults_);
  }

 private:
  Inner inner_;
  std::shared_ptr<Faults> faults_;
};

template <Target Inner>
class FaultLayer<Inner>::Queue {
 public:
  using InnerQueue = QueueOf<Inner>;

  Queue(InnerQueue inner, uring::Ring& ring, std::shared_ptr<Faults> faults)
      : inner_(std::move(inner)), ring_(&ring), faults_(std::move(faults)) {}

  uring::Task<Result> Read(const Request& request) {
    return Serve(request, [](InnerQueue& q, const Request& r) { return internal::Read(q, r); });
  }
  uring::Task<Result> Write(const Request& request) {
    return Serve(request, [](InnerQueue& q, const Request& r) { return internal::Write(q, r); });
  }
  uring::Task<Result> Flush(const Request& request) requires CanFlush<InnerQueue> {
    return Serve(request, [](InnerQueue& q, const Request& r) { return internal::Flush(q, r); });
  }
  uring::Task<Result> Discard(const Request& request) requires CanDiscard<InnerQueue> {
    return Serve(request, [](InnerQueue& q, const Request& r) { return internal::Discard(q, r); });
  }
  uring::Task<Result> WriteZeroes(const Request& request) requires CanWriteZeroes<InnerQueue> {
    return Serve(request,
                 [](InnerQueue& q, const Request& r) { return internal::WriteZeroes(q, r); });
  }

 private:
  template <typename Call>
  uring::Task<Result> Serve(const Request& request, Call call) {
    const std::optional<Fault> fault = faults_->Meet(request);
    if (!fault.has_value()) co_return co_await call(inner_, request);
    if (fault->delay_ns != 0) co_await ring_->Sleep(fault->delay_ns);
    if (fault->hang) {
      const Faults::Gate gate = faults_->Arrive();
      (void)co_await ring_->Poll({.fd = gate->get()}, POLLIN);
      faults_->Depart();
    }
    const bool in_pieces = fault->piece_bytes != 0 && request.length_bytes != 0;
    uint64_t done = 0;
    while (in_pieces && done < request.length_bytes) {
      const Request piece = Piece(request, done, fault->piece_bytes);
      const Result result = co_await call(inner_, piece);
      if (!result.ok()) co_return result;
      if (fault->error_number != 0) break;
      done += piece.length_bytes;
    }
    if (fault->error_number != 0) co_return Result::Error(fault->error_number);
    if (in_pieces) co_return Result::Ok();
    co_return co_await call(inner_, request);
  }

  static Request Piece(const Request& request, uint64_t done, uint32_t most_bytes) {
    Request piece = request;
    piece.offset_bytes += done;
    piece.length_bytes = std::min<uint64_t>(most_bytes, request.length_bytes - done);
    if (request.buffer.bytes != 0) {
      // The data may be elsewhere, and this only a place in it.
      const auto place = reinterpret_cast<uintptr_t>(request.buffer.data) + done;
      piece.buffer.data = reinterpret_cast<std::byte*>(place);
      piece.buffer.bytes = static_cast<uint32_t>(piece.length_bytes);
    }
    return piece;
  }

  InnerQueue inner_;
  uring::Ring* ring_;
  std::shared_ptr<Faults> faults_;
};

}  // namespace ublkd::target
