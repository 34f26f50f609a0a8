// SPDX-License-Identifier: Apache-2.0
//
// What a server that was killed, or left, has given up: its users wait until it is taken over. A
// disk that does not outlive its server is taken away.
#include <signal.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/volume/device_manager.h"
#include "daemon/volume/device_plan.h"
#include "daemon/volume/parallel.h"

namespace ublkd::volume {
namespace {

bool IsAlive(pid_t pid) { return kill(pid, 0) == 0 || errno == EPERM; }

// What the kernel knows of a device.
DeviceView ViewOfKernel(uint32_t id, const KernelDevice& known) {
  DeviceView view;
  view.id = id;
  view.path = BlockPath(id);
  view.major = ::major(known.disk);
  view.minor = ::minor(known.disk);
  view.state = known.state;
  view.size_bytes = known.geometry.size_bytes;
  view.server_pid = std::max(known.server_pid, 0);
  return view;
}

}  // namespace

absl::Status DeviceManager::LookForLeftovers() {
  UBLKD_ASSIGN_OR_RETURN(const auto records, records_.Load());
  std::vector<DeviceRecord> leftovers;
  for (const auto& [id, record] : records) {
    if (!record.ok()) {
      const Blocked blocked = WhatIsBlocked(id);
      LogError("device record cannot be read and is left alone",
               {{"path", records_.PathOf(id)}, {"reason", std::string(record.status().message())}});
      const std::lock_guard lock(mutex_);
      blocked_[id] = blocked;
      continue;
    }
    const std::lock_guard lock(mutex_);
    if (devices_.count(id) == 0) leftovers.push_back(*record);
  }
  std::atomic<size_t> unknown = 0;
  ForEachInParallel(leftovers, [&](const DeviceRecord& record) {
    if (!LookAtLeftover(record)) ++unknown;
  });
  RecoverWaiting();
  if (unknown == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the driver does not tell about ", unknown.load(),
                                             " devices of the ublkd before; it is asked "
                                             "again, see the log"));
}

// A device whose record cannot be read: what it serves must not be served a second time.
DeviceManager::Blocked DeviceManager::WhatIsBlocked(uint32_t id) const {
  const absl::StatusOr<std::optional<KernelDevice>> known = factory_.Find(id);
  if (known.ok() && !known->has_value()) return {};
  return {.key = records_.TargetOfUnreadable(id),
          .disk_bytes = known.ok() ? (*known)->geometry.size_bytes : 0};
}

void DeviceManager::ForgetLeftover(const DeviceRecord& record, LogLevel level,
                                   absl::string_view why) {
  const absl::Status removed = records_.Remove(*record.spec.id);
  Log(level, why,
      {{"device", *record.spec.id},
       {"target", DescribeTarget(record.spec)},
       {"server_pid", record.server_pid},
       {"record", removed.ok() ? std::string("removed") : std::string(removed.message())}});
}

// False when the driver does not tell.
bool DeviceManager::LookAtLeftover(const DeviceRecord& record) {
  const uint32_t id = *record.spec.id;
  if (record.boot_id != options_.boot_id) {
    ForgetLeftover(record, LogLevel::kInfo, "device of an earlier boot is forgotten");
    return true;
  }
  const absl::StatusOr<std::optional<KernelDevice>> known = factory_.Find(id);
  if (!known.ok()) {
    LogError("leftover device cannot be looked at",
             {{"device", id}, {"reason", std::string(known.status().message())}});
    return false;
  }
  if (known->has_value()) {
    SeeToLeftover(record, **known);
  } else {
    ForgetLeftover(record, LogLevel::kInfo, "device that is gone is forgotten");
  }
  return true;
}

// The kernel has the device, or another of its id.
void DeviceManager::SeeToLeftover(const DeviceRecord& record, const KernelDevice& known) {
  const bool others = record.IsNotOf(known.cookie);
  // Whoever serves it, it does so in our place: a guard that has not let go.
  const bool ours = record.cookie != 0 && !others;
  // Nobody else holds the lock of the records, so the process that wrote this one is dead, even if
  // its number was given to another meanwhile (in a new container it is often our own).
  const pid_t server = known.server_pid;
  const bool of_the_dead = server <= 0 || server == record.server_pid || server == getpid() ||
                           known.state == DeviceState::kQuiesced;
  if (others || (!ours && !of_the_dead && !GuardHolds() && IsAlive(server))) {
    return ForgetLeftover(record, LogLevel::kWarning,
                          "id of a lost device is used by another server: left alone");
  }
  if (known.recoverable) {
    Adopt(record, known);
  } else {
    RemoveLeftover(record);
  }
}

