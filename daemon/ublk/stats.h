// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

/// Counters of a device. A queue thread writes plain words that belong to it alone; any other
/// thread reads them at any time without a lock, so a scrape is answered while a backend hangs.
///
/// Rule: `ios` and `bytes` equal the deltas of /proc/diskstats, whose writes are our writes, our
/// write-zeroes, and an empty write for each flush that somebody asked for.
namespace ublkd::ublk {

enum class Op : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };
inline constexpr size_t kOpCount = 5;
inline constexpr std::array<Op, kOpCount> kAllOps = {Op::kRead, Op::kWrite, Op::kFlush,
                                                     Op::kDiscard, Op::kWriteZeroes};

/// "read", "write", "flush", "discard", "write_zeroes".
absl::string_view OpName(Op op);

/// Errors by what an operator does about them: look at the disk below, make room, or read the log.
enum class ErrorKind : uint8_t { kIo, kNoSpace, kOther };
inline constexpr size_t kErrorKindCount = 3;
inline constexpr std::array<ErrorKind, kErrorKindCount> kAllErrorKinds = {
    ErrorKind::kIo, ErrorKind::kNoSpace, ErrorKind::kOther};

/// "EIO", "ENOSPC", "other".
absl::string_view ErrorKindName(ErrorKind kind);

/// What a positive errno of a target is to the kernel: the errno that a user of the disk gets. Only
/// errnos of disks pass; a full quota is a full disk, all else is EIO.
int DiskErrno(int error_number);

/// Upper bounds of the latency buckets, in nanoseconds; one more bucket follows for what is slower.
inline constexpr std::array<uint64_t, 20> kLatencyBoundsNs = {
    10'000,        25'000,        50'000,        100'000,        250'000,
    500'000,       1'000'000,     2'500'000,     5'000'000,      10'000'000,
    25'000'000,    50'000'000,    100'000'000,   250'000'000,    500'000'000,
    1'000'000'000, 2'500'000'000, 5'000'000'000, 10'000'000'000, 30'000'000'000};
inline constexpr size_t kLatencyBucketCount = kLatencyBoundsNs.size() + 1;

/// A snapshot of the counters of one operation.
struct OpStats {
  /// Requests answered, with success or not.
  uint64_t ios = 0;
  /// Bytes of the requests that succeeded (for discard and write-zeroes: the length of the range).
  uint64_t bytes = 0;
  /// Requests answered with an error.
  uint64_t errors = 0;
  std::array<uint64_t, kErrorKindCount> errors_by_kind = {};
  /// Of the last error: the positive errno, as the target gave it, and the time by CLOCK_MONOTONIC
  /// (to some microseconds); 0 without one.
  int last_errno = 0;
  uint64_t last_error_ns = 0;
  /// Requests that are held now, by the target or for a limit.
  uint64_t in_flight = 0;
  /// Requests by the time the target took, not cumulative; the last is beyond all bounds.
  std::array<uint64_t, kLatencyBucketCount> latency_buckets = {};
  uint64_t latency_sum_ns = 0;
  /// Requests that had to wait for a limit of the device before the target got them, and how long;
  /// counted when the wait is over, and no part of the latency.
  uint64_t throttled_ios = 0;
  uint64_t throttled_ns = 0;
};

/// A snapshot of one hardware queue.
struct QueueStats {
  std::array<OpStats, kOpCount> ops = {};
  /// Time during which at least one request was held; of threads that share the queue, by the
  /// busiest.
  uint64_t busy_ns = 0;
  /// How long the target has held the oldest of its requests; 0 when it holds none.
  uint64_t oldest_request_ns = 0;
  /// Exceptions that escaped from the target; each was answered with EIO.
  uint64_t exceptions = 0;

  const OpStats& operator[](Op op) const { return ops[static_cast<size_t>(op)]; }
  /// Requests of all operations held now.
  uint64_t in_flight() const;
};

/// A snapshot of a device; `queues[n]` is hardware queue n.
struct DeviceStats {
  std::vector<QueueStats> queues;

  /// The sum over the queues.
  OpStats Total(Op op) const;
  /// Of all queues.
  uint64_t oldest_request_ns() const;
  uint64_t in_flight() const;
};

/// A 64-bit counter with one writer: adding is a plain load and store, no locked instruction. Who
/// sees a count also sees what was counted before it.
class Counter {
 public:
  /// Only by the writing thread.
  void Add(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_release);
  }
  /// Any thread.
  uint64_t Read() const { return value_.load(std::memory_order_acquire); }

 private:
  std::atomic<uint64_t> value_ = 0;
};

