// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "daemon/volume/device.h"
#include "daemon/volume/device_factory.h"
#include "daemon/volume/device_record.h"
#include "daemon/volume/in_flight.h"
#include "daemon/volume/volume_manager.h"

namespace ublkd::volume {

struct DeviceManagerOptions {
  DeviceLimits limits;
  /// Of the running boot.
  std::string boot_id;
  /// How often a driver that is missing is looked for.
  std::chrono::milliseconds driver_poll{500};
};

/// A device and its counters at one moment.
struct DeviceSnapshot {
  DeviceView view;
  ublk::DeviceStats stats;
};

/// All devices of this server: makes them, keeps their records, takes away what a killed server
/// left behind. Until the driver is there and the leftovers are gone every call is UNAVAILABLE.
///
/// Any thread. No call waits for a call about another device or volume; one about the same is
/// ABORTED at once.
class DeviceManager {
 public:
  /// `factory` and `volumes` outlive the manager.
  DeviceManager(DeviceManagerOptions options, DeviceFactory& factory, VolumeManager& volumes,
                DeviceRecords records);
  /// Stops what is left by force.
  ~DeviceManager();
  DeviceManager(const DeviceManager&) = delete;
  DeviceManager& operator=(const DeviceManager&) = delete;

  /// Begins to look for the driver and for leftovers, on a thread of its own. Call once.
  void Start();
  /// Returns when the first look for the driver and the leftovers has ended, whatever it found.
  void WaitForFirstLook();
  /// UNAVAILABLE until the first look has ended. Never waits.
  absl::Status Started() const;
  /// OK when devices can be made, else the reason with its remedy. Never waits.
  absl::Status Readiness();
  /// As last seen; empty while there is none. Never waits.
  DriverInfo Driver() const;

  /// Attaches; see proto/ublkd/v1/device.proto for the codes. Attaching a volume or file again in
  /// the same way returns the device that serves it.
  absl::StatusOr<DeviceView> Create(const DeviceSpec& request);
  /// Detaches. One that is not there is success; one that is in use, or that another server made,
  /// FAILED_PRECONDITION.
  absl::Status Delete(uint32_t id);
  absl::StatusOr<DeviceView> Get(uint32_t id);
  absl::StatusOr<std::vector<DeviceView>> List();

  /// The device that serves the volume. Never waits.
  std::optional<uint32_t> AttachedTo(const std::string& volume_id) const;
  /// All live devices with their counters. Never waits, whatever the backends do.
  std::vector<DeviceSnapshot> Snapshot() const;

  /// Takes no more calls and stops every device: those in use are given `grace`, logged and then
  /// stopped by force.
  void Shutdown(std::chrono::milliseconds grace);

 private:
  enum class Phase { kCreating, kLive, kDeleting };
  struct Entry {
    Phase phase = Phase::kCreating;
    /// What is served, in words; empty for what any number of devices may serve.
    std::string key;
    DeviceView view;
    /// Set when live.
    std::shared_ptr<ServedDevice> device;
  };

  /// Of an entry that has its device.
  static DeviceView ViewOf(const Entry& entry);

  // Creation.
  struct Plan;
  absl::StatusOr<Plan> MakePlan(const DeviceSpec& request);
  absl::Status PlanVolume(const VolumeSpec& volume, Plan& plan);
  absl::Status PlanFile(const FileSpec& file, Plan& plan);
  absl::StatusOr<std::optional<DeviceView>> FindSame(const Plan& plan);
  absl::StatusOr<DeviceView> MakeDevice(Plan& plan);
  absl::StatusOr<uint32_t> TakeId(const Plan& plan, uint32_t first);
  absl::Status TakeThisId(const Plan& plan, uint32_t id);
  absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeTarget(const Plan& plan) const;
  absl::StatusOr<DeviceView> Attach(const Plan& plan, uint32_t id,
                                    std::unique_ptr<ublk::DeviceTarget> target);
  absl::StatusOr<DeviceView> Publish(DeviceRecord record,
                                     const std::shared_ptr<ServedDevice>& device);
  void GiveIdBack(uint32_t id);

  // Deletion.
  absl::StatusOr<InFlight::Lease> LockServed(const Entry& entry);
  absl::Status DeleteForeign(uint32_t id);

  // The housekeeping thread (device_housekeeping.cc).
  void KeepHouse();
  bool LookForDriver();
  absl::Status RemoveLeftovers();
  void RemoveLeftover(const DeviceRecord& record);
  void ReapEnded();
  void SetReadiness(const absl::Status& status, const DriverInfo& driver);
  void WakeHousekeeper();
  /// Stops the housekeeper; no call begins after this.
  void StopTakingCalls();

  const DeviceManagerOptions options_;
  DeviceFactory& factory_;
  VolumeManager& volumes_;
  const DeviceRecords records_;
  /// Ad-hoc files; volumes are locked by their manager.
  InFlight in_flight_;

  mutable std::mutex mutex_;
  /// By id. Never held over a kernel call.
  std::map<uint32_t, Entry> devices_ ABSL_GUARDED_BY(mutex_);
  /// Ids whose records cannot be read and must stay as they are.
  std::set<uint32_t> blocked_ids_ ABSL_GUARDED_BY(mutex_);
  absl::Status readiness_ ABSL_GUARDED_BY(mutex_) =
      absl::UnavailableError("ublkd is starting: leftover devices are being removed; try again");
  DriverInfo driver_ ABSL_GUARDED_BY(mutex_);
  bool looked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool wake_ ABSL_GUARDED_BY(mutex_) = false;
  /// `looked_`, `stopping_` or `wake_` changed.
  std::condition_variable changed_;
  std::thread housekeeper_;
};

}  // namespace ublkd::volume
