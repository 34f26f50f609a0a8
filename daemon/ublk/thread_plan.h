// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sched.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ublkd::ublk {

/// Tags of one hardware queue: first, first + stride, ... `count` of them.
struct TagRange {
  uint16_t queue = 0;
  uint16_t first = 0;
  uint16_t stride = 1;
  uint16_t count = 0;
};

/// What one queue thread serves, and where it runs.
struct ThreadSpec {
  std::string name;
  std::vector<TagRange> tags;
  /// Empty: anywhere.
  cpu_set_t cpus = {};
};

/// One thread for each queue, or `threads_per_queue` that share its tags like a comb.
/// `affinity[n]` are the CPUs of queue n, where its threads run if it has one for each of them.
std::vector<ThreadSpec> PlanThreads(uint32_t device_id, uint16_t depth, uint16_t threads_per_queue,
                                    const std::vector<cpu_set_t>& affinity);

}  // namespace ublkd::ublk
