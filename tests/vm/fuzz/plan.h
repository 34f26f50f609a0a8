// SPDX-License-Identifier: Apache-2.0
//
// Devices that make sense, most of the time.
#ifndef UBLKD_TESTS_VM_FUZZ_PLAN_H_
#define UBLKD_TESTS_VM_FUZZ_PLAN_H_

#include <cstdint>
#include <optional>

#include "tests/vm/driver/control.h"
#include "tests/vm/fuzz/dice.h"

namespace ublkd::driver_fuzz {

// With some of the features.
driver_test::Geometry RandomGeometry(Dice& dice, uint64_t features);

// For a device of that kind; now and then nonsense.
ublk_params RandomParams(Dice& dice, const driver_test::Geometry& geometry);

// Of a device that there is.
std::optional<driver_test::Geometry> GeometryOf(driver_test::Control& control, uint32_t id);

}  // namespace ublkd::driver_fuzz

#endif  // UBLKD_TESTS_VM_FUZZ_PLAN_H_
