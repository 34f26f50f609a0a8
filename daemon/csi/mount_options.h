// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd::csi {

/// Arguments of mount(2).
struct MountOptions {
  unsigned long flags = 0;
  /// Options of the filesystem, separated by commas.
  std::string data;
};

/// Turns a capability's mount flags into arguments of mount(2). Only flags that cannot reach beyond
/// the volume are taken; any other is INVALID_ARGUMENT, naming the option without its value.
/// A read-only mount never writes, not even to replay the journal.
absl::StatusOr<MountOptions> ParseMountOptions(const std::vector<std::string>& mount_flags,
                                               absl::string_view fs_type, bool read_only);

}  // namespace ublkd::csi