void DeviceManager::RemoveLeftover(const DeviceRecord& record) {
  const uint32_t id = *record.spec.id;
  LogWarning(
      "server of a device was killed: the device is removed",
      {{"device", id}, {"target", DescribeTarget(record.spec)}, {"server_pid", record.server_pid}});
  if (const absl::Status removed = factory_.Remove(id, ublk::StopMode::kForce); !removed.ok()) {
    // The record stays, so that the next start tries again.
    return LogError("leftover device cannot be removed",
                    {{"device", id}, {"reason", std::string(removed.message())}});
  }
  ForgetLeftover(record, LogLevel::kInfo, "leftover device is removed");
}

// Shows a device that waits for a server.
void DeviceManager::Adopt(const DeviceRecord& record, const KernelDevice& known) {
  Entry entry;
  entry.phase = Phase::kWaiting;
  // As Plan has it: any number of devices may serve null.
  if (!std::holds_alternative<NullSpec>(record.spec.target))
    entry.key = DescribeTarget(record.spec);
  entry.record = record;
  // It may have grown after its record was written.
  if (auto* null = std::get_if<NullSpec>(&entry.record.spec.target)) {
    null->size_bytes = known.geometry.size_bytes;
  }
  entry.view = ViewOfKernel(*record.spec.id, known);
  entry.view.state = DeviceState::kQuiesced;
  entry.view.server_pid = 0;
  entry.view.spec = entry.record.spec;
  entry.view.spec.fail_after_seconds = record.fail_after_seconds;
  entry.view.features = ublk::Features(record.flags).Names();
  entry.view.created_at = record.created_at;
  const std::lock_guard lock(mutex_);
  devices_[entry.view.id] = std::move(entry);
}

std::optional<DeviceView> DeviceManager::ViewOfForeign(uint32_t id) {
  const absl::StatusOr<std::optional<KernelDevice>> known = factory_.Find(id);
  if (!known.ok() || !known->has_value()) return std::nullopt;
  DeviceView view = ViewOfKernel(id, **known);
  view.foreign = true;
  return view;
}

// Devices that are taken over at the same time, by some threads. When the data of one does not
// answer, the others are not kept waiting, and its thread finishes whenever it can.
struct DeviceManager::Round {
  std::vector<uint32_t> ids;
  std::atomic<size_t> next = 0;
  // Both are guarded by the manager's mutex.
  size_t running = 0;
  bool abandoned = false;
};

// False when some still wait.
bool DeviceManager::RecoverWaiting() {
  constexpr size_t kMaxThreads = 16;
  const auto waiting = [this] {
    std::vector<uint32_t> ids;
    for (const auto& [id, entry] : devices_) {
      if (entry.phase == Phase::kWaiting) ids.push_back(id);
    }
    return ids;
  };
  const auto round = std::make_shared<Round>();
  std::unique_lock lock(mutex_);
  round->ids = waiting();
  for (size_t i = 0; i < std::min(round->ids.size(), kMaxThreads); ++i) {
    try {
      std::thread([this, round] { RunRound(*round); }).detach();
    } catch (const std::system_error& error) {
      LogError("thread to take devices over cannot be made", {{"reason", error.code().message()}});
      break;
    }
    // It cannot have ended without the mutex.
    ++round->running;
    ++recoverers_;
  }
  changed_.wait_for(lock, options_.recovery_limit,
                    [&] { return round->running == 0 || stopping_; });
  if (round->running > 0 && !stopping_) AbandonRound(*round);
  return waiting().empty();
}

void DeviceManager::RunRound(Round& round) {
  for (size_t i = round.next++; i < round.ids.size(); i = round.next++) Recover(round.ids[i]);
  const std::lock_guard lock(mutex_);
  --round.running;
  --recoverers_;
  // Whether it worked or not: the next round sees to it.
  if (round.abandoned) wake_ = true;
  changed_.notify_all();
}

// With the mutex held.
void DeviceManager::AbandonRound(Round& round) {
  round.abandoned = true;
  for (const uint32_t id : round.ids) {
    const auto found = devices_.find(id);
    if (found == devices_.end() || found->second.phase != Phase::kRecovering) continue;
    DeviceView& view = found->second.view;
    view.reason = "its data does not answer; it is taken over when it does";
    LogError("data of a device does not answer: its users wait, and it is taken over when it does",
             {{"device", id}, {"target", DescribeTarget(view.spec)}});
  }
}

