// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "csi/v1/csi.pb.h"

namespace ublkd::csi {

namespace pb = ::csi::v1;

using AccessMode = pb::VolumeCapability::AccessMode;

inline constexpr char kExt4[] = "ext4";
inline constexpr char kXfs[] = "xfs";
/// Filesystem of a volume for which none is asked.
inline constexpr const char* kDefaultFilesystem = kExt4;
/// mkfs.xfs makes none that is smaller.
inline constexpr uint64_t kMinXfsBytes = 300ULL * 1024 * 1024;

/// How a volume is used: a VolumeCapability that was found well-formed.
struct Usage {
  bool block = false;
  /// As asked for: empty means the one that is there, or kDefaultFilesystem.
  std::string fs_type;
  std::vector<std::string> mount_flags;
  AccessMode::Mode mode = AccessMode::UNKNOWN;

  /// Nothing may be written, by anybody.
  bool IsReadOnly() const;
};

/// INVALID_ARGUMENT, naming the field, when the access type or mode is missing or no known value.
absl::StatusOr<Usage> ParseUsage(const pb::VolumeCapability& capability, absl::string_view field);

/// OK when volumes of a node-local pool can be used so: one node, ext4, xfs or raw block.
/// Otherwise `code` and what is not possible.
absl::Status CheckSupported(const Usage& usage, absl::StatusCode code);

/// Both for a whole list.
absl::StatusOr<std::vector<Usage>> ParseUsages(
    const google::protobuf::RepeatedPtrField<pb::VolumeCapability>& capabilities);

/// "block", "ext4", ...
std::string DescribeUsage(const Usage& usage);

/// Whether `asked` is what was granted as `given`. An empty filesystem type agrees with any.
bool SameUsage(const Usage& given, const Usage& asked);

}  // namespace ublkd::csi
