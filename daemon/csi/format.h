// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/csi/blockdev.h"
#include "daemon/csi/probe.h"
#include "daemon/csi/ublkd_client.h"

/// Whether a volume may be formatted. A wrong "yes" destroys data, so a volume is formatted only
/// when three witnesses agree that nobody ever stored anything on it: its record, its backend, and
/// what can be read from it.
namespace ublkd::csi {

enum class FormatStep {
  /// The filesystem that was asked for is there.
  kMount,
  /// The same, and the volume's record does not say so yet (an imported volume).
  kRecordAndMount,
  /// Provably blank.
  kFormat,
  /// The remains of a mkfs of ours that was ended before the volume was ever mounted.
  kFormatAgain,
};

/// Decides. FAILED_PRECONDITION, naming what is there and what was asked for, when the volume can
/// neither be mounted nor formatted as asked.
absl::StatusOr<FormatStep> DecideFormat(const api::Volume& volume, const DeviceContents& contents,
                                        const std::string& fs_type, bool read_only);

/// The filesystem for a request that names none: the one that is there, or the default.
std::string ChooseFilesystem(const api::Volume& volume, const std::string& asked);

/// Leaves the filesystem `fs_type` on the attached device of a volume, making it when that is safe,
/// and the volume's record saying so. `volume` is as it was read after the device was attached.
absl::Status EnsureFilesystem(const UblkdClient& ublkd, const api::Volume& volume,
                              const BlockDevice& device, const std::string& fs_type,
                              bool read_only);

/// Records that the volume is handed out raw, before it is: from then on it is never formatted.
absl::Status MarkAsBlock(const UblkdClient& ublkd, const api::Volume& volume);

}  // namespace ublkd::csi
