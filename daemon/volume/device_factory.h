// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "daemon/ublk/device.h"
#include "daemon/ublk/device_target.h"
#include "daemon/ublk/stats.h"
#include "daemon/volume/device.h"

/// The seam between the devices' bookkeeping and the engine.
namespace ublkd::volume {

struct DriverInfo {
  /// Of the module; empty for one that names none.
  std::string version;
  /// Names of the features that the driver offers.
  std::vector<std::string> features;
};

/// A device as the kernel knows it, whoever made it.
struct KernelDevice {
  /// -1 when nobody serves it.
  pid_t server_pid = -1;
  /// Of who made it; see ublk::DeviceOptions.
  uint64_t cookie = 0;
  /// It has a disk that outlives its server.
  bool recoverable = false;
  DeviceState state = DeviceState::kFailed;
  /// What follows is empty without a disk.
  ublk::Geometry geometry;
  dev_t disk = 0;
};

/// A live disk. Any thread.
class ServedDevice {
 public:
  virtual ~ServedDevice() = default;
  virtual uint32_t major() const = 0;
  virtual uint32_t minor() const = 0;
  /// As in effect.
  virtual const ublk::DeviceOptions& options() const = 0;
  /// As it is now: the size grows.
  virtual ublk::Geometry geometry() const = 0;
  virtual ublk::Features features() const = 0;
  /// False once the disk is gone, whoever removed it.
  virtual bool live() const = 0;
  /// See ublk::Device::RequestCount.
  virtual uint64_t RequestCount() const = 0;
  /// Never waits, whatever the backend does.
  virtual ublk::DeviceStats Stats() const = 0;
  /// See ublk::Device::GiveMemoryBack.
  virtual void GiveMemoryBack() = 0;
  /// See ublk::Device::Stop.
  virtual absl::Status Stop(ublk::StopMode mode) = 0;
  /// See ublk::Device::Leave.
  virtual absl::Status Leave(absl::Time deadline) = 0;
  /// See ublk::Device::Resize.
  virtual absl::Status Resize(uint64_t size_bytes) = 0;
  /// See ublk::Device::AvailableBytes.
  virtual absl::StatusOr<uint64_t> AvailableBytes() const = 0;
};

/// Makes and removes devices. Any thread.
class DeviceFactory {
 public:
  virtual ~DeviceFactory() = default;
  /// OK when devices can be made now; UNAVAILABLE or PERMISSION_DENIED with the remedy.
  virtual absl::Status Probe() = 0;
  /// False when the driver is certainly not there; quick, and never waits.
  virtual bool Present() const = 0;
  virtual absl::StatusOr<DriverInfo> Driver() = 0;
  /// Of all devices that the kernel has, whoever made them.
  virtual absl::StatusOr<std::vector<uint32_t>> Ids() = 0;
  /// nullopt when the kernel has no device of that id.
  virtual absl::StatusOr<std::optional<KernelDevice>> Find(uint32_t id) = 0;
  /// FAILED_PRECONDITION says who has the disk open or mounted, as far as that can be seen from
  /// this process's PID namespace.
  virtual absl::Status CheckUnused(uint32_t id) = 0;
  /// Removes a device that nobody serves from the kernel. FAILED_PRECONDITION it is in use, when
  /// that matters, else DEADLINE_EXCEEDED: it then goes with the last user.
  virtual absl::Status Remove(uint32_t id, ublk::StopMode mode) = 0;
  /// See ublk::Device::Create. The disk outlives this server where the driver can do that, whatever
  /// the options say.
  virtual absl::StatusOr<std::shared_ptr<ServedDevice>> Create(
      const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) = 0;
  /// See ublk::Device::Recover.
  virtual absl::StatusOr<std::shared_ptr<ServedDevice>> Recover(
      const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) = 0;
};

}  // namespace ublkd::volume
