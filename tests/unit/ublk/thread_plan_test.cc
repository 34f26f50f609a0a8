// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/thread_plan.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace ublkd::ublk {
namespace {

TEST(ThreadPlan, OneThreadServesOneQueue) {
  std::vector<cpu_set_t> affinity(4);
  CPU_SET(3, &affinity[3]);
  const auto plan = PlanThreads(12, 128, 1, affinity);
  ASSERT_EQ(plan.size(), 4u);
  EXPECT_EQ(plan[3].name, "ublk12-q3");
  ASSERT_EQ(plan[3].tags.size(), 1u);
  EXPECT_EQ(plan[3].tags[0].queue, 3);
  EXPECT_EQ(plan[3].tags[0].count, 128);
  EXPECT_TRUE(CPU_ISSET(3, &plan[3].cpus));
}

TEST(ThreadPlan, ThreadsOfAQueueRunOnItsCpusIfThoseAreEnough) {
  std::vector<cpu_set_t> affinity(1);
  CPU_SET(3, &affinity[0]);
  CPU_SET(5, &affinity[0]);
  EXPECT_EQ(CPU_COUNT(&PlanThreads(0, 128, 2, affinity)[1].cpus), 2);
  EXPECT_EQ(CPU_COUNT(&PlanThreads(0, 128, 3, affinity)[1].cpus), 0) << "anywhere";
}

TEST(ThreadPlan, EveryTagIsServedOnce) {
  for (const uint16_t threads : {1, 2, 3, 7, 10}) {
    constexpr uint16_t kQueues = 2;
    constexpr uint16_t kDepth = 10;
    std::set<std::pair<int, int>> served;
    for (const ThreadSpec& spec :
         PlanThreads(0, kDepth, threads, std::vector<cpu_set_t>(kQueues))) {
      for (const TagRange& range : spec.tags) {
        for (int n = 0; n < range.count; ++n) {
          const int tag = range.first + n * range.stride;
          EXPECT_LT(tag, kDepth);
          EXPECT_TRUE(served.emplace(range.queue, tag).second) << "tag " << tag << " served twice";
        }
      }
    }
    EXPECT_EQ(served.size(), size_t{kQueues} * kDepth) << threads << " threads a queue";
  }
}

}  // namespace
}  // namespace ublkd::ublk
