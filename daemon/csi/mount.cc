// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/mount.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"
#include "daemon/csi/child.h"

namespace ublkd::csi {
namespace {

// A mount may have to replay a journal; an unmount has to write back what is cached.
constexpr std::chrono::milliseconds kMountDeadline{60'000};
constexpr std::chrono::milliseconds kUnmountDeadline{90'000};
constexpr std::chrono::milliseconds kStatDeadline{5'000};
// More mounts than this on top of each other are not of our making.
constexpr int kMaxStackedMounts = 64;
// How a mount answers whose device or server is gone.
constexpr std::array kCorruptedErrors = {ENOTCONN,  ESTALE,      EIO,   EACCES,
                                         EHOSTDOWN, EWOULDBLOCK, ENODEV};

int Bind(const char* source, const char* target, bool read_only) {
  const int tree =
      open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
  if (tree < 0) return errno;
  mount_attr attributes{};
  attributes.attr_set = read_only ? MOUNT_ATTR_RDONLY : 0;
  if (read_only && mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) != 0) {
    return errno;
  }
  if (move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) != 0) return errno;
  return 0;
}

absl::Status UnmountTop(const std::string& owner, const std::string& path) {
  const absl::Status status =
      RunInChild(owner, absl::StrCat("cannot unmount ", path), kUnmountDeadline,
                 [&] { return umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0 ? 0 : errno; });
  if (status.code() == absl::ErrnoToStatusCode(EBUSY)) {
    return absl::FailedPreconditionError(
        absl::StrCat(status.message(), "; a process still uses files there, end it and try again"));
  }
  return status;
}

}  // namespace

absl::Status MountFilesystem(const std::string& owner, const std::string& device,
                             const std::string& path, const std::string& fs_type,
                             const MountOptions& options) {
  const absl::Status status =
      RunInChild(owner, absl::StrCat("cannot mount ", device, " (", fs_type, ") at ", path),
                 kMountDeadline, [&] {
                   return mount(device.c_str(), path.c_str(), fs_type.c_str(), options.flags,
                                options.data.c_str()) == 0
                              ? 0
                              : errno;
                 });
  if (!absl::IsInvalidArgument(status)) return status;
  // It says nothing about the caller's request as such.
  return absl::FailedPreconditionError(
      absl::StrCat(status.message(), " (options \"", options.data,
                   "\"); the kernel's log says what it does not take"));
}

absl::Status BindMount(const std::string& owner, const std::string& source,
                       const std::string& target, bool read_only) {
  return RunInChild(owner, absl::StrCat("cannot bind ", source, " to ", target), kMountDeadline,
                    [&] { return Bind(source.c_str(), target.c_str(), read_only); });
}

absl::Status UnmountAll(const std::string& owner, const std::string& path) {
  for (int i = 0; i < kMaxStackedMounts; ++i) {
    UBLKD_ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMounts());
    if (MountsAt(mounts, path).empty()) return absl::OkStatus();
    UBLKD_RETURN_IF_ERROR(UnmountTop(owner, path));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("cannot unmount ", path, ": more than ", kMaxStackedMounts,
                   " mounts are on top of each other; find out who makes them"));
}

absl::StatusOr<PathState> StatPath(const std::string& owner, const std::string& path) {
  struct Answer {
    int error;
    struct stat state;
  } answer{};
  UBLKD_RETURN_IF_ERROR(RunInChild(
      owner, absl::StrCat("cannot look at ", path), kStatDeadline,
      [&] {
        answer.error = lstat(path.c_str(), &answer.state) == 0 ? 0 : errno;
        return 0;
      },
      &answer, sizeof(answer)));
  if (answer.error == ENOENT || answer.error == ENOTDIR) return PathState{};
  if (std::find(kCorruptedErrors.begin(), kCorruptedErrors.end(), answer.error) !=
      kCorruptedErrors.end()) {
    return PathState{.exists = true, .corrupted = true};
  }
  if (answer.error != 0) {
    return ErrnoStatus(answer.error, absl::StrCat("cannot look at ", path));
  }
  const bool block = S_ISBLK(answer.state.st_mode);
  return PathState{.exists = true,
                   .corrupted = false,
                   .mode = answer.state.st_mode,
                   .device = block ? answer.state.st_rdev : 0,
                   .size_bytes = S_ISREG(answer.state.st_mode) ? answer.state.st_size : 0};
}

bool IsBindOfDevice(const std::string& owner, const MountEntry& entry, dev_t device) {
  // A node is mounted from within the filesystem of /dev, which in a container may be a tmpfs.
  if (entry.root == "/" || (entry.fs_type != "devtmpfs" && entry.fs_type != "tmpfs")) return false;
  const absl::StatusOr<PathState> state = StatPath(owner, entry.mount_point);
  return state.ok() && S_ISBLK(state->mode) && state->device == device;
}

std::vector<std::string> PathsOfDevice(const std::string& owner,
                                       const std::vector<MountEntry>& mounts, dev_t device,
                                       const std::string& folder, const std::string& except) {
  std::vector<std::string> paths;
  for (const MountEntry& entry : mounts) {
    if (entry.mount_point == except) continue;
    if (!absl::StartsWith(entry.mount_point, absl::StrCat(folder, "/"))) continue;
    if (entry.device == device || IsBindOfDevice(owner, entry, device)) {
      paths.push_back(entry.mount_point);
    }
  }
  return paths;
}

}  // namespace ublkd::csi
