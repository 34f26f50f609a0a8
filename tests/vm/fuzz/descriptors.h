// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that go from one process to another.
#ifndef UBLKD_TESTS_VM_FUZZ_DESCRIPTORS_H_
#define UBLKD_TESTS_VM_FUZZ_DESCRIPTORS_H_

#include <cstdint>
#include <optional>

namespace ublkd::driver_fuzz {

enum class PassedKind : uint32_t { kChan, kRing };

struct Passed {
  int fd;
  PassedKind kind;
  uint32_t device;
};

// Over a socket, which may be full.
bool PassOn(int socket, const Passed& passed);
std::optional<Passed> TakeOver(int socket);

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_DESCRIPTORS_H_
