// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/engine/verified_load.h"

#include <fcntl.h>
#include <unistd.h>

#include <random>

#include "daemon/base/file.h"

namespace ublkd {

VerifiedLoad::VerifiedLoad(const std::string& disk, uint64_t size_bytes, int threads,
                           uint64_t begin_bytes) {
  const size_t blocks = size_bytes / kBlockBytes / static_cast<size_t>(threads);
  for (int i = 0; i < threads; ++i) {
    const uint64_t begin = begin_bytes + static_cast<uint64_t>(i) * blocks * kBlockBytes;
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
  alignas(kBlockBytes) uint64_t block[kBlockBytes / sizeof(uint64_t)] = {};
  std::vector<uint64_t> versions(blocks);
  std::mt19937_64 random(begin_bytes);
  while (!stop_) {
    const size_t n = random() % blocks;
    const auto at = static_cast<off_t>(begin_bytes + n * kBlockBytes);
    if (random() % 2 == 0) {
      block[0] = static_cast<uint64_t>(at);
      block[1] = versions[n] + 1;
      if (pwrite(fd.get(), block, kBlockBytes, at) != kBlockBytes) ++errors_;
      ++versions[n];
    } else if (pread(fd.get(), block, kBlockBytes, at) != kBlockBytes) {
      ++errors_;
    } else if (block[1] != versions[n] ||
               (versions[n] != 0 && block[0] != static_cast<uint64_t>(at))) {
      ++wrong_;
    }
    ++done_;
  }
}

}  // namespace ublkd
