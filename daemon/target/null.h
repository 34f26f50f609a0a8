// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "daemon/ublk/device_target.h"

namespace ublkd::target {

/// A device that reads as zeroes and forgets what is written.
/// INVALID_ARGUMENT: size 0 or no multiple of the block, or a block size the driver does not know.
absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeNullTarget(uint64_t size_bytes,
                                                                   uint32_t logical_block_bytes);

}  // namespace ublkd::target
