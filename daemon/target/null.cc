// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/null.h"

#include <utility>

#include "daemon/target/limit_layer.h"
#include "daemon/target/null_target.h"

namespace ublkd::target {

absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeNullTarget(
    uint64_t size_bytes, uint32_t logical_block_bytes, std::shared_ptr<Throttle> throttle) {
  return MakeLimitedTarget(
      NullTarget{{.size_bytes = size_bytes, .logical_block_bytes = logical_block_bytes}},
      std::move(throttle));
}

}  // namespace ublkd::target
