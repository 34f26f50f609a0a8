// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd::csi {

/// One line of /proc/self/mountinfo (proc(5)), with its escapes undone.
struct MountEntry {
  /// The filesystem's device number.
  dev_t device = 0;
  /// What of the filesystem is mounted; "/" for all of it.
  std::string root;
  std::string mount_point;
  /// Of this mount alone, such as "ro,noatime".
  std::string options;
  std::string fs_type;
  std::string source;
  /// Of the filesystem, such as "rw,errors=remount-ro".
  std::string super_options;
  /// Mounts below it are seen by the namespaces that share it.
  bool shared = false;

  bool IsReadOnly() const;
  /// The filesystem itself takes no writes: mounted so, or turned so after errors.
  bool IsFilesystemReadOnly() const;
};

/// Reads the text of a mountinfo file. INTERNAL names a line that is not understood.
absl::StatusOr<std::vector<MountEntry>> ParseMountInfo(absl::string_view text);

/// The mounts of this process, in the order in which they were made. The kernel gives the file in
/// pieces, so it is read until two readings agree.
absl::StatusOr<std::vector<MountEntry>> ReadMounts();

/// The mounts at exactly `path`, lowest first.
std::vector<MountEntry> MountsAt(const std::vector<MountEntry>& mounts, absl::string_view path);

/// The points of all mounts at `path` and below it.
std::vector<std::string> MountPointsUnder(const std::vector<MountEntry>& mounts,
                                          absl::string_view path);

/// True when `option` is one of the comma-separated `options`.
bool HasOption(absl::string_view options, absl::string_view option);

}  // namespace ublkd::csi
