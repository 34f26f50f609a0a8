// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
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
#include "daemon/base/log.h"
#include "daemon/target/throttle.h"
#include "daemon/volume/device.h"
#include "daemon/volume/device_factory.h"
#include "daemon/volume/device_record.h"
#include "daemon/volume/device_watch.h"
#include "daemon/volume/guard_link.h"
#include "daemon/volume/in_flight.h"
#include "daemon/volume/volume_manager.h"

namespace ublkd::volume {

struct DeviceManagerOptions {
  DeviceBounds bounds;
  /// Of the running boot.
  std::string boot_id;
  /// How often a driver that is missing is looked for.
  std::chrono::milliseconds driver_poll{500};
  /// How often a device that could not be taken over is tried again.
  std::chrono::milliseconds recovery_poll{5000};
  /// How long taking over waits for data that does not answer before it goes on with what else
  /// there is to do; such a device is taken over when its data does answer.
  std::chrono::milliseconds recovery_limit{7000};
  /// How often the counters of the devices are looked at, and what is then worth a line in the log.
  std::chrono::milliseconds watch_period{1000};
  DeviceWatch::Options watch;
  /// How long, at the end, a device that is left may take to finish what it holds.
  std::chrono::milliseconds leave_limit{5000};
  /// At the end, devices that outlive their server are left to the next one.
  bool leave_devices = true;
  /// Of devices that name none.
  uint32_t fail_after_seconds = 0;
  /// Outlives the manager; null where there shall be none.
  GuardLink* guard = nullptr;
  /// How long a guard may take to let go of the devices of the server before.
  absl::Duration guard_patience = GuardLink::kPatience;
};

/// How the devices of earlier servers were taken over.
struct RecoveryStats {
  static constexpr std::array kBoundsSeconds = {0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0};
  uint64_t taken_over = 0;
  /// Attempts; each device is tried again until it works.
  uint64_t failed = 0;
  /// Of those taken over: the sum, and how many took no longer than each bound and longer than the
  /// one before.
  double seconds = 0;
  std::array<uint64_t, kBoundsSeconds.size()> buckets = {};
};

/// All devices of this server: makes them, keeps their records, takes over what the server before
/// left behind, or takes it away where the driver cannot do that. Until the driver is there and all
/// leftovers were looked at every call is UNAVAILABLE.
///
/// Any thread. No call waits for a call about another device or volume; one about the same is
/// ABORTED at once.
class DeviceManager : public Attachments {
 public:
  /// `factory` and `volumes` outlive the manager.
  DeviceManager(DeviceManagerOptions options, DeviceFactory& factory, VolumeManager& volumes,
                DeviceRecords records);
  /// Stops what is left by force.
  ~DeviceManager() override;
  DeviceManager(const DeviceManager&) = delete;
  DeviceManager& operator=(const DeviceManager&) = delete;

  /// Begins to look for the driver and for leftovers, on a thread of its own. Call once.
  void Start();
  /// Returns when the first look for the driver and the leftovers has ended, whatever it found.
  void WaitForFirstLook();
  /// UNAVAILABLE until it is known which volumes the server before has left attached: a volume that
  /// looks free may be in use. Without a driver none is. Never waits.
  absl::Status Started() const;
  /// OK when devices can be made, else the reason with its remedy. Never waits.
  absl::Status Readiness();
  /// As last seen; empty while there is none. Never waits.
  DriverInfo Driver() const;

  /// Attaches; see proto/ublkd/v1/device.proto for the codes. Attaching a volume or file again in
  /// the same way returns the device that serves it.
  absl::StatusOr<DeviceView> Create(const DeviceSpec& request);
  /// Detaches, also one that waits to be taken over. One that is not there is success; one that is
  /// in use, or that another server made, FAILED_PRECONDITION.
  absl::Status Delete(uint32_t id);
  /// Other limits, also for one that waits to be taken over; on disk when it answers. NOT_FOUND,
  /// FAILED_PRECONDITION another server made it.
  absl::StatusOr<DeviceView> SetLimits(uint32_t id, const target::IoLimits& limits);
  absl::StatusOr<DeviceView> Get(uint32_t id);
  /// In the order of their ids; with `all` also those that others made.
  absl::StatusOr<std::vector<DeviceView>> List(bool all = false);

  /// Grows a device that serves no volume, while it is used: null to any size, a file to what it
  /// has by now (0: to all of that). See proto/ublkd/v1/device.proto for the codes.
  absl::StatusOr<DeviceView> Resize(uint32_t id, uint64_t size_bytes);

  std::optional<Attachment> AttachedTo(const std::string& volume_id) const override;
  absl::Status GrowDisk(const std::string& volume_id, uint64_t size_bytes) override;
  /// All devices with their counters, which are empty while nobody serves them. Never waits,
  /// whatever the backends do.
  std::vector<DeviceSnapshot> Snapshot() const;

  RecoveryStats Recoveries() const;

  /// ublkd-guard is there. Never waits.
  bool guarded() const { return options_.guard != nullptr && options_.guard->connected(); }

  /// Takes no more calls and leaves the devices to the next server, or stops them: those in use are
  /// given `grace`, logged and then stopped by force.
  ///
  /// False when a backend does not answer: threads that serve it still run, so the manager cannot
  /// be destroyed. Ending the process is all that is left to do, and does no harm: the kernel sends
  /// the next server what was not answered.
  bool Shutdown(std::chrono::milliseconds grace);

