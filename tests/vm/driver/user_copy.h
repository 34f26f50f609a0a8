// SPDX-License-Identifier: Apache-2.0
//
// Servers of devices with UBLK_F_USER_COPY.
#ifndef UBLKD_TESTS_VM_DRIVER_USER_COPY_H_
#define UBLKD_TESTS_VM_DRIVER_USER_COPY_H_

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

// Where data of a request lies in the char device.
off_t UserCopyAt(uint32_t queue, uint32_t tag, uint64_t byte = 0);

// As RamHandler().
Handler UserCopyRam(std::byte* memory);

// Two threads that copy a page of whatever request tag 0 of queue 0 has, all the time.
class Copiers {
 public:
  enum class Way { kFromRequest, kIntoRequest };
  // Pages of `value` are no data that a user of the disk writes.
  Copiers(int chan, Way way, std::byte value);
  ~Copiers() { Stop(); }
  Copiers(const Copiers&) = delete;
  Copiers& operator=(const Copiers&) = delete;
  void Stop();

  int copied() const { return copied_; }
  // Copies from a request that are not of one value, or of `value`.
  int torn() const { return torn_; }
  // Copies with a result that is neither a page nor the lack of a request.
  int strange() const { return strange_; }

 private:
  void Run(int chan, Way way, std::byte value);

  std::atomic<bool> stop_ = false;
  std::atomic<int> copied_ = 0;
  std::atomic<int> torn_ = 0;
  std::atomic<int> strange_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_USER_COPY_H_
