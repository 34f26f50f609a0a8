// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

/// Checking and growing of a filesystem that is there.
namespace ublkd::csi {

/// What the superblock of an ext4 or xfs filesystem says.
struct Superblock {
  uint64_t size_bytes = 0;
  /// ext4: a check is due, because it was not unmounted cleanly or has seen errors. xfs checks
  /// itself when it is mounted.
  bool needs_check = false;
};

/// Reads it from a device that is not in use. DATA_LOSS when it is no superblock of that type.
absl::StatusOr<Superblock> ReadSuperblock(const std::string& path, const std::string& fs_type);

/// Before the mount: checks an ext4 filesystem that needs it, repairing only what is safe without a
/// person, and grows it to the size of the device. DATA_LOSS with the checker's words when it finds
/// more than that.
absl::Status PrepareFilesystem(const std::string& owner, const std::string& path,
                               const std::string& fs_type);

/// After the mount: grows an xfs filesystem to the size of the device.
absl::Status GrowMounted(const std::string& owner, const std::string& path,
                         const std::string& mount_point, const std::string& fs_type);

}  // namespace ublkd::csi
