// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>

#include <utility>

#include "daemon/target/backing_file.h"
#include "daemon/target/target.h"

namespace ublkd::target {

/// The blocks of a file.
class FileTarget {
 public:
  class Queue;

  explicit FileTarget(BackingFile backing) : backing_(std::move(backing)) {}

  Geometry geometry() const { return backing_.geometry; }
  absl::StatusOr<uint64_t> AvailableBytes() const { return SizeOf(backing_.fd.get()); }
  absl::StatusOr<Queue> OpenQueue(uring::Ring& ring);

 private:
  BackingFile backing_;
};

class FileTarget::Queue {
 public:
  static constexpr DataUse kDataUse = DataUse::kForwards;

  Queue(uring::Ring& ring, const BackingFile& backing)
      : ring_(&ring),
        file_(ring.RegisterFile(backing.fd.get())),
        can_zero_range_(backing.can_zero_range) {}

  auto Read(const Request& request) {
    return ring_->Read(file_, request.buffer, request.offset_bytes);
  }

  auto Write(const Request& request) {
    return ring_->Write(file_, request.buffer, request.offset_bytes, request.fua ? RWF_DSYNC : 0);
  }

  auto Flush(const Request&) { return ring_->DataSync(file_); }

  auto Discard(const Request& request) { return Fallocate(kPunchHole, request); }

  uring::Task<Result> WriteZeroes(const Request& request) {
    if (request.no_unmap && can_zero_range_) co_return co_await Fallocate(kZeroRange, request);
    const Result punched = co_await Fallocate(kPunchHole, request);
    if (!punched.ok() || !request.no_unmap) co_return punched;
    co_return co_await Fallocate(kAllocate, request);
  }

 private:
  static constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  static constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  static constexpr int kAllocate = FALLOC_FL_KEEP_SIZE;

  uring::ResultOperation Fallocate(int mode, const Request& request) {
    return ring_->Fallocate(file_, mode, request.offset_bytes, request.length_bytes);
  }

  uring::Ring* ring_;
  uring::File file_;
  bool can_zero_range_;
};

inline absl::StatusOr<FileTarget::Queue> FileTarget::OpenQueue(uring::Ring& ring) {
  return Queue(ring, backing_);
}

}  // namespace ublkd::target
