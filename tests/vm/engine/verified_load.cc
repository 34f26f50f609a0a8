// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/engine/verified_load.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>

#include "daemon/base/file.h"

namespace ublkd {
namespace {

constexpr size_t kAlignment = 4096;

}  // namespace

VerifiedLoad::VerifiedLoad(const std::string& disk, uint64_t size_bytes, int threads,
                           uint64_t begin_bytes, size_t block_bytes)
    : block_bytes_(block_bytes) {
  const size_t blocks = size_bytes / block_bytes / static_cast<size_t>(threads);
  for (int i = 0; i < threads; ++i) {
    const uint64_t begin = begin_bytes + static_cast<uint64_t>(i) * blocks * block_bytes;
    threads_.emplace_back([this, disk, begin, blocks] { Run(disk, begin, blocks); });
  }
}

void VerifiedLoad::Finish() {
  stop_ = true;
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void VerifiedLoad::Run(const std::string& disk, uint64_t begin_bytes, size_t blocks) {
  const UniqueFd fd(open(disk.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  const std::unique_ptr<void, decltype(&std::free)> memory(
      std::aligned_alloc(kAlignment, block_bytes_), &std::free);
  const size_t words = block_bytes_ / sizeof(uint64_t);
  auto* const block = static_cast<uint64_t*>(memory.get());
  std::fill_n(block, words, 0);
  // Where it belongs, at the start; how often it was written, behind that and at the end.
  uint64_t& place = block[0];
  uint64_t& version = block[1];
  uint64_t& last = block[words - 1];
  std::vector<uint64_t> versions(blocks);
  std::mt19937_64 random(begin_bytes);
  const auto bytes = static_cast<ssize_t>(block_bytes_);
  while (!stop_) {
    const size_t n = random() % blocks;
    const auto at = static_cast<off_t>(begin_bytes + n * block_bytes_);
    if (random() % 2 == 0) {
      place = static_cast<uint64_t>(at);
      version = last = ++versions[n];
      if (pwrite(fd.get(), block, block_bytes_, at) != bytes) ++errors_;
    } else if (pread(fd.get(), block, block_bytes_, at) != bytes) {
      ++errors_;
    } else if (version != versions[n] || last != versions[n] ||
               (versions[n] != 0 && place != static_cast<uint64_t>(at))) {
      ++wrong_;
    }
    ++done_;
  }
}

}  // namespace ublkd
