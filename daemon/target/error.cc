// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/error.h"

#include "daemon/target/error_target.h"

namespace ublkd::target {

absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeErrorTarget(
    const ublk::Geometry& geometry) {
  return MakeDeviceTarget(ErrorTarget{geometry});
}

}  // namespace ublkd::target
