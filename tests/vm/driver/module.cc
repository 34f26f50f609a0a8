// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/module.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

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

}  // namespace ublkd::driver_test
