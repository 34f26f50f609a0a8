// SPDX-License-Identifier: Apache-2.0
//
// Where all choices come from.
#ifndef UBLKD_TESTS_VM_FUZZ_DICE_H_
#define UBLKD_TESTS_VM_FUZZ_DICE_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>

namespace ublkd::driver_fuzz {

// Not shared between threads.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}

  uint64_t Bits() { return random_(); }
  uint64_t Below(uint64_t count) { return random_() % count; }
  bool OneIn(unsigned count) { return Below(count) == 0; }
  template <typename T>
  T Of(std::initializer_list<T> list) {
    return list.begin()[Below(list.size())];
  }
  template <typename T, size_t N>
  const T& Of(const T (&list)[N]) {
    return list[Below(N)];
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_DICE_H_
