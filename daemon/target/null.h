// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "daemon/target/throttle.h"
#include "daemon/ublk/device_target.h"

namespace ublkd::target {

/// A device that reads as zeroes and forgets what is written, under the limits of `throttle` when
/// there is one.
/// INVALID_ARGUMENT: size 0 or no multiple of the block, or a block size the driver does not know.
absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeNullTarget(
    uint64_t size_bytes, uint32_t logical_block_bytes,
    std::shared_ptr<Throttle> throttle = nullptr);

}  // namespace ublkd::target
