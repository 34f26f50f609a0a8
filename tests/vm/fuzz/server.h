// SPDX-License-Identifier: Apache-2.0
//
// Processes that make devices and serve them.
#ifndef UBLKD_TESTS_VM_FUZZ_SERVER_H_
#define UBLKD_TESTS_VM_FUZZ_SERVER_H_

#include "tests/vm/fuzz/board.h"

namespace ublkd::driver_fuzz {

// Finds a device without a server, or makes one, serves it, and dies in one way or another.
void RunServer(Context& context);

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_SERVER_H_
