// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/csi/loop_device.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

// Another test may take the free device first.
constexpr int kMaxAttempts = 50;

}  // namespace

absl::StatusOr<LoopDevice> AttachLoop(const std::string& file, bool read_only,
                                      uint32_t block_bytes) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd control, OpenFile("/dev/loop-control", O_RDWR));
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd backing, OpenFile(file, read_only ? O_RDONLY : O_RDWR));
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    LoopDevice device;
    device.index = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (device.index < 0) return ErrnoStatus(errno, "no free loop device");
    device.path = absl::StrCat("/dev/loop", device.index);
    UBLKD_ASSIGN_OR_RETURN(const UniqueFd loop, OpenFile(device.path, O_RDWR));
    loop_config config{};
    config.fd = static_cast<uint32_t>(backing.get());
    config.block_size = block_bytes;
    config.info.lo_flags = read_only ? LO_FLAGS_READ_ONLY : 0;
    if (ioctl(loop.get(), LOOP_CONFIGURE, &config) != 0) {
      if (errno == EBUSY) continue;
      return ErrnoStatus(errno, absl::StrCat("cannot configure ", device.path));
    }
    struct stat node;
    if (fstat(loop.get(), &node) != 0) return ErrnoStatus(errno, device.path);
    device.major = major(node.st_rdev);
    device.minor = minor(node.st_rdev);
    return device;
  }
  return absl::UnavailableError("no loop device stays free");
}

absl::Status DetachLoop(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd loop, OpenFile(path, O_RDWR));
  {
    const UniqueFd alone(open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    if (!alone.valid()) {
      return absl::FailedPreconditionError(absl::StrCat("device ", path, " is in use"));
    }
  }
  if (ioctl(loop.get(), LOOP_CLR_FD) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot detach ", path));
  }
  return absl::OkStatus();
}

int CountLoops(const std::string& folder) {
  int count = 0;
  const auto names = ListDirectory("/sys/block");
  if (!names.ok()) return -1;
  for (const std::string& name : *names) {
    const auto file = ReadFile(absl::StrCat("/sys/block/", name, "/loop/backing_file"));
    if (file.ok() && absl::StartsWith(*file, folder)) ++count;
  }
  return count;
}

}  // namespace ublkd::csi