 private:
  /// A device that waits was left by a server, and could not be taken over yet.
  enum class Phase { kCreating, kLive, kWaiting, kRecovering, kChanging, kDeleting };
  struct Entry {
    bool exists() const { return phase != Phase::kCreating; }
    bool served() const {
      return phase == Phase::kLive || (phase == Phase::kChanging && device != nullptr);
    }
    Phase phase = Phase::kCreating;
    /// What is served, in words; empty for what any number of devices may serve.
    std::string key;
    DeviceView view;
    /// As on disk, once it exists.
    DeviceRecord record;
    /// Set when served.
    std::shared_ptr<ServedDevice> device;
    std::shared_ptr<target::Throttle> throttle;
  };

  /// Of an entry that exists: what it is, and with its errors.
  static DeviceView PlainViewOf(const Entry& entry);
  static DeviceView ViewOf(const Entry& entry);
  std::optional<DeviceView> ViewOfForeign(uint32_t id);

  // Creation.
  struct Plan;
  absl::Status FindData(Plan& plan);
  absl::Status PlanVolume(const VolumeSpec& volume, Plan& plan);
  absl::Status PlanFile(const FileSpec& file, Plan& plan);
  absl::StatusOr<std::optional<DeviceView>> FindSame(const Plan& plan);
  struct Blocked {
    /// As Entry's; also empty when there is no such device.
    std::string key = {};
    uint64_t disk_bytes = 0;
  };
  std::optional<Attachment> FindBlocked(const std::string& key) const;
  absl::Status RefuseBlocked(uint32_t id) const;
  absl::StatusOr<DeviceView> MakeDevice(Plan& plan);
  absl::StatusOr<uint32_t> TakeId(const Plan& plan, uint32_t first);
  absl::Status TakeThisId(const Plan& plan, uint32_t id);
  absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> MakeTarget(Plan& plan,
                                                                 absl::Duration wait) const;
  absl::StatusOr<DeviceView> Attach(const Plan& plan, uint32_t id,
                                    std::unique_ptr<ublk::DeviceTarget> target);
  static void FillInEffective(DeviceRecord& record, const ServedDevice& device);
  void FillInFailAfter(DeviceRecord& record) const;
  DeviceView Publish(const Plan& plan, const DeviceRecord& record,
                     const std::shared_ptr<ServedDevice>& device);
  void GiveIdBack(uint32_t id);

  // Deletion and changes.
  static absl::Status Busy(uint32_t id);
  absl::StatusOr<InFlight::Lease> LockServed(const Entry& entry);
  absl::StatusOr<Entry> Find(uint32_t id);
  absl::Status BeginPhase(const Entry& entry, Phase phase);
  /// OK when the kernel has no such device either.
  absl::Status RefuseForeign(uint32_t id, absl::string_view verb);
  static absl::Status NoSuchDevice(uint32_t id);
  absl::Status StopOrRemove(const Entry& entry) const;

  // Growth (device_resize.cc).
  absl::StatusOr<Entry> BeginResize(uint32_t id);
  void EndResize(uint32_t id);
  absl::Status ResizeTarget(const Entry& entry, uint64_t size_bytes);
  absl::Status ResizeNull(const Entry& entry, uint64_t size_bytes);
  static absl::Status ResizeToFile(const Entry& entry, uint64_t size_bytes);

  // What a server left (device_recovery.cc), on the housekeeping thread and helpers of its own.
  absl::Status LookForLeftovers();
  bool LookAtLeftover(const DeviceRecord& record);
  void SeeToLeftover(const DeviceRecord& record, const KernelDevice& known);
  Blocked WhatIsBlocked(uint32_t id) const;
  void ForgetLeftover(const DeviceRecord& record, LogLevel level, absl::string_view why);
  void RemoveLeftover(const DeviceRecord& record);
  void Adopt(const DeviceRecord& record, const KernelDevice& known);
  struct Round;
  bool RecoverWaiting();
  void RunRound(Round& round);
  void AbandonRound(Round& round);
  bool WaitForRecoverers(absl::Duration limit);
  void Recover(uint32_t id);
  absl::Status TakeOver(DeviceRecord record);
  void CountRecovery(absl::Duration took);
  bool GuardHolds() const;
  void WarnIfUnguarded(const DeviceRecord& record);

  // The housekeeping thread (device_housekeeping.cc).
  void KeepHouse();
  bool LookForDriver();
  void LookForEnded();
  void LookAtEnded(const Entry& entry);
  void Await(uint32_t id, const absl::Status& why);
  void SetReadiness(const absl::Status& status, const DriverInfo& driver);
  void WakeHousekeeper();
  /// On a thread of its own, which waits for nothing but the clock.
  void WatchDevices();
  /// Stops the housekeeper and the watch; no call begins after this.
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
  /// By the ids whose records cannot be read, and must stay as they are.
  std::map<uint32_t, Blocked> blocked_ ABSL_GUARDED_BY(mutex_);
  absl::Status readiness_ ABSL_GUARDED_BY(mutex_) =
      absl::UnavailableError("ublkd is starting: devices are being taken over; try again");
  DriverInfo driver_ ABSL_GUARDED_BY(mutex_);
  RecoveryStats recoveries_ ABSL_GUARDED_BY(mutex_);
  /// Threads that take over; one may wait for its data as long as that does not answer.
  size_t recoverers_ ABSL_GUARDED_BY(mutex_) = 0;
  bool looked_ ABSL_GUARDED_BY(mutex_) = false;
  bool knows_leftovers_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool wake_ ABSL_GUARDED_BY(mutex_) = false;
  bool warned_unguarded_ ABSL_GUARDED_BY(mutex_) = false;
  /// `looked_`, `stopping_`, `wake_`, `recoverers_` or the devices changed.
  std::condition_variable changed_;
  std::thread housekeeper_;
  std::thread watcher_;
};

}  // namespace ublkd::volume
