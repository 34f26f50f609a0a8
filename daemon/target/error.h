// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "daemon/ublk/device_target.h"
#include "daemon/ublk/geometry.h"

namespace ublkd::target {

/// A device that answers every request with EIO: it takes the place of one whose data cannot be
/// had. INVALID_ARGUMENT: the geometry is out of range.
absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeErrorTarget(const ublk::Geometry& geometry);

}  // namespace ublkd::target
