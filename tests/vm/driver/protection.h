// SPDX-License-Identifier: Apache-2.0
//
// Protection information as T10 and NVMe define it: for each block of a disk some bytes of
// metadata, and in them a tuple of checksum, application tag and reference tag. Computed here
// without the kernel's help.
#ifndef UBLKD_TESTS_VM_DRIVER_PROTECTION_H_
#define UBLKD_TESTS_VM_DRIVER_PROTECTION_H_

#include <cstddef>
#include <cstdint>

#include "tests/vm/driver/control.h"

namespace ublkd::driver_test {

struct Protection {
  const char* name;
  uint8_t block_shift;
  uint8_t metadata_bytes;
  uint8_t offset;     // of the tuple in the metadata
  uint8_t csum_type;  // UBLK_PI_CSUM_*

  // Bytes of the tuple.
  size_t tuple_bytes() const { return csum_type == UBLK_PI_CSUM_CRC64 ? 16 : 8; }
  size_t block() const { return size_t{1} << block_shift; }
  // Parameters of a disk that has it, with reference tags.
  ublk_params Params(const Geometry& geometry) const;
  // The checksum of one block, and of the metadata in front of its tuple.
  uint64_t Checksum(const std::byte* data) const;
  // The metadata of one block: its tuple, and zeros around it.
  void Make(uint64_t checksum, uint64_t block_number, std::byte* metadata) const;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_PROTECTION_H_
