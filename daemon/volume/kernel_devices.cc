// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/kernel_devices.h"

#include <unistd.h>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"
#include "daemon/ublk/disk_users.h"
#include "daemon/volume/device.h"

namespace ublkd::volume {
namespace {

constexpr char kDevicesFolder[] = "/sys/class/ublk-char";
constexpr char kDevicePrefix[] = "ublkc";
constexpr char kModuleVersion[] = "/sys/module/ublk_drv/version";
/// How long removing a dead server's device may wait for those who have it open.
constexpr int64_t kRemoveWaitMs = 5000;

class ServedKernelDevice : public ServedDevice {
 public:
  ServedKernelDevice(std::shared_ptr<ublk::Control> control, std::unique_ptr<ublk::Device> device)
      : control_(std::move(control)), device_(std::move(device)) {}

  uint32_t major() const override { return device_->major(); }
  uint32_t minor() const override { return device_->minor(); }
  const ublk::DeviceOptions& options() const override { return device_->options(); }
  ublk::Geometry geometry() const override { return device_->geometry(); }
  ublk::Features features() const override { return device_->features(); }
  bool live() const override { return device_->live(); }
  uint64_t RequestCount() const override { return device_->RequestCount(); }
  ublk::DeviceStats Stats() const override { return device_->Stats(); }
  void GiveMemoryBack() override { device_->GiveMemoryBack(); }
  absl::Status Stop(ublk::StopMode mode) override { return device_->Stop(mode); }
  absl::Status Leave(absl::Time deadline) override { return device_->Leave(deadline); }
  absl::Status Resize(uint64_t size_bytes) override { return device_->Resize(size_bytes); }
  absl::StatusOr<uint64_t> AvailableBytes() const override { return device_->AvailableBytes(); }