inline constexpr size_t kCacheLineBytes = 64;

/// The live counters of one queue as far as one thread serves it. Times are CLOCK_MONOTONIC.
class alignas(kCacheLineBytes) QueueCounters {
 public:
  /// `depth`: tags of the queue.
  explicit QueueCounters(uint16_t depth) : held_since_ns_(depth + 2 * kCacheLineWords) {}

  /// The writing thread: a request of a tag has come, and the target gets it.
  void Start(Op op, uint16_t tag, uint64_t now_ns) {
    ops_[static_cast<size_t>(op)].started.Add(1);
    held_since_ns_[kCacheLineWords + tag].store(now_ns, std::memory_order_relaxed);
  }

  /// The writing thread: the target has answered, with a positive errno or 0. `bytes` counts only
  /// without an error.
  void Finish(Op op, uint16_t tag, uint64_t bytes, int error_number, uint64_t now_ns) {
    Words& words = ops_[static_cast<size_t>(op)];
    const uint64_t latency_ns =
        now_ns - held_since_ns_[kCacheLineWords + tag].load(std::memory_order_relaxed);
    held_since_ns_[kCacheLineWords + tag].store(0, std::memory_order_relaxed);
    words.ios.Add(1);
    if (error_number != 0) [[unlikely]] {
      CountError(words, error_number, now_ns);
    } else {
      words.bytes.Add(bytes);
    }
    words.latency_sum_ns.Add(latency_ns);
    size_t bucket = 0;
    while (bucket < kLatencyBoundsNs.size() && latency_ns > kLatencyBoundsNs[bucket]) ++bucket;
    words.latency_buckets[bucket].Add(1);
  }

  /// The writing thread: a request waits for a limit, and the target does not hold it yet.
  void HoldBack(uint16_t tag) {
    held_since_ns_[kCacheLineWords + tag].store(0, std::memory_order_relaxed);
  }
  /// The writing thread: it has waited that long, and now the target gets it.
  void LetPass(Op op, uint16_t tag, uint64_t waited_ns, uint64_t now_ns) {
    Words& words = ops_[static_cast<size_t>(op)];
    words.throttled_ios.Add(1);
    words.throttled_ns.Add(waited_ns);
    held_since_ns_[kCacheLineWords + tag].store(now_ns, std::memory_order_relaxed);
  }

  void AddBusy(uint64_t ns) { busy_ns_.Add(ns); }
  void AddException() { exceptions_.Add(1); }

  /// Any thread: requests that have come, of all operations.
  uint64_t Started() const {
    uint64_t sum = 0;
    for (const Words& words : ops_) sum += words.started.Read();
    return sum;
  }

  /// Any thread: adds what is counted here to `into`.
  void AddTo(QueueStats& into) const;

 private:
  struct Words {
    Counter started;
    Counter ios;
    Counter bytes;
    Counter errors;
    std::array<Counter, kErrorKindCount> errors_by_kind;
    /// Time and errno in one word, so that they belong together.
    std::atomic<uint64_t> last_error = 0;
    Counter latency_sum_ns;
    std::array<Counter, kLatencyBucketCount> latency_buckets;
    Counter throttled_ios;
    Counter throttled_ns;
  };
  static void CountError(Words& words, int error_number, uint64_t now_ns);

  std::array<Words, kOpCount> ops_;
  Counter busy_ns_;
  Counter exceptions_;
  static constexpr size_t kCacheLineWords = kCacheLineBytes / sizeof(uint64_t);
  /// By tag; 0 when the target does not hold it. A cache line at each end is not used: nobody
  /// else's memory lies in those that are.
  std::vector<std::atomic<uint64_t>> held_since_ns_;
};

}  // namespace ublkd::ublk
