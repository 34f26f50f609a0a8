// SPDX-License-Identifier: Apache-2.0
//
// Control commands that nobody asked for.
#ifndef UBLKD_TESTS_VM_FUZZ_VANDAL_H_
#define UBLKD_TESTS_VM_FUZZ_VANDAL_H_

#include "tests/vm/fuzz/board.h"

namespace ublkd::driver_fuzz {

// Sends control commands of all kinds to all devices, sensible ones and others.
void RunVandal(Context& context);

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_VANDAL_H_
