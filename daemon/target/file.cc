// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/file.h"

#include <utility>

#include "daemon/target/backing_file.h"
#include "daemon/target/file_target.h"
#include "daemon/target/limit_layer.h"

namespace ublkd::target {

absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> OpenFileTarget(
    const FileTargetOptions& options) {
  UBLKD_ASSIGN_OR_RETURN(BackingFile backing, OpenBackingFile(options));
  return MakeLimitedTarget(FileTarget(std::move(backing)), options.throttle);
}

}  // namespace ublkd::target
