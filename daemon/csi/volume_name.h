// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ublkd::csi {

/// INVALID_ARGUMENT for a name that is empty or has control characters, which the interface bans.
absl::Status CheckVolumeName(absl::string_view name);

/// The name under which ublkd keeps the volume that the interface calls `name`: the same where
/// ublkd allows it, else its readable characters and a hash of all of it. The id
/// "<pool>/<result>" fits into the 128 bytes of an id.
std::string MakeVolumeName(absl::string_view pool, absl::string_view name);

}  // namespace ublkd::csi
