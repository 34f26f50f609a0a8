// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/stats.h"

namespace ublkd::ublk {
namespace {

void Add(const OpStats& from, OpStats& into) {
  into.ios += from.ios;
  into.bytes += from.bytes;
  into.errors += from.errors;
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
    op.latency_sum_ns = words.latency_sum_ns.Read();
    op.throttled_ios = words.throttled_ios.Read();
    op.throttled_ns = words.throttled_ns.Read();
    for (size_t bucket = 0; bucket < kLatencyBucketCount; ++bucket) {
      op.latency_buckets[bucket] = words.latency_buckets[bucket].Read();
    }
    Add(op, into.ops[i]);
  }
  into.busy_ns += busy_ns_.Read();
  into.exceptions += exceptions_.Read();
}

}  // namespace ublkd::ublk
