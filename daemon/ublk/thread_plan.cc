// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/thread_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ublkd::ublk {

std::vector<ThreadSpec> PlanThreads(uint32_t device_id, uint16_t depth, uint16_t threads_per_queue,
                                    const std::vector<cpu_set_t>& affinity) {
  const uint16_t comb = std::clamp<uint16_t>(threads_per_queue, 1, depth);
  std::vector<ThreadSpec> plan;
  const auto queues = static_cast<uint16_t>(affinity.size());
  for (uint16_t queue = 0; queue < queues; ++queue) {
    const bool crowded = comb > std::max(CPU_COUNT(&affinity[queue]), 1);
    for (uint16_t first = 0; first < comb; ++first) {
      const auto count = static_cast<uint16_t>((depth - first + comb - 1) / comb);
      const std::string name = absl::StrCat("ublk", device_id, "-q", queue);
      plan.push_back({.name = comb == 1 ? name : absl::StrCat(name, ".", first),
                      .tags = {{.queue = queue, .first = first, .stride = comb, .count = count}},
                      .cpus = crowded ? cpu_set_t() : affinity[queue]});
    }
  }
  return plan;
}

}  // namespace ublkd::ublk
