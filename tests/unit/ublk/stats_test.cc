// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/stats.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <thread>

#include "daemon/uring/clock.h"

namespace ublkd::ublk {
namespace {

constexpr uint16_t kDepth = 8;

QueueStats Read(const QueueCounters& counters) {
  QueueStats stats;
  counters.AddTo(stats);
  return stats;
}

TEST(Stats, AnswersAreCountedOnce) {
  QueueCounters counters(kDepth);
  counters.Start(Op::kRead, 0, 1000);
  counters.Start(Op::kRead, 1, 1000);
  counters.Start(Op::kWrite, 2, 1000);
  counters.Finish(Op::kRead, 0, 4096, 0, 21'000);
  counters.Finish(Op::kWrite, 2, 512, EIO, 40'000'000'000);
  counters.AddBusy(5);
  counters.AddException();
  const QueueStats stats = Read(counters);
  EXPECT_EQ(stats[Op::kRead].ios, 1u);
  EXPECT_EQ(stats[Op::kRead].bytes, 4096u);
  EXPECT_EQ(stats[Op::kRead].errors, 0u);
  EXPECT_EQ(stats[Op::kRead].in_flight, 1u);
  EXPECT_EQ(stats[Op::kRead].latency_sum_ns, 20'000u);
  EXPECT_EQ(stats[Op::kWrite].errors, 1u);
  EXPECT_EQ(stats[Op::kWrite].bytes, 0u) << "what failed has moved nothing";
  EXPECT_EQ(stats.in_flight(), 1u);
  EXPECT_EQ(stats.busy_ns, 5u);
  EXPECT_EQ(stats.exceptions, 1u);
}

TEST(Stats, WaitingForALimitIsCountedOnItsOwn) {
  QueueCounters counters(kDepth);
  counters.Start(Op::kRead, 1, 1000);
  counters.HoldBack(1);
  EXPECT_EQ(Read(counters).oldest_request_ns, 0u) << "the target does not have it yet";
  counters.LetPass(Op::kRead, 1, 700, 1700);
  counters.HoldBack(1);
  counters.LetPass(Op::kRead, 1, 300, 2000);
  DeviceStats stats;
  stats.queues.resize(2);
  for (QueueStats& queue : stats.queues) counters.AddTo(queue);
  EXPECT_EQ(stats.queues[0][Op::kRead].throttled_ios, 2u);
  EXPECT_EQ(stats.queues[0][Op::kRead].throttled_ns, 1000u);
  EXPECT_EQ(stats.queues[0][Op::kRead].latency_sum_ns, 0u);
  EXPECT_EQ(stats.Total(Op::kRead).throttled_ios, 4u);
  EXPECT_EQ(stats.Total(Op::kRead).throttled_ns, 2000u);
  EXPECT_EQ(stats.Total(Op::kWrite).throttled_ios, 0u);
}

TEST(Stats, ErrorsAreKnownByKindAndTheLastByItsErrno) {
  QueueCounters counters(kDepth);
  uint64_t now_ns = 1'000'000'000;
  for (const int error : {EIO, ENOSPC, EDQUOT, EINVAL, ENOSPC}) {
    counters.Start(Op::kWrite, 3, now_ns);
    counters.Finish(Op::kWrite, 3, 512, error, now_ns += 1'000'000);
  }
  QueueCounters other(kDepth);
  other.Start(Op::kWrite, 0, 1);
  other.Finish(Op::kWrite, 0, 512, EIO, now_ns / 2);
  DeviceStats stats;
  stats.queues = {Read(counters), Read(other)};
  const OpStats total = stats.Total(Op::kWrite);
  EXPECT_EQ(total.errors, 6u);
  EXPECT_EQ(total.errors_by_kind[static_cast<size_t>(ErrorKind::kIo)], 2u);
  EXPECT_EQ(total.errors_by_kind[static_cast<size_t>(ErrorKind::kNoSpace)], 3u);
  EXPECT_EQ(total.errors_by_kind[static_cast<size_t>(ErrorKind::kOther)], 1u);
  EXPECT_EQ(total.last_errno, ENOSPC) << "that of the queue whose error is the latest";
  EXPECT_LE(now_ns - total.last_error_ns, 4096u);
  EXPECT_EQ(stats.Total(Op::kRead).last_errno, 0);
}

TEST(Stats, OnlyErrnosOfADiskReachItsUsers) {
  for (const int error : {0, EIO, ENOSPC, ETIMEDOUT, EOPNOTSUPP, EILSEQ, ENODATA}) {
    EXPECT_EQ(DiskErrno(error), error);
  }
  EXPECT_EQ(DiskErrno(EDQUOT), ENOSPC) << "the filesystem above knows what to do about that";
  for (const int error : {EAGAIN, EINTR, ENOMEM, EINVAL, EBADF, EFBIG, EBUSY, 4095}) {
    EXPECT_EQ(DiskErrno(error), EIO);
  }
}

TEST(Stats, TheOldestRequestIsFound) {
  QueueCounters counters(kDepth);
  EXPECT_EQ(Read(counters).oldest_request_ns, 0u);
  const uint64_t now_ns = uring::MonotonicNs();
  // The machine may have started a minute ago.
  const uint64_t age_ns = now_ns / 4;
  counters.Start(Op::kRead, 5, now_ns - age_ns);
  counters.Start(Op::kWrite, 2, now_ns - 2 * age_ns);
  EXPECT_GE(Read(counters).oldest_request_ns, 2 * age_ns);
  counters.Finish(Op::kWrite, 2, 512, 0, now_ns);
  EXPECT_GE(Read(counters).oldest_request_ns, age_ns);
  EXPECT_LT(Read(counters).oldest_request_ns, 2 * age_ns);
  DeviceStats stats;
  stats.queues = {QueueStats(), Read(counters)};
  EXPECT_GE(stats.oldest_request_ns(), age_ns);
  EXPECT_EQ(stats.in_flight(), 1u);
  counters.Finish(Op::kRead, 5, 512, EIO, now_ns);
  EXPECT_EQ(Read(counters).oldest_request_ns, 0u);
}

TEST(Stats, BoundsBelongToTheirBucket) {
  for (size_t i = 0; i < kLatencyBoundsNs.size(); ++i) {
    QueueCounters counters(kDepth);
    for (const uint64_t more : {0, 1}) {
      counters.Start(Op::kRead, 0, 1);
      counters.Finish(Op::kRead, 0, 0, 0, 1 + kLatencyBoundsNs[i] + more);
    }
    const QueueStats stats = Read(counters);
    EXPECT_EQ(stats[Op::kRead].latency_buckets[i], 1u) << "at most " << kLatencyBoundsNs[i];
    EXPECT_EQ(stats[Op::kRead].latency_buckets[i + 1], 1u) << "more than " << kLatencyBoundsNs[i];
  }
}

TEST(Stats, TotalsAreOverQueues) {
  DeviceStats stats;
  stats.queues.resize(3);
  for (QueueStats& queue : stats.queues) queue.ops[static_cast<size_t>(Op::kFlush)].ios = 2;
  EXPECT_EQ(stats.Total(Op::kFlush).ios, 6u);
  EXPECT_EQ(stats.Total(Op::kRead).ios, 0u);
}

TEST(Stats, ReadersSeeASaneStateWhileItIsWritten) {
  QueueCounters counters(kDepth);
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    while (!stop) {
      counters.Start(Op::kRead, 1, 1);
      counters.Finish(Op::kRead, 1, 1, 0, 2);
    }
  });
  uint64_t last = 0;
  for (int i = 0; i < 10'000; ++i) {
    QueueStats stats;
    counters.AddTo(stats);
    EXPECT_GE(stats[Op::kRead].ios, last) << "a counter never goes back";
    last = stats[Op::kRead].ios;
  }
  stop = true;
  writer.join();
}

}  // namespace
}  // namespace ublkd::ublk