bool DeviceManager::WaitForRecoverers(absl::Duration limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoMilliseconds(limit),
                           [this] { return recoverers_ == 0; });
}

void DeviceManager::Recover(uint32_t id) {
  DeviceRecord record;
  std::string said;
  {
    const std::lock_guard lock(mutex_);
    const auto found = devices_.find(id);
    if (found == devices_.end() || found->second.phase != Phase::kWaiting || stopping_) return;
    found->second.phase = Phase::kRecovering;
    found->second.view.state = DeviceState::kRecovering;
    record = found->second.record;
    said = found->second.view.reason;
  }
  const absl::Status taken = TakeOver(record);
  if (taken.ok()) return;
  if (const auto known = factory_.Find(id); known.ok() && !known->has_value()) {
    LogWarning("device that waited was removed by somebody else",
               {{"device", id}, {"target", DescribeTarget(record.spec)}});
    return GiveIdBack(id);
  }
  // Busy with another call is no news about the device.
  const bool busy = absl::IsAborted(taken) && !said.empty();
  const std::string reason = busy ? said : std::string(taken.message());
  if (reason != said) {
    LogError("device cannot be taken over: its users wait, and it is tried again",
             {{"device", id}, {"target", DescribeTarget(record.spec)}, {"reason", reason}});
  }
  const std::lock_guard lock(mutex_);
  ++recoveries_.failed;
  Entry& entry = devices_[id];
  entry.phase = Phase::kWaiting;
  entry.view.state = DeviceState::kQuiesced;
  entry.view.reason = reason;
}

absl::Status DeviceManager::TakeOver(DeviceRecord record) {
  const absl::Time begin = absl::Now();
  Plan plan;
  plan.spec = record.spec;
  UBLKD_RETURN_IF_ERROR(FindData(plan));
  UBLKD_ASSIGN_OR_RETURN(std::unique_ptr<ublk::DeviceTarget> target,
                         MakeTarget(plan, ublk::Device::kRecoverWait));
  ublk::DeviceOptions options;
  options.id = record.spec.id;
  options.cookie = record.cookie;
  options.threads_per_queue = static_cast<uint16_t>(record.spec.threads_per_queue);
  options.on_unexpected_end = [this] { WakeHousekeeper(); };
  UBLKD_ASSIGN_OR_RETURN(const std::shared_ptr<ServedDevice> device,
                         factory_.Recover(options, std::move(target)));
  FillInEffective(record, *device);
  FillInFailAfter(record);
  FailPoint("recover.live");
  record.server_pid = getpid();
  ++record.generation;
  // What is on disk still says enough to take it over again.
  if (const absl::Status written = records_.Write(record); !written.ok()) {
    LogError("record of a device cannot be written",
             {{"device", *record.spec.id}, {"reason", std::string(written.message())}});
  }
  FailPoint("recover.done");
  Publish(plan, record, device);
  const absl::Duration took = absl::Now() - begin;
  CountRecovery(took);
  LogInfo("device is taken over", {{"device", *record.spec.id},
                                   {"target", DescribeTarget(record.spec)},
                                   {"generation", record.generation},
                                   {"took_ms", absl::ToInt64Milliseconds(took)}});
  return absl::OkStatus();
}

void DeviceManager::CountRecovery(absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took);
  const std::lock_guard lock(mutex_);
  ++recoveries_.taken_over;
  recoveries_.seconds += seconds;
  for (size_t i = 0; i < recoveries_.buckets.size(); ++i) {
    if (seconds > RecoveryStats::kBoundsSeconds[i]) continue;
    ++recoveries_.buckets[i];
    break;
  }
}

// A guard may be there that has not let go of what it serves.
bool DeviceManager::GuardHolds() const {
  if (options_.guard == nullptr) return false;
  const GuardLink::State state = options_.guard->state();
  return state == GuardLink::State::kAsked || state == GuardLink::State::kUnknown;
}

// Once: more lines would say nothing new.
void DeviceManager::WarnIfUnguarded(const DeviceRecord& record) {
  if (record.fail_after_seconds == 0 || guarded()) return;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(warned_unguarded_, true)) return;
  }
  LogWarning(
      "no ublkd-guard is there: users of devices with fail_after wait for ever as well; "
      "run ublkd-guard with the same --state-dir",
      {{"device", *record.spec.id}, {"fail_after_seconds", record.fail_after_seconds}});
}

RecoveryStats DeviceManager::Recoveries() const {
  const std::lock_guard lock(mutex_);
  return recoveries_;
}

}  // namespace ublkd::volume
