// SPDX-License-Identifier: Apache-2.0
//
// What all processes of the fuzzer know of each other.
#ifndef UBLKD_TESTS_VM_FUZZ_BOARD_H_
#define UBLKD_TESTS_VM_FUZZ_BOARD_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "driver/uapi/ublk_cmd.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/fuzz/dice.h"
#include "tests/vm/fuzz/tally.h"

namespace ublkd::driver_fuzz {

// Devices that most commands are about. Others come and go as well.
inline constexpr uint32_t kIds = 6;

// Lies in memory that all processes share.
struct Board {
  Tally tally;
  std::array<std::atomic<int>, kIds> servers = {};  // pid of the last one of each device
};

// What a process of the fuzzer has.
struct Context {
  Board& board;
  uint64_t features;  // of the driver on this kernel
  int socket[2];      // through which descriptors are passed: into the first, out of the second
  // Memory that all processes have, for servers to share with their users.
  std::byte* shared;
  Dice dice;
};

inline constexpr size_t kSharedBytes = 16 * driver_test::kPage;

// Of a part of the shared memory.
inline ublk_shmem_buf_reg RandomShare(Context& context) {
  const uint64_t pages = 1 + context.dice.Below(8);
  return {.addr = reinterpret_cast<uintptr_t>(context.shared) +
                  context.dice.Below(9) * driver_test::kPage,
          .len = pages * driver_test::kPage,
          .flags = context.dice.OneIn(3) ? UBLK_SHMEM_BUF_READ_ONLY : 0U,
          .reserved = 0};
}

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_BOARD_H_
