// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "daemon/ublk/control.h"
#include "daemon/volume/device_factory.h"

namespace ublkd::volume {

/// Devices of the running kernel's ublk driver. The control device is open only while it is needed
/// or a device lives, so that an idle ublkd does not keep the driver from being replaced.
class KernelDevices : public DeviceFactory {
 public:
  explicit KernelDevices(std::string control_path = "/dev/ublk-control")
      : control_path_(std::move(control_path)) {}

  absl::Status Probe() override;
  bool Present() const override;
  absl::StatusOr<DriverInfo> Driver() override;
  absl::StatusOr<std::vector<uint32_t>> Ids() override;
  absl::StatusOr<std::optional<KernelDevice>> Find(uint32_t id) override;
  absl::Status CheckUnused(uint32_t id) override;
  absl::Status Remove(uint32_t id, ublk::StopMode mode) override;
  absl::StatusOr<std::shared_ptr<ServedDevice>> Create(
      const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) override;
  absl::StatusOr<std::shared_ptr<ServedDevice>> Recover(
      const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) override;

 private:
  absl::StatusOr<std::shared_ptr<ublk::Control>> OpenControl();

  const std::string control_path_;
  std::mutex mutex_;
  /// Shared with the devices, which keep it open.
  std::weak_ptr<ublk::Control> control_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ublkd::volume
