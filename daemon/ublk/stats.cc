// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/stats.h"

#include <algorithm>
#include <cerrno>

#include "daemon/uring/clock.h"

namespace ublkd::ublk {
namespace {

/// The low bits of Words::last_error, which the kernel's errnos fit in.
constexpr uint64_t kErrnoMask = 0xfff;

ErrorKind KindOf(int error_number) {
  switch (DiskErrno(error_number)) {
    case EIO:
      return error_number == EIO ? ErrorKind::kIo : ErrorKind::kOther;
    case ENOSPC:
      return ErrorKind::kNoSpace;
    default:
      return ErrorKind::kOther;
  }
}

void Add(const OpStats& from, OpStats& into) {
  into.ios += from.ios;
  into.bytes += from.bytes;
  into.errors += from.errors;
  for (size_t i = 0; i < kErrorKindCount; ++i) into.errors_by_kind[i] += from.errors_by_kind[i];
  if (from.last_error_ns > into.last_error_ns) {
    into.last_errno = from.last_errno;
    into.last_error_ns = from.last_error_ns;
  }
  into.in_flight += from.in_flight;
  into.latency_sum_ns += from.latency_sum_ns;
  into.throttled_ios += from.throttled_ios;
  into.throttled_ns += from.throttled_ns;
  for (size_t i = 0; i < kLatencyBucketCount; ++i) {
    into.latency_buckets[i] += from.latency_buckets[i];
  }
}

}  // namespace

absl::string_view OpName(Op op) {
  switch (op) {
    case Op::kRead:
      return "read";
    case Op::kWrite:
      return "write";
    case Op::kFlush:
      return "flush";
    case Op::kDiscard:
      return "discard";
    case Op::kWriteZeroes:
      return "write_zeroes";
  }
  return "unknown";
}

absl::string_view ErrorKindName(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kIo:
      return "EIO";
    case ErrorKind::kNoSpace:
      return "ENOSPC";
    case ErrorKind::kOther:
      return "other";
  }
  return "other";
}

int DiskErrno(int error_number) {
  switch (error_number) {
    case 0:
    case ENOSPC:
    // What the disk cannot do at all: the kernel goes another way.
    case EOPNOTSUPP:
    case ETIMEDOUT:
    // Lost on the way to the disk, by the disk, on its medium, or found damaged.
    case ENOLINK:
    case EREMOTEIO:
    case ENODATA:
    case EILSEQ:
      return error_number;
    case EDQUOT:
      return ENOSPC;
    default:
      // EAGAIN and EINVAL, say, would tell the user of the disk that its own request was wrong.
      return EIO;
  }
}

uint64_t QueueStats::in_flight() const {
  uint64_t sum = 0;
  for (const OpStats& op : ops) sum += op.in_flight;
  return sum;
}

OpStats DeviceStats::Total(Op op) const {
  OpStats total;
  for (const QueueStats& queue : queues) Add(queue[op], total);
  return total;
}

uint64_t DeviceStats::oldest_request_ns() const {
  uint64_t oldest = 0;
  for (const QueueStats& queue : queues) oldest = std::max(oldest, queue.oldest_request_ns);
  return oldest;
}

uint64_t DeviceStats::in_flight() const {
  uint64_t sum = 0;
  for (const QueueStats& queue : queues) sum += queue.in_flight();
  return sum;
}

void QueueCounters::CountError(Words& words, int error_number, uint64_t now_ns) {
  words.errors_by_kind[static_cast<size_t>(KindOf(error_number))].Add(1);
  words.last_error.store((now_ns & ~kErrnoMask) | static_cast<uint64_t>(error_number),
                         std::memory_order_relaxed);
  // Last, so that who sees the error also sees what it was.
  words.errors.Add(1);
}

void QueueCounters::AddTo(QueueStats& into) const {
  for (size_t i = 0; i < kOpCount; ++i) {
    const Words& words = ops_[i];
    OpStats op;
    // Answered is read before started, so that the difference is never negative.
    op.ios = words.ios.Read();
    const uint64_t started = words.started.Read();
    op.in_flight = started > op.ios ? started - op.ios : 0;
    op.bytes = words.bytes.Read();
    op.errors = words.errors.Read();
    for (size_t kind = 0; kind < kErrorKindCount; ++kind) {
      op.errors_by_kind[kind] = words.errors_by_kind[kind].Read();
    }
    const uint64_t last_error = words.last_error.load(std::memory_order_relaxed);
    op.last_errno = static_cast<int>(last_error & kErrnoMask);
    op.last_error_ns = last_error & ~kErrnoMask;
    op.latency_sum_ns = words.latency_sum_ns.Read();
    op.throttled_ios = words.throttled_ios.Read();
    op.throttled_ns = words.throttled_ns.Read();
    for (size_t bucket = 0; bucket < kLatencyBucketCount; ++bucket) {
      op.latency_buckets[bucket] = words.latency_buckets[bucket].Read();
    }
    Add(op, into.ops[i]);
  }
  // The clock is read after the times, so that none of them is in its future.
  uint64_t oldest_ns = 0;
  for (const std::atomic<uint64_t>& since : held_since_ns_) {
    const uint64_t since_ns = since.load(std::memory_order_relaxed);
    if (since_ns != 0 && (oldest_ns == 0 || since_ns < oldest_ns)) oldest_ns = since_ns;
  }
  if (oldest_ns != 0) {
    into.oldest_request_ns = std::max(into.oldest_request_ns, uring::MonotonicNs() - oldest_ns);
  }
  into.busy_ns = std::max(into.busy_ns, busy_ns_.Read());
  into.exceptions += exceptions_.Read();
}

}  // namespace ublkd::ublk
