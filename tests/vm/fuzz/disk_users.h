// SPDX-License-Identifier: Apache-2.0
//
// Processes that use the disks.
#ifndef UBLKD_TESTS_VM_FUZZ_DISK_USERS_H_
#define UBLKD_TESTS_VM_FUZZ_DISK_USERS_H_

#include "tests/vm/fuzz/board.h"

namespace ublkd::driver_fuzz {

// Opens disks in any way, and reads, writes and controls them.
void RunDiskUser(Context& context);

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_DISK_USERS_H_
