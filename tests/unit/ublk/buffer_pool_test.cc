// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/buffer_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

namespace ublkd::ublk {
namespace {

size_t ResidentBytes() {
  size_t total_pages = 0;
  size_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;
  return resident_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

/// Of one buffer. A sanitizer's own memory for it is not in that.
size_t ResidentBytes(std::byte* buffer, size_t bytes) {
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(bytes / page_bytes);
  EXPECT_EQ(mincore(buffer, bytes, pages.data()), 0);
  return page_bytes * static_cast<size_t>(std::count_if(
                          pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
}

TEST(BufferPool, UntouchedBuffersCostNoMemory) {
  const size_t before_bytes = ResidentBytes();
  auto pool = BufferPool::Create(128, 512 << 10);
  ASSERT_TRUE(pool.ok()) << pool.status();
  EXPECT_LT(ResidentBytes() - before_bytes, size_t{512} << 10);
  (*pool)[77][0] = std::byte{1};
  EXPECT_LT(ResidentBytes() - before_bytes, size_t{512} << 10) << "one page, not a huge one";
}

TEST(BufferPool, WhatIsGivenBackCostsNothingAndCanBeUsedAgain) {
  constexpr size_t kBufferBytes = 512 << 10;
  auto pool = BufferPool::Create(16, kBufferBytes);
  ASSERT_TRUE(pool.ok()) << pool.status();
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < 16; ++i) std::memset((*pool)[i], 0x5a, kBufferBytes);
    EXPECT_EQ(ResidentBytes((*pool)[7], kBufferBytes), kBufferBytes);
    pool->GiveBack(8192);
    EXPECT_EQ(ResidentBytes((*pool)[7], kBufferBytes), 8192u);
    EXPECT_EQ(ResidentBytes((*pool)[15], kBufferBytes), 8192u);
  }
  EXPECT_EQ((*pool)[7][8191], std::byte{0x5a});
  EXPECT_EQ((*pool)[7][8192], std::byte{0});
  EXPECT_EQ((*pool)[15][kBufferBytes - 1], std::byte{0});
  BufferPool().GiveBack(0);
}

TEST(BufferPool, BuffersAreAlignedAndApart) {
  auto made = BufferPool::Create(4, 8192);
  ASSERT_TRUE(made.ok()) << made.status();
  const BufferPool pool = *std::move(made);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool[i]) % 4096, 0u);
    std::memset(pool[i], static_cast<int>(i), 8192);
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(pool[i][8191], std::byte(i));
}

}  // namespace
}  // namespace ublkd::ublk
