// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace ublkd {

/// Writers that check what they read, each in blocks of its own, from its making to Finish.
class VerifiedLoad {
 public:
  /// In `size_bytes` of the disk, zeroes so far, from `begin_bytes` on.
  VerifiedLoad(const std::string& disk, uint64_t size_bytes, int threads, uint64_t begin_bytes = 0,
               size_t block_bytes = 4096);
  ~VerifiedLoad() { Finish(); }

  /// Ends the load.
  void Finish();
  int done() const { return done_; }
  int errors() const { return errors_; }
  int wrong() const { return wrong_; }

 private:
  void Run(const std::string& disk, uint64_t begin_bytes, size_t blocks);

  const size_t block_bytes_;
  std::atomic<bool> stop_ = false;
  std::atomic<int> done_ = 0;
  std::atomic<int> errors_ = 0;
  std::atomic<int> wrong_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace ublkd
