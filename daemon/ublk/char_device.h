// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "daemon/base/file.h"

struct ublksrv_io_desc;

namespace ublkd::ublk {

/// /dev/ublkcN, open. The queue threads share it, and the last of them closes it: only then does
/// the driver let go of the device.
class CharDevice {
 public:
  /// Waits for the node to appear and for others (udev) to close it.
  /// DEADLINE_EXCEEDED, FAILED_PRECONDITION when there is no node.
  static absl::StatusOr<std::shared_ptr<CharDevice>> Open(uint32_t device_id);

  int fd() const { return fd_.get(); }

 private:
  explicit CharDevice(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

/// The request descriptors of one hardware queue, which the driver writes.
class DescriptorMap {
 public:
  static absl::StatusOr<DescriptorMap> Create(const CharDevice& device, uint16_t queue,
                                              uint16_t depth);
  DescriptorMap() = default;
  DescriptorMap(DescriptorMap&& other) noexcept;
  DescriptorMap& operator=(DescriptorMap&& other) noexcept;
  ~DescriptorMap();

  const ublksrv_io_desc* operator[](uint16_t tag) const;

 private:
  const ublksrv_io_desc* descriptors_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace ublkd::ublk
