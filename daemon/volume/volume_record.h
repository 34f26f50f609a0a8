// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/volume/volume.h"

namespace ublkd::volume {

/// Version of the records that are written; README.md has the rule and the fields.
inline constexpr uint32_t kVolumeRecordVersion = 1;
/// The oldest version that is read: the one before, and never less than the first.
inline constexpr uint32_t kOldestVolumeRecordVersion = 1;

std::string EncodeVolumeRecord(const VolumeRecord& record);

/// DATA_LOSS for a text that is no volume record, FAILED_PRECONDITION for a version that this
/// program does not read.
absl::StatusOr<VolumeRecord> DecodeVolumeRecord(absl::string_view text);

}  // namespace ublkd::volume
