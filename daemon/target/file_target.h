// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>

#include <cerrno>
#include <coroutine>
#include <cstdint>
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
        fd_(backing.fd.get()),
        file_(ring.RegisterFile(fd_)),
        can_zero_range_(backing.can_zero_range),
        keep_space_(backing.keep_space) {}

  /// A write, or EIO without one.
  class CheckedWrite {
   public:
    CheckedWrite(bool fits, uring::Ring& ring, uring::File file, const Request& request)
        : fits_(fits),
          write_(ring.Write(file, request.buffer, request.offset_bytes,
                            request.fua ? RWF_DSYNC : 0)) {}

    bool await_ready() const noexcept { return !fits_; }
    void await_suspend(std::coroutine_handle<> waiter) { write_.await_suspend(waiter); }
    Result await_resume() const noexcept {
      return fits_ ? write_.await_resume() : Result::Error(EIO);
    }

   private:
    bool fits_;
    uring::TransferOperation write_;
  };

  auto Read(const Request& request) {
    return ring_->Read(file_, request.buffer, request.offset_bytes);
  }

  CheckedWrite Write(const Request& request) {
    return CheckedWrite(Fits(request), *ring_, file_, request);
  }

  auto Flush(const Request&) { return ring_->DataSync(file_); }

  uring::Task<Result> Discard(const Request& request) {
    if (keep_space_) co_return kUnsupported;
    co_return co_await Fallocate(kPunchHole, request);
  }

  uring::Task<Result> WriteZeroes(const Request& request) {
    if (!Fits(request)) co_return Result::Error(EIO);
    const bool keep = request.no_unmap || keep_space_;
    if (keep && can_zero_range_) co_return co_await Fallocate(kZeroRange, request);
    // In between the space would be anybody's.
    if (keep_space_) co_return kUnsupported;
    const Result punched = co_await Fallocate(kPunchHole, request);
    if (!punched.ok() || !request.no_unmap) co_return punched;
    co_return co_await Fallocate(kAllocate, request);
  }

 private:
  static constexpr Result kUnsupported = Result::Error(EOPNOTSUPP);
  static constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  static constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  static constexpr int kAllocate = FALLOC_FL_KEEP_SIZE;

  /// How old the knowledge of the file's size may be.
  static constexpr uint64_t kLookPeriodNs = 100'000'000;

  /// False when somebody has cut the file off before the end of the request. A write there would
  /// make it longer again, and what was lost would read as zeroes.
  bool Fits(const Request& request) {
    const uint64_t end_bytes = request.offset_bytes + request.length_bytes;
    // A system call in a hundred milliseconds; with a clock that is not read (see Ring), none. It
    // may have grown since.
    if (ring_->batch_ns() - looked_ns_ >= kLookPeriodNs || end_bytes > end_bytes_) [[unlikely]] {
      looked_ns_ = ring_->batch_ns();
      end_bytes_ = EndOfFile(fd_);
    }
    return end_bytes <= end_bytes_;
  }

  uring::ResultOperation Fallocate(int mode, const Request& request) {
    return ring_->Fallocate(file_, mode, request.offset_bytes, request.length_bytes);
  }

  uring::Ring* ring_;
  int fd_;
  uring::File file_;
  bool can_zero_range_;
  bool keep_space_;
  uint64_t end_bytes_ = kNoEnd;
  uint64_t looked_ns_ = 0;
};

inline absl::StatusOr<FileTarget::Queue> FileTarget::OpenQueue(uring::Ring& ring) {
  return Queue(ring, backing_);
}

}  // namespace ublkd::target
