// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/stats.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace ublkd::ublk {
namespace {

TEST(Stats, AnswersAreCountedOnce) {
  QueueCounters counters;
  counters.Start(Op::kRead);
  counters.Start(Op::kRead);
  counters.Start(Op::kWrite);
  counters.Finish(Op::kRead, 4096, /*failed=*/false, 20'000);
  counters.Finish(Op::kWrite, 512, /*failed=*/true, 40'000'000'000);
  counters.AddBusy(5);
  counters.AddException();
  QueueStats stats;
  counters.AddTo(stats);
  EXPECT_EQ(stats[Op::kRead].ios, 1u);
  EXPECT_EQ(stats[Op::kRead].bytes, 4096u);
  EXPECT_EQ(stats[Op::kRead].in_flight, 1u);
  EXPECT_EQ(stats[Op::kRead].latency_sum_ns, 20'000u);
  EXPECT_EQ(stats[Op::kWrite].errors, 1u);
  EXPECT_EQ(stats[Op::kWrite].bytes, 0u) << "what failed has moved nothing";
  EXPECT_EQ(stats.in_flight(), 1u);
  EXPECT_EQ(stats.busy_ns, 5u);
  EXPECT_EQ(stats.exceptions, 1u);
}

TEST(Stats, WaitingForALimitIsCountedOnItsOwn) {
  QueueCounters counters;
  counters.Start(Op::kRead);
  counters.AddThrottled(Op::kRead, 700);
  counters.AddThrottled(Op::kRead, 300);
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

TEST(Stats, BoundsBelongToTheirBucket) {
  for (size_t i = 0; i < kLatencyBoundsNs.size(); ++i) {
    QueueCounters counters;
    counters.Finish(Op::kRead, 0, false, kLatencyBoundsNs[i]);
    counters.Finish(Op::kRead, 0, false, kLatencyBoundsNs[i] + 1);
    QueueStats stats;
    counters.AddTo(stats);
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
  QueueCounters counters;
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    while (!stop) {
      counters.Start(Op::kRead);
      counters.Finish(Op::kRead, 1, false, 1);
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
