// SPDX-License-Identifier: Apache-2.0
//
// Buffers for commands, whose bytes may change while the kernel reads them.
#ifndef UBLKD_TESTS_VM_FUZZ_RACING_MEMORY_H_
#define UBLKD_TESTS_VM_FUZZ_RACING_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <thread>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/fuzz/dice.h"

namespace ublkd::driver_fuzz {

// Pages with a page behind them that can't be touched.
class RacingMemory {
 public:
  static constexpr size_t kBytes = 4 * driver_test::kPage;

  RacingMemory();
  ~RacingMemory();
  RacingMemory(const RacingMemory&) = delete;
  RacingMemory& operator=(const RacingMemory&) = delete;

  std::byte* data() const { return data_; }
  std::byte* end() const { return data_ + kBytes; }
  // From now on another thread flips bits of so many bytes at `target`, until Rest().
  void Race(std::byte* target, size_t bytes);
  void Rest();
  // An address that is not what a command needs.
  static const void* BadAddress(Dice& dice);

 private:
  void Flip();

  std::byte* data_;
  std::atomic<std::byte*> target_ = nullptr;
  std::atomic<size_t> bytes_ = 0;
  std::atomic<bool> busy_ = false;
  std::atomic<bool> stop_ = false;
  std::thread flipper_;
};

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_RACING_MEMORY_H_
