// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd::csi {

/// Checks a path that came with a call and gives it in the form in which mountinfo shows it: with
/// the symbolic links of the folders above it resolved. INVALID_ARGUMENT, naming `field`, for one
/// that is relative, has "..", or lies outside `kubelet_dir`. Never looks at the path itself, which
/// may be a mount that hangs.
absl::StatusOr<std::string> ResolvePath(absl::string_view path, absl::string_view field,
                                        const std::string& kubelet_dir);

}  // namespace ublkd::csi
