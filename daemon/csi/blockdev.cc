// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/blockdev.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

constexpr std::chrono::seconds kNodeDeadline{10};
constexpr std::chrono::milliseconds kNodePollInterval{5};

std::string Number(dev_t device) { return absl::StrCat(major(device), ":", minor(device)); }

// Whether the node is there with the right number.
bool NodeIsThere(const BlockDevice& device, std::string& seen) {
  struct stat node;
  if (stat(device.path.c_str(), &node) != 0) {
    seen = "nothing is there";
    return false;
  }
  if (!S_ISBLK(node.st_mode)) {
    seen = "it is no block device";
    return false;
  }
  seen = absl::StrCat("it is device ", Number(node.st_rdev));
  return node.st_rdev == device.number;
}

}  // namespace

dev_t DeviceNumber(unsigned major_number, unsigned minor_number) {
  return makedev(major_number, minor_number);
}

absl::Status WaitForDevice(const BlockDevice& device) {
  const auto deadline = std::chrono::steady_clock::now() + kNodeDeadline;
  std::string seen;
  while (!NodeIsThere(device, seen)) {
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::UnavailableError(absl::StrCat(
          "device ", device.path, " (", Number(device.number), ") does not appear: ", seen,
          "; check that the host's /dev is mounted at /dev of ublkd-csi"));
    }
    std::this_thread::sleep_for(kNodePollInterval);
  }
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(device.path, O_RDONLY));
  UBLKD_ASSIGN_OR_RETURN(const uint64_t size_bytes, DeviceSizeBytes(file.get()));
  if (size_bytes != device.size_bytes) {
    return absl::InternalError(absl::StrCat("device ", device.path, " has ", size_bytes,
                                            " bytes and ublkd says ", device.size_bytes,
                                            "; detach it with ublkctl and try again"));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> OpenExclusively(const std::string& path, int flags) {
  UniqueFd file(open(path.c_str(), flags | O_EXCL | O_CLOEXEC));
  if (file.valid()) return file;
  if (errno == EBUSY) {
    return absl::AbortedError(
        absl::StrCat("cannot open ", path,
                     ": it is mounted or used by another program; try again when it is not"));
  }
  return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
}

absl::StatusOr<uint64_t> DeviceSizeBytes(int fd) {
  uint64_t size_bytes = 0;
  if (ioctl(fd, BLKGETSIZE64, &size_bytes) != 0) {
    return ErrnoStatus(errno, "cannot ask a block device for its size");
  }
  return size_bytes;
}

absl::Status DropDeviceCache(int fd) {
  if (fsync(fd) != 0 || ioctl(fd, BLKFLSBUF, 0) != 0) {
    return ErrnoStatus(errno, "cannot drop the cache of a block device");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> IsDeviceReadOnly(const std::string& path) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDONLY));
  int read_only = 0;
  if (ioctl(file.get(), BLKROGET, &read_only) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot ask ", path, " whether it is read-only"));
  }
  return read_only != 0;
}

absl::Status SetDeviceReadOnly(const std::string& path, bool read_only) {
  UBLKD_ASSIGN_OR_RETURN(const bool now, IsDeviceReadOnly(path));
  if (now == read_only) return absl::OkStatus();
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDONLY));
  const int value = read_only ? 1 : 0;
  if (ioctl(file.get(), BLKROSET, &value) != 0) {
    return ErrnoStatus(errno,
                       absl::StrCat("cannot make ", path, read_only ? " read-only" : " writable"));
  }
  return absl::OkStatus();
}

}  // namespace ublkd::csi
