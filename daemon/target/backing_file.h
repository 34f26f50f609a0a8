// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "daemon/base/file.h"
#include "daemon/target/file.h"
#include "daemon/ublk/geometry.h"

namespace ublkd::target {

/// A file or block device that was found fit to back a device, open and locked.
struct BackingFile {
  UniqueFd fd;
  /// The file's own abilities, as far as they were asked for and tried.
  ublk::Geometry geometry;
  /// Requests bypass the page cache.
  bool direct = false;
  /// FALLOC_FL_ZERO_RANGE works.
  bool can_zero_range = false;
  /// See FileTargetOptions.
  bool keep_space = false;
};

/// Bytes of an open regular file or block device as it is now.
absl::StatusOr<uint64_t> SizeOf(int fd);

/// Checks and opens; the errors are those of OpenFileTarget.
absl::StatusOr<BackingFile> OpenBackingFile(const FileTargetOptions& options);

/// Of what has no size that others could change.
inline constexpr uint64_t kNoEnd = ~uint64_t{0};

/// The size of a regular file as the kernel knows it, without asking a server; kNoEnd for all else.
uint64_t EndOfFile(int fd);

}  // namespace ublkd::target
