// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/racing_memory.h"

#include <sys/mman.h>

namespace ublkd::driver_fuzz {
namespace {

constexpr unsigned char kMask = 0x41;

}  // namespace

RacingMemory::RacingMemory()
    : data_(
          static_cast<std::byte*>(mmap(nullptr, kBytes + driver_test::kPage, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
  mprotect(end(), driver_test::kPage, PROT_NONE);
  flipper_ = std::thread([this] { Flip(); });
}

RacingMemory::~RacingMemory() {
  stop_ = true;
  target_ = data_;
  target_.notify_one();
  flipper_.join();
  munmap(data_, kBytes + driver_test::kPage);
}

void RacingMemory::Race(std::byte* target, size_t bytes) {
  Rest();
  bytes_ = bytes;
  target_ = target;
  target_.notify_one();
}

void RacingMemory::Rest() {
  target_ = nullptr;
  while (busy_) std::this_thread::yield();
}

void RacingMemory::Flip() {
  for (;;) {
    target_.wait(nullptr);
    if (stop_) return;
    busy_ = true;
    std::byte* target = target_;
    for (size_t i = 0; target != nullptr && i < bytes_; ++i) {
      std::atomic_ref(reinterpret_cast<unsigned char&>(target[i]))
          .fetch_xor(kMask, std::memory_order_relaxed);
    }
    busy_ = false;
  }
}

const void* RacingMemory::BadAddress(Dice& dice) {
  constexpr uintptr_t kKernel = 0xffff888000001000;
  constexpr uintptr_t kNotCanonical = 0x8000000000000000;
  constexpr uintptr_t kNothing = 0x1000;
  return reinterpret_cast<const void*>(dice.Of<uintptr_t>({0, kKernel, kNotCanonical, kNothing}));
}

}  // namespace ublkd::driver_fuzz
