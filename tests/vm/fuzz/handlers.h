// SPDX-License-Identifier: Apache-2.0
//
// What servers do with requests: what they should, most of the time.
#ifndef UBLKD_TESTS_VM_FUZZ_HANDLERS_H_
#define UBLKD_TESTS_VM_FUZZ_HANDLERS_H_

#include <cstdint>
#include <memory>

#include "tests/vm/driver/raw_server.h"
#include "tests/vm/driver/zero_copy.h"
#include "tests/vm/driver/zoned_disk.h"
#include "tests/vm/fuzz/board.h"

namespace ublkd::driver_fuzz {

// The data of a disk, served in the way that the device's features want.
class Storage {
 public:
  explicit Storage(const driver_test::Geometry& geometry);
  // Must not outlive the storage.
  driver_test::Handler Honest() const { return honest_; }

 private:
  driver_test::Handler InWay(uint64_t flags);

  const uint64_t bytes_;
  std::unique_ptr<driver_test::ZoneServer> zones_;
  std::unique_ptr<driver_test::BackingFile> file_;
  std::unique_ptr<driver_test::SharedMemory> memory_;
  driver_test::Handler honest_;
};

// `honest`, but for one request in `rate`.
driver_test::Handler Misbehaving(Board& board, const driver_test::Geometry& geometry,
                                 driver_test::Handler honest, unsigned rate, uint64_t seed);

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_HANDLERS_H_
