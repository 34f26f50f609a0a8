// SPDX-License-Identifier: Apache-2.0
#ifndef UBLKD_TESTS_VM_DRIVER_MODULE_H_
#define UBLKD_TESTS_VM_DRIVER_MODULE_H_

namespace ublkd::driver_test {

// Inserts the module under test, the file named by UBLK_DRV_KO or whatever modprobe finds; false if
// the kernel refuses it.
bool LoadDriver();
// Removes it; 0 or errno, EAGAIN or EBUSY while it is used.
int UnloadDriver();

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_MODULE_H_