 private:
  // Outlives the device.
  std::shared_ptr<ublk::Control> control_;
  std::unique_ptr<ublk::Device> device_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<ublk::Control>> KernelDevices::OpenControl() {
  {
    const std::lock_guard lock(mutex_);
    if (std::shared_ptr<ublk::Control> open = control_.lock()) return open;
  }
  UBLKD_ASSIGN_OR_RETURN(std::unique_ptr<ublk::Control> opened, ublk::Control::Open(control_path_));
  std::shared_ptr<ublk::Control> control = std::move(opened);
  const std::lock_guard lock(mutex_);
  control_ = control;
  return control;
}

absl::Status KernelDevices::Probe() {
  UBLKD_ASSIGN_OR_RETURN(const std::shared_ptr<ublk::Control> control, OpenControl());
  // Drivers older than this feature (Linux 6.16) let the machine crash when a server is killed.
  if (control->features().Has(ublk::Feature::kQuiesce)) return absl::OkStatus();
  return absl::UnavailableError(
      "the ublk driver that is loaded is too old: it can crash the machine when its server is "
      "killed; unload it (\"rmmod ublk_drv\") and load the one that comes with ublkd");
}

bool KernelDevices::Present() const { return access(control_path_.c_str(), F_OK) == 0; }

absl::StatusOr<DriverInfo> KernelDevices::Driver() {
  UBLKD_ASSIGN_OR_RETURN(const std::shared_ptr<ublk::Control> control, OpenControl());
  DriverInfo info;
  info.features = control->features().Names();
  if (const absl::StatusOr<std::string> version = ReadFile(kModuleVersion); version.ok()) {
    info.version = std::string(absl::StripAsciiWhitespace(*version));
  }
  return info;
}

absl::StatusOr<std::vector<uint32_t>> KernelDevices::Ids() {
  UBLKD_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(kDevicesFolder));
  std::vector<uint32_t> ids;
  for (absl::string_view name : names) {
    uint32_t id = 0;
    if (absl::ConsumePrefix(&name, kDevicePrefix) && absl::SimpleAtoi(name, &id)) ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<std::optional<KernelDevice>> KernelDevices::Find(uint32_t id) {
  UBLKD_ASSIGN_OR_RETURN(const std::shared_ptr<ublk::Control> control, OpenControl());
  const absl::StatusOr<ublk::DeviceInfo> info = control->GetDeviceInfo(id);
  if (absl::IsNotFound(info.status())) return std::nullopt;
  UBLKD_RETURN_IF_ERROR(info.status());
  KernelDevice device;
  device.cookie = info->cookie;
  if (info->state == ublk::DeviceState::kDead) return device;
  device.server_pid = info->server_pid;
  if (info->state == ublk::DeviceState::kLive) device.state = DeviceState::kLive;
  if (info->state == ublk::DeviceState::kQuiesced) device.state = DeviceState::kQuiesced;
  device.recoverable = info->features.Has(ublk::Feature::kUserRecoveryReissue);
  UBLKD_ASSIGN_OR_RETURN(const ublk::Parameters parameters, control->GetParameters(id));
  device.geometry = parameters.geometry;
  device.disk = parameters.block_device;
  return device;
}

absl::Status KernelDevices::CheckUnused(uint32_t id) {
  UBLKD_ASSIGN_OR_RETURN(const auto device, Find(id));
  if (!device.has_value() || device->disk == 0) return absl::OkStatus();
  return ublk::ClaimUnusedDisk(BlockPath(id), device->disk).status();
}

absl::Status KernelDevices::Remove(uint32_t id, ublk::StopMode mode) {
  UBLKD_ASSIGN_OR_RETURN(const std::shared_ptr<ublk::Control> control, OpenControl());
  UniqueFd claim;
  if (mode == ublk::StopMode::kIfUnused && control->features().Has(ublk::Feature::kSafeStopDev)) {
    const absl::Status tried = control->TryStopDevice(id);
    // The device is gone, or its disk alone.
    if (!absl::IsNotFound(tried)) UBLKD_RETURN_IF_ERROR(tried);
  } else if (mode == ublk::StopMode::kIfUnused) {
    UBLKD_ASSIGN_OR_RETURN(const auto device, Find(id));
    if (!device.has_value()) return absl::OkStatus();
    absl::StatusOr<UniqueFd> claimed = ublk::ClaimUnusedDisk(BlockPath(id), device->disk);
    if (!absl::IsNotFound(claimed.status())) {
      UBLKD_ASSIGN_OR_RETURN(claim, std::move(claimed));
    }
  }
  const absl::Status stopped = control->StopDevice(id);
  if (absl::IsNotFound(stopped)) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(stopped);
  claim.Reset();
  const absl::Status deleted = control->DeleteDevice(id, ublk::DeleteMode::kWait, kRemoveWaitMs);
  return absl::IsNotFound(deleted) ? absl::OkStatus() : deleted;
}

absl::StatusOr<std::shared_ptr<ServedDevice>> KernelDevices::Create(
    const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) {
  UBLKD_ASSIGN_OR_RETURN(std::shared_ptr<ublk::Control> control, OpenControl());
  ublk::DeviceOptions lasting = options;
  lasting.recoverable = control->features().Has(ublk::Feature::kUserRecoveryReissue);
  UBLKD_ASSIGN_OR_RETURN(std::unique_ptr<ublk::Device> device,
                         ublk::Device::Create(*control, lasting, std::move(target)));
  return std::make_shared<ServedKernelDevice>(std::move(control), std::move(device));
}

absl::StatusOr<std::shared_ptr<ServedDevice>> KernelDevices::Recover(
    const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) {
  UBLKD_ASSIGN_OR_RETURN(std::shared_ptr<ublk::Control> control, OpenControl());
  UBLKD_ASSIGN_OR_RETURN(std::unique_ptr<ublk::Device> device,
                         ublk::Device::Recover(*control, options, std::move(target)));
  return std::make_shared<ServedKernelDevice>(std::move(control), std::move(device));
}

}  // namespace ublkd::volume
