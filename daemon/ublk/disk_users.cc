// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/disk_users.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::ublk {
namespace {

bool IsNumber(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

/// The disk and its partitions.
std::vector<dev_t> DiskAndPartitions(const std::string& disk_name, dev_t disk) {
  std::vector<dev_t> devices = {disk};
  const std::string folder = absl::StrCat("/sys/block/", disk_name);
  const auto names = ListDirectory(folder);
  if (!names.ok()) return devices;
  for (const std::string& name : *names) {
    if (name.rfind(disk_name, 0) != 0) continue;
    const auto text = ReadFile(absl::StrCat(folder, "/", name, "/dev"));
    if (!text.ok()) continue;
    if (const auto device = ParseDeviceNumber(*text)) devices.push_back(*device);
  }
  return devices;
}

/// Whether the open file behind a /proc link is one of the devices. Asks no server: a descriptor on
/// a dead network filesystem must not hold us up.
bool IsOneOf(const std::string& link, const std::vector<dev_t>& devices) {
  struct statx about;
  if (statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE, &about) != 0) return false;
  if (!S_ISBLK(about.stx_mode)) return false;
  const dev_t device = makedev(about.stx_rdev_major, about.stx_rdev_minor);
  return std::find(devices.begin(), devices.end(), device) != devices.end();
}

/// A sentence about the first process that has one of the devices open; empty without one.
std::string FindOpener(const std::vector<dev_t>& devices, int our_fd) {
  const auto processes = ListDirectory("/proc");
  if (!processes.ok()) return "";
  const std::string self = absl::StrCat(getpid());
  for (const std::string& process : *processes) {
    if (!IsNumber(process)) continue;
    const std::string folder = absl::StrCat("/proc/", process, "/fd");
    const auto descriptors = ListDirectory(folder);
    if (!descriptors.ok()) continue;
    for (const std::string& descriptor : *descriptors) {
      if (process == self && descriptor == absl::StrCat(our_fd)) continue;
      if (IsOneOf(absl::StrCat(folder, "/", descriptor), devices)) {
        return absl::StrCat("process ", process, " has it open");
      }
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<UniqueFd> ClaimUnusedDisk(const std::string& block_path, dev_t disk) {
  UniqueFd claim(open(block_path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  if (!claim.valid()) {
    if (errno == EBUSY) {
      return absl::FailedPreconditionError(
          absl::StrCat(block_path, ": it is mounted or part of another device; unmount it first"));
    }
    return ErrnoStatus(errno, absl::StrCat("open ", block_path));
  }
  const std::string name = block_path.substr(block_path.rfind('/') + 1);
  const std::string opener = FindOpener(DiskAndPartitions(name, disk), claim.get());
  if (!opener.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(block_path, ": ", opener, "; end it first"));
  }
  return claim;
}

}  // namespace ublkd::ublk
