// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace ublkd::volume {

/// Calls `work` with each item, for at most this many at a time, and returns when all is done. For
/// work that waits for the kernel.
template <typename Item, typename Work>
void ForEachInParallel(std::vector<Item>& items, Work work) {
  constexpr size_t kMaxThreads = 16;
  std::atomic<size_t> next = 0;
  const auto run = [&] {
    for (size_t i = next++; i < items.size(); i = next++) work(items[i]);
  };
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < std::min(items.size(), kMaxThreads); ++i) threads.emplace_back(run);
  } catch (const std::system_error&) {
    // There may be no more threads: those that are there do the work.
  }
  run();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace ublkd::volume
