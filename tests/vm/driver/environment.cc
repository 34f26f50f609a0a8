// SPDX-License-Identifier: Apache-2.0
//
// Loads the driver under test before the first test.
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/vm/driver/module.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

class DriverEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    (void)signal(SIGPIPE, SIG_IGN);
    if (!PathExists("/dev/ublk-control")) {
      ASSERT_TRUE(LoadDriver()) << "the driver can't be loaded; is UBLK_DRV_KO right?";
    }
    ASSERT_TRUE(Eventually([] { return PathExists("/dev/ublk-control"); }))
        << "no /dev/ublk-control after loading the driver";
  }
};

const testing::Environment* const kEnvironment =
    testing::AddGlobalTestEnvironment(new DriverEnvironment);

}  // namespace
}  // namespace ublkd::driver_test
