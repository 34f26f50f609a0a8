// SPDX-License-Identifier: Apache-2.0
//
// What the device manager does beside the calls: it waits for the driver, sees to devices that
// ended by themselves, watches for trouble, and leaves or stops all of them at the end.
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/volume/device_manager.h"
#include "daemon/volume/parallel.h"

namespace ublkd::volume {
namespace {

// How often a device in use is tried again while the server stops.
constexpr absl::Duration kStopPoll = absl::Milliseconds(100);

// Stops one device: kindly as long as there is time, then by force.
absl::Status StopForGood(const DeviceView& view, ServedDevice& device, absl::Time deadline) {
  absl::Status status = device.Stop(ublk::StopMode::kIfUnused);
  if (absl::IsFailedPrecondition(status)) {
    LogWarning("device is in use while ublkd stops", {{"device", view.id},
                                                      {"target", DescribeTarget(view.spec)},
                                                      {"reason", std::string(status.message())}});
    while (absl::IsFailedPrecondition(status) && absl::Now() < deadline) {
      absl::SleepFor(kStopPoll);
      status = device.Stop(ublk::StopMode::kIfUnused);
    }
  }
  if (status.ok()) return status;
  LogWarning("device is stopped by force", {{"device", view.id},
                                            {"target", DescribeTarget(view.spec)},
                                            {"reason", std::string(status.message())}});
  return device.Stop(ublk::StopMode::kForce);
}

}  // namespace

DeviceManager::~DeviceManager() {
  Shutdown(std::chrono::milliseconds(0));
  while (!WaitForRecoverers(absl::Seconds(1))) continue;
}

void DeviceManager::Start() {
  housekeeper_ = std::thread([this] { KeepHouse(); });
  watcher_ = std::thread([this] { WatchDevices(); });
}

void DeviceManager::WatchDevices() {
  DeviceWatch watch(options_.watch);
  const auto stopping = [this] { return stopping_; };
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (devices_.empty()) {
      changed_.wait(lock, [this] { return stopping_ || !devices_.empty(); });
    } else {
      changed_.wait_for(lock, options_.watch_period, stopping);
    }
    std::vector<WatchedDevice> served;
    for (const auto& [id, entry] : devices_) {
      if (!entry.exists() || entry.device == nullptr) continue;
      served.push_back({id, entry.view.created_at, entry.record.generation, entry.view.spec,
                        entry.device->RequestCount(),
                        [device = entry.device] { return device->Stats(); },
                        [device = entry.device] { device->GiveMemoryBack(); }});
    }
    lock.unlock();
    watch.Look(served, absl::Now());
    // A device may end with the last who knows it.
    served.clear();
    lock.lock();
  }
}

void DeviceManager::WaitForFirstLook() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return looked_; });
}

absl::Status DeviceManager::Started() const {
  const std::lock_guard lock(mutex_);
  if (knows_leftovers_) return absl::OkStatus();
  if (looked_) return readiness_;
  return absl::UnavailableError(
      "ublkd is starting: it takes over the devices of the one before; try again");
}

void DeviceManager::WakeHousekeeper() {
  const std::lock_guard lock(mutex_);
  wake_ = true;
  changed_.notify_all();
}

void DeviceManager::KeepHouse() {
  if (options_.guard != nullptr) options_.guard->WaitUntilClear(options_.guard_patience);
  for (;;) {
    const bool ready = LookForDriver();
    LookForEnded();
    const bool all_served = RecoverWaiting();
    const bool leftovers_are_known = ready || !factory_.Present();
    std::unique_lock lock(mutex_);
    looked_ = true;
    knows_leftovers_ = knows_leftovers_ || leftovers_are_known;
    changed_.notify_all();
    const auto due = [this] { return wake_ || stopping_; };
    if (ready && all_served) {
      changed_.wait(lock, due);
    } else {
      changed_.wait_for(lock, ready ? options_.recovery_poll : options_.driver_poll, due);
    }
    if (stopping_) return;
    wake_ = false;
  }
}

// True when devices can be made.
bool DeviceManager::LookForDriver() {
  bool was_ready = false;
  {
    const std::lock_guard lock(mutex_);
    was_ready = readiness_.ok();
  }
  absl::Status status = factory_.Probe();
  DriverInfo driver;
  if (status.ok()) {
    const absl::StatusOr<DriverInfo> found = factory_.Driver();
    if (found.ok()) driver = *found;
    status = found.status();
  }
  if (status.ok() && !was_ready) status = LookForLeftovers();
  SetReadiness(status, driver);
  return status.ok();
}

