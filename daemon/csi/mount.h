// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/csi/mount_options.h"
#include "daemon/csi/mountinfo.h"

/// What changes mounts. Every call that may hang runs in a child under the name of `owner`
/// (child.h) and ends in DEADLINE_EXCEEDED instead.
namespace ublkd::csi {

/// Mounts the filesystem `fs_type` on the block device `device` at the folder `path`.
absl::Status MountFilesystem(const std::string& owner, const std::string& device,
                             const std::string& path, const std::string& fs_type,
                             const MountOptions& options);

/// Shows the folder or file `source` at `target` too. A read-only bind mount is read-only from the
/// moment at which it can be seen.
absl::Status BindMount(const std::string& owner, const std::string& source,
                       const std::string& target, bool read_only);

/// Unmounts everything that is mounted at exactly `path`, the topmost first. FAILED_PRECONDITION
/// when it is in use. Nothing there is success.
absl::Status UnmountAll(const std::string& owner, const std::string& path);

/// What lstat(2) says about a path.
struct PathState {
  bool exists = false;
  /// A mount whose device or server is gone: it can be unmounted but not used.
  bool corrupted = false;
  mode_t mode = 0;
  /// Of a block device's node.
  dev_t device = 0;
  /// Of a regular file; 0 for anything else.
  off_t size_bytes = 0;
};

/// Asks in a child, because a mount may not answer: that is DEADLINE_EXCEEDED.
absl::StatusOr<PathState> StatPath(const std::string& owner, const std::string& path);

/// True when `entry` is a bind mount of the node of the block device `device`.
bool IsBindOfDevice(const std::string& owner, const MountEntry& entry, dev_t device);

/// Where the volume behind `device` is visible below `folder`: mounts of its filesystem and bind
/// mounts of its node, apart from `except`.
std::vector<std::string> PathsOfDevice(const std::string& owner,
                                       const std::vector<MountEntry>& mounts, dev_t device,
                                       const std::string& folder, const std::string& except);

}  // namespace ublkd::csi
