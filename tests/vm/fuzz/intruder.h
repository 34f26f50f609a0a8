// SPDX-License-Identifier: Apache-2.0
//
// Processes that meddle with char devices and rings of servers.
#ifndef UBLKD_TESTS_VM_FUZZ_INTRUDER_H_
#define UBLKD_TESTS_VM_FUZZ_INTRUDER_H_

#include "tests/vm/fuzz/board.h"

namespace ublkd::driver_fuzz {

// Takes char devices and rings as they are passed on, out of servers, or opens them itself.
void RunIntruder(Context& context);

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_INTRUDER_H_