void DeviceManager::SetReadiness(const absl::Status& status, const DriverInfo& driver) {
  bool changed = false;
  {
    const std::lock_guard lock(mutex_);
    changed = status != readiness_;
    readiness_ = status;
    driver_ = driver;
  }
  if (!changed) return;
  if (status.ok()) {
    LogInfo("devices can be attached", {{"driver_version", driver.version},
                                        {"driver_features", absl::StrJoin(driver.features, " ")}});
  } else {
    LogWarning("devices cannot be attached", {{"code", absl::StatusCodeToString(status.code())},
                                              {"reason", std::string(status.message())}});
  }
}

void DeviceManager::LookForEnded() {
  std::vector<Entry> ended;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, entry] : devices_) {
      if (entry.phase != Phase::kLive || entry.device->live()) continue;
      entry.phase = Phase::kDeleting;
      ended.push_back(entry);
    }
  }
  for (const Entry& entry : ended) LookAtEnded(entry);
}

// Nobody serves it any more. If there still is a disk, somebody has quiesced it.
void DeviceManager::LookAtEnded(const Entry& entry) {
  const uint32_t id = entry.view.id;
  const std::string target = DescribeTarget(entry.view.spec);
  // Whatever it says, the driver knows better.
  (void)entry.device->Leave(absl::InfiniteFuture());
  const absl::StatusOr<std::optional<KernelDevice>> known = factory_.Find(id);
  if (!known.ok()) {
    // No reason to give up what may have users.
    LogError(
        "service of a device has ended, and the driver does not tell why: it is tried again",
        {{"device", id}, {"target", target}, {"reason", std::string(known.status().message())}});
    return Await(id, known.status());
  }
  const bool ours = known->has_value() && !entry.record.IsNotOf((*known)->cookie);
  if (ours && (*known)->recoverable) {
    LogWarning("service of a device has ended: it is taken over",
               {{"device", id}, {"target", target}});
    Adopt(entry.record, **known);
    return;
  }
  LogError("device was removed by somebody else", {{"device", id}, {"target", target}});
  const absl::Status stopped = entry.device->Stop(ublk::StopMode::kForce);
  if (!stopped.ok()) {
    LogError("device that ended cannot be cleaned up",
             {{"device", id}, {"reason", std::string(stopped.message())}});
  }
  GiveIdBack(id);
}

// From now on it waits to be taken over.
void DeviceManager::Await(uint32_t id, const absl::Status& why) {
  const std::lock_guard lock(mutex_);
  Entry& entry = devices_[id];
  entry.phase = Phase::kWaiting;
  entry.device = nullptr;
  entry.throttle = nullptr;
  entry.view.state = DeviceState::kQuiesced;
  entry.view.server_pid = 0;
  entry.view.reason = std::string(why.message());
}

void DeviceManager::StopTakingCalls() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (housekeeper_.joinable()) housekeeper_.join();
  if (watcher_.joinable()) watcher_.join();
}

bool DeviceManager::Shutdown(std::chrono::milliseconds grace) {
  StopTakingCalls();
  std::atomic<bool> all_ended = WaitForRecoverers(absl::FromChrono(options_.leave_limit));
  std::vector<std::pair<DeviceView, std::shared_ptr<ServedDevice>>> live;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, entry] : devices_) {
      if (!entry.served()) continue;
      entry.phase = Phase::kDeleting;
      live.emplace_back(entry.view, entry.device);
    }
  }
  const absl::Time deadline = absl::Now() + absl::FromChrono(grace);
  const absl::Time leave_deadline = absl::Now() + absl::FromChrono(options_.leave_limit);
  ForEachInParallel(live, [&](const auto& item) {
    const auto& [view, device] = item;
    // FAILED_PRECONDITION: it ends with its server.
    absl::Status ended = absl::FailedPreconditionError("");
    if (options_.leave_devices) {
      ended = device->Leave(leave_deadline);
      if (absl::IsDeadlineExceeded(ended)) all_ended = false;
    }
    if (ended.ok()) {
      FailPoint("leave.left");
      LogInfo("device is left to the next server",
              {{"device", view.id}, {"target", DescribeTarget(view.spec)}});
      return;
    }
    if (absl::IsFailedPrecondition(ended)) {
      ended = StopForGood(view, *device, deadline);
      if (ended.ok()) return GiveIdBack(view.id);
    }
    LogError("device did not end", {{"device", view.id},
                                    {"target", DescribeTarget(view.spec)},
                                    {"reason", std::string(ended.message())}});
  });
  return all_ended;
}

}  // namespace ublkd::volume
