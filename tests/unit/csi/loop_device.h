// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ublkd::csi {

struct LoopDevice {
  int index = 0;
  std::string path;
  unsigned major = 0;
  unsigned minor = 0;
};

/// Attaches `file` to a free loop device.
absl::StatusOr<LoopDevice> AttachLoop(const std::string& file, bool read_only,
                                      uint32_t block_bytes);

/// FAILED_PRECONDITION when it is mounted or opened for exclusive use.
absl::Status DetachLoop(const std::string& path);

/// Loop devices whose file is below `folder`.
int CountLoops(const std::string& folder);

}  // namespace ublkd::csi
