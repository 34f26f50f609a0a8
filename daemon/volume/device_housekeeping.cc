// SPDX-License-Identifier: Apache-2.0
//
// What the device manager does beside the calls: it waits for the driver, takes away what a killed
// server left, buries devices that ended by themselves, and stops all of them at the end.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/volume/device_manager.h"

namespace ublkd::volume {
namespace {

bool IsAlive(pid_t pid) { return kill(pid, 0) == 0 || errno == EPERM; }

// How often a device in use is tried again while the server stops.
constexpr absl::Duration kStopPoll = absl::Milliseconds(100);
constexpr size_t kMaxStopThreads = 8;

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

DeviceManager::~DeviceManager() { Shutdown(std::chrono::milliseconds(0)); }

void DeviceManager::Start() {
  housekeeper_ = std::thread([this] { KeepHouse(); });
}

void DeviceManager::WaitForFirstLook() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return looked_; });
}

absl::Status DeviceManager::Started() const {
  const std::lock_guard lock(mutex_);
  if (looked_) return absl::OkStatus();
  return absl::UnavailableError(
      "ublkd is starting: it takes away what a killed one left; try again");
}

void DeviceManager::WakeHousekeeper() {
  const std::lock_guard lock(mutex_);
  wake_ = true;
  changed_.notify_all();
}

void DeviceManager::KeepHouse() {
  for (;;) {
    const bool ready = LookForDriver();
    ReapEnded();
    std::unique_lock lock(mutex_);
    looked_ = true;
    changed_.notify_all();
    const auto due = [this] { return wake_ || stopping_; };
    if (ready) {
      changed_.wait(lock, due);
    } else {
      changed_.wait_for(lock, options_.driver_poll, due);
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
  if (status.ok() && !was_ready) status = RemoveLeftovers();
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

absl::Status DeviceManager::RemoveLeftovers() {
  UBLKD_ASSIGN_OR_RETURN(const auto records, records_.Load());
  for (const auto& [id, record] : records) {
    if (record.ok()) {
      bool ours = false;
      {
        const std::lock_guard lock(mutex_);
        ours = devices_.count(id) != 0;
      }
      if (!ours) RemoveLeftover(*record);
      continue;
    }
    LogError("device record cannot be read and is left alone",
             {{"path", records_.PathOf(id)}, {"reason", std::string(record.status().message())}});
    const std::lock_guard lock(mutex_);
    blocked_ids_.insert(id);
  }
  return absl::OkStatus();
}

void DeviceManager::RemoveLeftover(const DeviceRecord& record) {
  const uint32_t id = *record.spec.id;
  const auto drop = [&](LogLevel level, absl::string_view why) {
    const absl::Status removed = records_.Remove(id);
    Log(level, why,
        {{"device", id},
         {"target", DescribeTarget(record.spec)},
         {"server_pid", record.server_pid},
         {"record", removed.ok() ? std::string("removed") : std::string(removed.message())}});
  };
  if (record.boot_id != options_.boot_id) {
    return drop(LogLevel::kInfo, "device of an earlier boot is forgotten");
  }
  const absl::StatusOr<std::optional<KernelDevice>> known = factory_.Find(id);
  if (!known.ok()) {
    return LogError("leftover device cannot be looked at",
                    {{"device", id}, {"reason", std::string(known.status().message())}});
  }
  if (!known->has_value()) return drop(LogLevel::kInfo, "device that is gone is forgotten");

  // Nobody else holds the lock of the records, so the process that wrote this one is dead, even if
  // its number was given to another meanwhile (in a new container it is often our own).
  const pid_t server = (*known)->server_pid;
  const bool of_the_dead = server <= 0 || server == record.server_pid || server == getpid();
  if (!of_the_dead && IsAlive(server)) {
    return drop(LogLevel::kWarning, "id of a lost device is used by another server: left alone");
  }
  LogWarning(
      "server of a device was killed: the device is removed",
      {{"device", id}, {"target", DescribeTarget(record.spec)}, {"server_pid", record.server_pid}});
  if (const absl::Status removed = factory_.Remove(id); !removed.ok()) {
    // The record stays, so that the next start tries again.
    return LogError("leftover device cannot be removed",
                    {{"device", id}, {"reason", std::string(removed.message())}});
  }
  drop(LogLevel::kInfo, "leftover device is removed");
}

void DeviceManager::ReapEnded() {
  std::vector<std::pair<DeviceView, std::shared_ptr<ServedDevice>>> ended;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, entry] : devices_) {
      if (entry.phase != Phase::kLive || entry.device->live()) continue;
      entry.phase = Phase::kDeleting;
      ended.emplace_back(entry.view, entry.device);
    }
  }
  for (const auto& [view, device] : ended) {
    LogError("device was removed by somebody else",
             {{"device", view.id}, {"target", DescribeTarget(view.spec)}});
    const absl::Status stopped = device->Stop(ublk::StopMode::kForce);
    if (!stopped.ok()) {
      LogError("device that ended cannot be cleaned up",
               {{"device", view.id}, {"reason", std::string(stopped.message())}});
    }
    GiveIdBack(view.id);
  }
}

void DeviceManager::StopTakingCalls() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (housekeeper_.joinable()) housekeeper_.join();
}

void DeviceManager::Shutdown(std::chrono::milliseconds grace) {
  StopTakingCalls();
  std::vector<std::pair<DeviceView, std::shared_ptr<ServedDevice>>> live;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, entry] : devices_) {
      if (entry.phase != Phase::kLive) continue;
      entry.phase = Phase::kDeleting;
      live.emplace_back(entry.view, entry.device);
    }
  }
  const absl::Time deadline = absl::Now() + absl::FromChrono(grace);
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < live.size(); i = next++) {
      const auto& [view, device] = live[i];
      const absl::Status stopped = StopForGood(view, *device, deadline);
      if (stopped.ok()) {
        GiveIdBack(view.id);
        continue;
      }
      LogError("device did not stop", {{"device", view.id},
                                       {"target", DescribeTarget(view.spec)},
                                       {"reason", std::string(stopped.message())}});
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < std::min(live.size(), kMaxStopThreads); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace ublkd::volume
