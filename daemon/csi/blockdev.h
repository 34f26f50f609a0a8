// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/base/file.h"

namespace ublkd::csi {

/// A block device as ublkd described it.
struct BlockDevice {
  uint32_t id = 0;
  std::string path;
  dev_t number = 0;
  uint64_t size_bytes = 0;
};

/// makedev(3), whose header has macros that clash with the protocol's fields.
dev_t DeviceNumber(unsigned major_number, unsigned minor_number);

/// Waits until the node is there and checks that it is this very device, of this size. UNAVAILABLE
/// when it does not appear (the folder /dev is not the host's), INTERNAL when it is another.
absl::Status WaitForDevice(const BlockDevice& device);

/// Opens the device for this process alone. ABORTED when it is mounted or opened so by somebody
/// else, a mkfs that was left behind for example.
absl::StatusOr<UniqueFd> OpenExclusively(const std::string& path, int flags);

absl::StatusOr<uint64_t> DeviceSizeBytes(int fd);

/// Drops what the kernel has cached of the device, so that reads see the device itself.
absl::Status DropDeviceCache(int fd);

/// Whether the kernel refuses writes to the device.
absl::StatusOr<bool> IsDeviceReadOnly(const std::string& path);
absl::Status SetDeviceReadOnly(const std::string& path, bool read_only);

}  // namespace ublkd::csi
