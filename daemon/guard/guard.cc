// SPDX-License-Identifier: Apache-2.0
#include "daemon/guard/guard.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/target/error.h"
#include "daemon/volume/parallel.h"

namespace ublkd::guard {

using volume::DeviceRecord;
using volume::KernelDevice;

Guard::Guard(GuardOptions options, volume::DeviceFactory& factory, Clock clock)
    : options_(std::move(options)), factory_(factory), clock_(std::move(clock)) {}

Guard::~Guard() { (void)LetGo(); }

// Once for each reason: it is tried again and again.
void Guard::Complain(const std::string& what, const absl::Status& status) {
  std::string& said = complaints_[what];
  if (said == status.message()) return;
  said = std::string(status.message());
  LogError("devices cannot be looked at", {{"what", what}, {"reason", said}});
}

Guard::Records Guard::ReadRecords() {
  const auto directory = volume::DeviceRecords::OpenToRead(options_.records_dir);
  // There never was an ublkd.
  if (absl::IsNotFound(directory.status())) return {.complete = true};
  if (!directory.ok()) {
    Complain(options_.records_dir, directory.status());
    return {};
  }
  const auto records = directory->Load();
  if (!records.ok()) {
    Complain(options_.records_dir, records.status());
    return {};
  }
  Records read = {.complete = true};
  for (const auto& [id, record] : *records) {
    // It may be removed while it is read.
    if (absl::IsNotFound(record.status())) continue;
    if (!record.ok()) {
      Complain(directory->PathOf(id), record.status());
      read.unreadable.push_back(id);
    } else if (record->boot_id == options_.boot_id) {
      read.ours.push_back(*record);
    }
  }
  return read;
}

// A device that was removed, or quiesced once more, is no longer ours to serve.
void Guard::DropEnded() {
  for (auto held = held_.begin(); held != held_.end();) {
    if (held->second->live()) {
      ++held;
      continue;
    }
    LogWarning("device that was answered with errors has ended", {{"device", held->first}});
    (void)held->second->Leave(absl::InfiniteFuture());
    held = held_.erase(held);
  }
}

// The device if its time has come.
std::optional<Guard::Due> Guard::LookAt(const DeviceRecord& record, Policy policy) {
  const uint32_t id = *record.spec.id;
  const bool now = policy == Policy::kNow;
  if (held_.count(id) != 0 || (!now && record.fail_after_seconds == 0)) return std::nullopt;
  const absl::StatusOr<std::optional<KernelDevice>> known = factory_.Find(id);
  if (!known.ok()) {
    Complain(volume::BlockPath(id), known.status());
    return std::nullopt;
  }
  if (!known->has_value() || record.IsNotOf((*known)->cookie) || !(*known)->recoverable ||
      (*known)->state != volume::DeviceState::kQuiesced) {
    waiting_.erase(id);
    return std::nullopt;
  }
  const absl::Duration time = clock_();
  Waiting& waiting = waiting_.try_emplace(id, Waiting{time, record.generation, ""}).first->second;
  if (waiting.generation != record.generation) waiting = {time, record.generation, ""};
  if (!now && time - waiting.since < absl::Seconds(record.fail_after_seconds)) return std::nullopt;
  return Due{.record = record, .geometry = (*known)->geometry};
}

void Guard::TakeOver(Due& due) {
  auto target = target::MakeErrorTarget(due.geometry);
  if (!target.ok()) {
    due.device = target.status();
    return;
  }
  ublk::DeviceOptions options;
  options.id = due.record.spec.id;
  options.cookie = due.record.cookie;
  options.metrics = false;
  due.device = factory_.Recover(options, *std::move(target));
}

void Guard::Report(const Due& due) {
  const uint32_t id = *due.record.spec.id;
  const std::string target = volume::DescribeTarget(due.record.spec);
  if (due.device.ok()) {
    LogWarning("no ublkd serves the device: its users get errors until one is back",
               {{"device", id},
                {"target", target},
                {"waited_seconds", absl::ToInt64Seconds(clock_() - waiting_[id].since)}});
    waiting_.erase(id);
    held_[id] = *due.device;
    return;
  }
  std::string& said = waiting_[id].said;
  if (said == due.device.status().message()) return;
  said = std::string(due.device.status().message());
  LogError("device cannot be taken over: its users wait on, and it is tried again",
           {{"device", id}, {"target", target}, {"reason", said}});
}

void Guard::Look(Policy policy) {
  DropEnded();
  const std::vector<DeviceRecord> records = ReadRecords().ours;
  std::vector<Due> due;
  for (const DeviceRecord& record : records) {
    if (auto one = LookAt(record, policy)) due.push_back(*std::move(one));
  }
  std::erase_if(waiting_, [&records](const auto& waiting) {
    return std::none_of(records.begin(), records.end(), [&waiting](const DeviceRecord& record) {
      return record.spec.id == waiting.first;
    });
  });
  volume::ForEachInParallel(due, [this](Due& one) { TakeOver(one); });
  for (const Due& one : due) Report(one);
}

bool Guard::LetGo() {
  waiting_.clear();
  std::atomic<bool> all_left = true;
  std::vector<std::pair<uint32_t, std::shared_ptr<volume::ServedDevice>>> all(held_.begin(),
                                                                              held_.end());
  held_.clear();
  volume::ForEachInParallel(all, [&all_left](auto& one) {
    const absl::Status left = one.second->Leave(absl::InfiniteFuture());
    if (!left.ok()) {
      LogError("device does not end to be answered with errors",
               {{"device", one.first}, {"reason", std::string(left.message())}});
      all_left = false;
      return;
    }
    LogInfo("device is given back: its users wait for a server", {{"device", one.first}});
  });
  return all_left;
}

bool Guard::AnyInUse() {
  const Records records = ReadRecords();
  if (!records.complete) return true;
  std::vector<uint32_t> ids = records.unreadable;
  for (const DeviceRecord& record : records.ours) ids.push_back(*record.spec.id);
  for (const uint32_t id : ids) {
    const auto known = factory_.Find(id);
    if (known.ok() && !known->has_value()) continue;
    if (!known.ok() || !factory_.CheckUnused(id).ok()) return true;
  }
  return false;
}

}  // namespace ublkd::guard
