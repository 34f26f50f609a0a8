// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/file.h"

#include <utility>

#include "daemon/target/backing_file.h"
#include "daemon/target/file_target.h"

namespace ublkd::target {

absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> OpenFileTarget(
    const FileTargetOptions& options) {
  UBLKD_ASSIGN_OR_RETURN(BackingFile backing, OpenBackingFile(options));
  return MakeDeviceTarget(FileTarget(std::move(backing)));
}

}  // namespace ublkd::target
