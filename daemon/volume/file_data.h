// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <cstdint>

#include "absl/status/status.h"
#include "daemon/volume/owned_directory.h"
#include "daemon/volume/volume.h"

/// The data file of a volume: how it is made and what the filesystem tells about it.
namespace ublkd::volume {

/// Gives an empty file its size, durably, so that it reads as zeroes. RESOURCE_EXHAUSTED when the
/// filesystem has no room, INVALID_ARGUMENT when it takes no file so large, FAILED_PRECONDITION
/// when it cannot preallocate.
absl::Status GiveSize(int fd, uint64_t size_bytes, Provisioning provisioning);

/// Gives a file that has `from_bytes` the larger size, durably, so that the new part reads as
/// zeroes; thick: with all of its space. It may be in use. Errors as GiveSize; the file may be
/// larger then, see CutBack.
absl::Status Grow(int fd, uint64_t from_bytes, uint64_t size_bytes, Provisioning provisioning);

/// Takes off, durably, what a file has beyond a size.
absl::Status CutBack(int fd, uint64_t size_bytes);

/// Space that a file takes.
uint64_t AllocatedBytes(const struct stat& facts);

/// Whether anything was written to the file. Space that was preallocated and not written counts as
/// a hole, on a filesystem for which TellsHolesFromData is true; but once it was read through the
/// page cache it looks like data. `drop_cache` lets go of the clean pages before that is believed.
Content FindContent(int fd, bool drop_cache);

/// Tries in the folder, with a file that is gone afterwards, whether SEEK_DATA tells a new file
/// made in this way from one that was written. False when it cannot be tried.
bool TellsHolesFromData(const OwnedDirectory& directory, Provisioning provisioning);

/// The name of the file that TellsHolesFromData makes.
inline constexpr absl::string_view kProbeFile = ".probe";

}  // namespace ublkd::volume
