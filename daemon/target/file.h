// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "daemon/target/throttle.h"
#include "daemon/ublk/device_target.h"

namespace ublkd::target {

struct FileTargetOptions {
  /// Absolute path of a regular file or a block device.
  std::string path;
  bool read_only = false;
  /// What the file has of its filesystem it keeps: there is no discard, and zeroes leave no holes.
  bool keep_space = false;
  /// 512 or 4096; 0: the smallest that direct I/O on this file takes.
  uint32_t logical_block_bytes = 0;
  /// How long to wait for somebody else to let go of the file: a server that has ended does so some
  /// milliseconds later.
  absl::Duration wait = absl::ZeroDuration();
  /// Limits of the device; null: it will never have any.
  std::shared_ptr<Throttle> throttle = nullptr;
};

/// A device whose blocks are those of a file. Uses O_DIRECT when the file allows it with this block
/// size, else the page cache. Holds an exclusive lock (shared when read-only) as long as it lives.
///
/// NOT_FOUND; PERMISSION_DENIED; ALREADY_EXISTS the file is locked, so somebody else serves or uses
/// it; FAILED_PRECONDITION a directory or other thing that is no disk, a read-only file opened for
/// writing, size 0; INVALID_ARGUMENT a relative path, a block size that is not 512 or 4096, a size
/// that is no multiple of it.
absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> OpenFileTarget(
    const FileTargetOptions& options);

}  // namespace ublkd::target
