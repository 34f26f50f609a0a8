// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

/// Names of the files of a volume in a file pool. What follows the last dot decides, so a volume's
/// name may hold dots.
namespace ublkd::volume {

inline constexpr absl::string_view kDataSuffix = ".img";
inline constexpr absl::string_view kRecordSuffix = ".json";
/// The record of a volume that is being made.
inline constexpr absl::string_view kCreatingSuffix = ".creating";
/// The record of a volume that is being deleted.
inline constexpr absl::string_view kDeletingSuffix = ".deleting";
/// The record, with its new size, of a volume that is growing; the valid one lies beside it.
inline constexpr absl::string_view kGrowingSuffix = ".growing";
/// What WriteFileAtomically adds while it writes.
inline constexpr absl::string_view kTemporarySuffix = ".new";

inline std::string DataFile(absl::string_view volume) { return absl::StrCat(volume, kDataSuffix); }
inline std::string RecordFile(absl::string_view volume) {
  return absl::StrCat(volume, kRecordSuffix);
}
inline std::string CreatingMarker(absl::string_view volume) {
  return absl::StrCat(volume, kCreatingSuffix);
}
inline std::string DeletingMarker(absl::string_view volume) {
  return absl::StrCat(volume, kDeletingSuffix);
}
inline std::string GrowingMarker(absl::string_view volume) {
  return absl::StrCat(volume, kGrowingSuffix);
}

}  // namespace ublkd::volume
