// SPDX-License-Identifier: Apache-2.0
//
// Loads the driver under test before the first test: the module file named by UBLK_DRV_KO, or
// whatever modprobe finds.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "tests/vm/driver/module.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

bool LoadDriver() {
  const char* file = std::getenv("UBLK_DRV_KO");
  if (file == nullptr) return std::system("modprobe ublk_drv") == 0;
  const int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const long err = syscall(SYS_finit_module, fd, "", 0);
  close(fd);
  return err == 0;
}

int UnloadDriver() { return syscall(SYS_delete_module, "ublk_drv", O_NONBLOCK) == 0 ? 0 : errno; }

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
