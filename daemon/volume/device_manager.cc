// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/device_manager.h"

#include <unistd.h>

#include <filesystem>
#include <random>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/target/file.h"
#include "daemon/target/null.h"
#include "daemon/volume/device_plan.h"

namespace ublkd::volume {
namespace {

uint64_t RandomCookie() {
  std::random_device random;
  uint64_t cookie = 0;
  while (cookie == 0) cookie = uint64_t{random()} << 32 | random();
  return cookie;
}

}  // namespace

DeviceManager::DeviceManager(DeviceManagerOptions options, DeviceFactory& factory,
                             VolumeManager& volumes, DeviceRecords records)
    : options_(std::move(options)),
      factory_(factory),
      volumes_(volumes),
      records_(std::move(records)) {}

absl::Status DeviceManager::Readiness() {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) {
      return absl::UnavailableError("ublkd is stopping: it takes no more calls; try again later");
    }
    if (!readiness_.ok()) return readiness_;
  }
  if (factory_.Present()) return absl::OkStatus();
  SetReadiness(absl::UnavailableError("the ublk driver was unloaded: there is no control device; "
                                      "load it with \"modprobe ublk_drv\""),
               {});
  WakeHousekeeper();
  const std::lock_guard lock(mutex_);
  return readiness_;
}

DriverInfo DeviceManager::Driver() const {
  const std::lock_guard lock(mutex_);
  return driver_;
}

DeviceView DeviceManager::ViewOf(const Entry& entry) {
  DeviceView view = PlainViewOf(entry);
  if (entry.device != nullptr) AddTrouble(view, entry.device->Stats());
  return view;
}

DeviceView DeviceManager::PlainViewOf(const Entry& entry) {
  DeviceView view = entry.view;
  if (entry.device == nullptr) return view;
  view.server_pid = getpid();
  view.size_bytes = entry.device->geometry().size_bytes;
  if (!entry.device->live()) view.state = DeviceState::kFailed;
  return view;
}

absl::Status DeviceManager::PlanVolume(const VolumeSpec& volume, Plan& plan) {
  plan.key = DescribeTarget(plan.spec);
  UBLKD_ASSIGN_OR_RETURN(plan.lease, volumes_.Lock(volume.id));
  UBLKD_ASSIGN_OR_RETURN(const VolumeRecord record, volumes_.Describe(volume.id));
  const uint32_t asked = plan.spec.logical_block_bytes;
  if (asked != 0 && asked != record.logical_block_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("spec.logical_block_bytes: ", asked, " does not fit volume ", volume.id,
                     ", which was made with ", record.logical_block_bytes, "; give that or 0"));
  }
  UBLKD_ASSIGN_OR_RETURN(plan.path, volumes_.Locate(volume.id));
  return absl::OkStatus();
}

absl::Status DeviceManager::PlanFile(const FileSpec& file, Plan& plan) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(file.path, error);
  if (error) {
    return ErrnoStatus(error.value(), absl::StrCat("cannot use file ", file.path),
                       "give the path of a file or block device that is there");
  }
  // Two names of one file are one target.
  plan.path = real;
  plan.spec.target = FileSpec{plan.path};
  if (const Pool* const pool = volumes_.PoolOf(plan.path)) {
    return absl::InvalidArgumentError(absl::StrCat("spec.file.path: ", plan.path,
                                                   " belongs to pool ", pool->name(),
                                                   "; attach the volume by its id"));
  }
  plan.key = DescribeTarget(plan.spec);
  UBLKD_ASSIGN_OR_RETURN(plan.lease, in_flight_.Enter(plan.key));
  return absl::OkStatus();
}

// Finds what plan.spec names, and keeps others away from it.
absl::Status DeviceManager::FindData(Plan& plan) {
  const auto target = plan.spec.target;
  if (const auto* volume = std::get_if<VolumeSpec>(&target)) return PlanVolume(*volume, plan);
  if (const auto* file = std::get_if<FileSpec>(&target)) return PlanFile(*file, plan);
  return absl::OkStatus();
}

// The device that serves the same thing already; ALREADY_EXISTS when it does so in another way.
absl::StatusOr<std::optional<DeviceView>> DeviceManager::FindSame(const Plan& plan) {
  if (plan.key.empty()) return std::nullopt;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : devices_) {
    if (entry.key != plan.key) continue;
    if (entry.phase == Phase::kWaiting) {
      return absl::UnavailableError(
          absl::StrCat(plan.key, " is attached as ", BlockPath(id),
                       ", which waits to be served again: ", entry.view.reason));
    }
    if (!entry.served() || !entry.device->live()) {
      return absl::AbortedError(absl::StrCat(plan.key, " is busy: ", BlockPath(id),
                                             " that serves it is going away; try again"));
    }
    UBLKD_RETURN_IF_ERROR(CheckSameDevice(entry.view.spec, plan.spec));
    return ViewOf(entry);
  }
  return std::nullopt;
}

// The device with an unreadable record that serves this.
std::optional<Attachment> DeviceManager::FindBlocked(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, blocked] : blocked_) {
    if (!key.empty() && blocked.key == key) return Attachment{id, blocked.disk_bytes};
  }
  return std::nullopt;
}

absl::Status DeviceManager::RefuseBlocked(uint32_t id) const {
  return absl::FailedPreconditionError(
      absl::StrCat(BlockPath(id), " cannot be served, since its record ", records_.PathOf(id),
                   " cannot be read: see the log; if a newer ublkd wrote it, start that one"));
}

absl::StatusOr<DeviceView> DeviceManager::Create(const DeviceSpec& request) {
  UBLKD_RETURN_IF_ERROR(Readiness());
  UBLKD_RETURN_IF_ERROR(CheckSpec(request, options_.bounds));
  Plan plan;
  plan.spec = request;
  UBLKD_RETURN_IF_ERROR(FindData(plan));
  if (const auto blocked = FindBlocked(plan.key)) return RefuseBlocked(blocked->device_id);
  UBLKD_ASSIGN_OR_RETURN(const std::optional<DeviceView> same, FindSame(plan));
  if (same.has_value()) return *same;
  FillInDefaults(plan.spec, options_.bounds);
  return MakeDevice(plan);
}

absl::StatusOr<DeviceView> DeviceManager::MakeDevice(Plan& plan) {
  // Others make devices as well, so an id that was free may be taken when we come to use it.
  constexpr int kMaxTries = 16;
  uint32_t first = 0;
  for (int attempt = 1;; ++attempt) {
    UBLKD_ASSIGN_OR_RETURN(std::unique_ptr<ublk::DeviceTarget> target,
                           MakeTarget(plan, absl::ZeroDuration()));
    UBLKD_ASSIGN_OR_RETURN(const uint32_t id, TakeId(plan, first));
    absl::StatusOr<DeviceView> device = Attach(plan, id, std::move(target));
    if (device.ok()) return device;
    GiveIdBack(id);
    if (absl::IsUnavailable(device.status())) WakeHousekeeper();
    if (!absl::IsAlreadyExists(device.status()) || plan.spec.id.has_value() ||
        attempt == kMaxTries) {
      return device;
    }
    first = id + 1;
  }
}

// Waits that long for somebody else to let go of the data.
absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> DeviceManager::MakeTarget(
    Plan& plan, absl::Duration wait) const {
  // Also without limits: they may come later.
  plan.throttle = std::make_shared<target::Throttle>(plan.spec.limits.value_or(target::IoLimits()));
  if (const auto* null = std::get_if<NullSpec>(&plan.spec.target)) {
    const uint32_t block = plan.spec.logical_block_bytes;
    return target::MakeNullTarget(null->size_bytes, block == 0 ? kSmallBlockBytes : block,
                                  plan.throttle);
  }
  target::FileTargetOptions options;
  options.path = plan.path;
  options.read_only = plan.spec.read_only;
  options.logical_block_bytes = plan.spec.logical_block_bytes;
  options.wait = wait;
  options.throttle = plan.throttle;
  if (const auto* volume = std::get_if<VolumeSpec>(&plan.spec.target)) {
    UBLKD_ASSIGN_OR_RETURN(const VolumeRecord record, volumes_.Describe(volume->id));
    options.logical_block_bytes = record.logical_block_bytes;
    options.keep_space = record.provisioning == Provisioning::kThick;
  }
  return target::OpenFileTarget(options);
}

// Takes the id that the plan names, or the lowest that is free from `first` on.
absl::StatusOr<uint32_t> DeviceManager::TakeId(const Plan& plan, uint32_t first) {
  if (plan.spec.id.has_value()) {
    UBLKD_RETURN_IF_ERROR(TakeThisId(plan, *plan.spec.id));
    return *plan.spec.id;
  }
  for (uint32_t id = first; id <= kMaxDeviceId; ++id) {
    const absl::Status taken = TakeThisId(plan, id);
    if (taken.ok()) return id;
    if (!absl::IsAlreadyExists(taken) && !absl::IsAborted(taken)) return taken;
  }
  return absl::ResourceExhaustedError(
      "every device id is taken: the kernel has no more; delete devices");
}

absl::Status DeviceManager::TakeThisId(const Plan& plan, uint32_t id) {
  const auto taken = [id](absl::string_view why) {
    return absl::AlreadyExistsError(
        absl::StrCat("id ", id, " is taken: ", why, "; choose another or leave the id open"));
  };
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return absl::UnavailableError("ublkd is stopping: it makes no more devices");
    if (blocked_.count(id) != 0) {
      return taken(absl::StrCat("record ", records_.PathOf(id), " cannot be read"));
    }
    const auto [found, inserted] = devices_.try_emplace(id);
    if (!inserted && (found->second.served() || found->second.phase == Phase::kWaiting)) {
      return taken(absl::StrCat("it serves ", DescribeTarget(found->second.view.spec)));
    }
    if (!inserted) return Busy(id);
    found->second.key = plan.key;
    found->second.view.id = id;
    found->second.view.spec = plan.spec;
  }
  const absl::StatusOr<std::optional<KernelDevice>> known = factory_.Find(id);
  if (known.ok() && !known->has_value()) return absl::OkStatus();
  {
    const std::lock_guard lock(mutex_);
    devices_.erase(id);
  }
  UBLKD_RETURN_IF_ERROR(known.status());
  return taken("the kernel has a device of another server under it");
}

void DeviceManager::GiveIdBack(uint32_t id) {
  if (const absl::Status removed = records_.Remove(id); !removed.ok()) {
    LogWarning("record of a device that is gone cannot be removed",
               {{"device", id}, {"reason", std::string(removed.message())}});
  }
  const std::lock_guard lock(mutex_);
  devices_.erase(id);
}

absl::StatusOr<DeviceView> DeviceManager::Attach(const Plan& plan, uint32_t id,
                                                 std::unique_ptr<ublk::DeviceTarget> target) {
  DeviceRecord record;
  record.spec = plan.spec;
  record.spec.id = id;
  record.spec.logical_block_bytes = target->geometry().logical_block_bytes;
  record.boot_id = options_.boot_id;
  record.server_pid = getpid();
  record.created_at = absl::Now();
  record.cookie = RandomCookie();
  FillInFailAfter(record);
  // Before the driver hears of the device: a kill from here on leaves nothing unknown.
  UBLKD_RETURN_IF_ERROR(records_.Write(record));
  FailPoint("create.recorded");

  ublk::DeviceOptions options;
  options.id = id;
  options.queues = static_cast<uint16_t>(record.spec.queues);
  options.depth = static_cast<uint16_t>(record.spec.depth);
  options.threads_per_queue = static_cast<uint16_t>(record.spec.threads_per_queue);
  options.max_io_bytes = record.spec.max_io_bytes;
  options.read_only = record.spec.read_only;
  options.buffers = record.spec.buffers;
  options.cookie = record.cookie;
  options.on_unexpected_end = [this] { WakeHousekeeper(); };
  UBLKD_ASSIGN_OR_RETURN(std::shared_ptr<ServedDevice> device,
                         factory_.Create(options, std::move(target)));
  FillInEffective(record, *device);
  FailPoint("create.live");
  UBLKD_RETURN_IF_ERROR(records_.Write(record));
  FailPoint("create.done");
  return Publish(plan, record, device);
}

void DeviceManager::FillInEffective(DeviceRecord& record, const ServedDevice& device) {
  const ublk::DeviceOptions& in_effect = device.options();
  record.flags = device.features().bits();
  record.cookie = in_effect.cookie;
  record.spec.queues = in_effect.queues;
  record.spec.depth = in_effect.depth;
  record.spec.threads_per_queue = in_effect.threads_per_queue;
  record.spec.max_io_bytes = in_effect.max_io_bytes;
  record.spec.read_only = in_effect.read_only;
  record.spec.buffers = in_effect.buffers;
}

void DeviceManager::FillInFailAfter(DeviceRecord& record) const {
  record.fail_after_seconds = record.spec.fail_after_seconds.value_or(options_.fail_after_seconds);
}

// Shows a device that is live.
DeviceView DeviceManager::Publish(const Plan& plan, const DeviceRecord& record,
                                  const std::shared_ptr<ServedDevice>& device) {
  DeviceView view;
  view.id = *record.spec.id;
  view.path = BlockPath(view.id);
  view.major = device->major();
  view.minor = device->minor();
  view.spec = record.spec;
  view.spec.fail_after_seconds = record.fail_after_seconds;
  view.size_bytes = device->geometry().size_bytes;
  view.features = device->features().Names();
  view.created_at = record.created_at;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = devices_[view.id];
    entry.phase = Phase::kLive;
    entry.view = view;
    entry.record = record;
    entry.device = device;
    entry.throttle = plan.throttle;
    changed_.notify_all();
  }
  WarnIfUnguarded(record);
  // It may have ended before the housekeeper could know it.
  if (!device->live()) WakeHousekeeper();
  return view;
}

absl::Status DeviceManager::Busy(uint32_t id) {
  return absl::AbortedError(
      absl::StrCat("device ", id, " is busy: another call for it is running; try again"));
}

// A copy of the entry; one that does not exist for a device that is not ours.
absl::StatusOr<DeviceManager::Entry> DeviceManager::Find(uint32_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = devices_.find(id);
  if (found == devices_.end()) return Entry();
  const Phase phase = found->second.phase;
  if (phase != Phase::kLive && phase != Phase::kWaiting) return Busy(id);
  return found->second;
}

// ABORTED when somebody was faster since Find.
absl::Status DeviceManager::BeginPhase(const Entry& entry, Phase phase) {
  const std::lock_guard lock(mutex_);
  const auto found = devices_.find(entry.view.id);
  if (found == devices_.end() || found->second.device != entry.device ||
      found->second.phase != entry.phase) {
    return Busy(entry.view.id);
  }
  found->second.phase = phase;
  return absl::OkStatus();
}

absl::StatusOr<InFlight::Lease> DeviceManager::LockServed(const Entry& entry) {
  if (const auto* volume = std::get_if<VolumeSpec>(&entry.view.spec.target)) {
    return volumes_.Lock(volume->id);
  }
  if (entry.key.empty()) return InFlight::Lease();
  return in_flight_.Enter(entry.key);
}

absl::Status DeviceManager::NoSuchDevice(uint32_t id) {
  return absl::NotFoundError(
      absl::StrCat("device ", id, " does not exist; list the devices to see what there is"));
}

absl::Status DeviceManager::RefuseForeign(uint32_t id, absl::string_view verb) {
  UBLKD_ASSIGN_OR_RETURN(const std::optional<KernelDevice> known, factory_.Find(id));
  if (!known.has_value()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("device ", id, " was not made by this ublkd: process ", known->server_pid,
                   " serves it; ", verb, " it there"));
}

absl::Status DeviceManager::StopOrRemove(const Entry& entry) const {
  if (entry.device != nullptr) return entry.device->Stop(ublk::StopMode::kIfUnused);
  return factory_.Remove(entry.view.id, ublk::StopMode::kIfUnused);
}

absl::Status DeviceManager::Delete(uint32_t id) {
  UBLKD_RETURN_IF_ERROR(Readiness());
  UBLKD_ASSIGN_OR_RETURN(const Entry entry, Find(id));
  if (!entry.exists()) return RefuseForeign(id, "delete");

  UBLKD_ASSIGN_OR_RETURN(const InFlight::Lease lease, LockServed(entry));
  UBLKD_RETURN_IF_ERROR(BeginPhase(entry, Phase::kDeleting));
  FailPoint("delete.begun");
  const absl::Status stopped = StopOrRemove(entry);
  if (stopped.ok()) {
    FailPoint("delete.removed");
    GiveIdBack(id);
    FailPoint("delete.done");
    return absl::OkStatus();
  }
  {
    const std::lock_guard lock(mutex_);
    devices_[id].phase = entry.phase;
  }
  if (entry.device != nullptr && !entry.device->live()) WakeHousekeeper();
  return stopped;
}

absl::StatusOr<DeviceView> DeviceManager::Get(uint32_t id) {
  UBLKD_RETURN_IF_ERROR(Readiness());
  const std::lock_guard lock(mutex_);
  if (blocked_.count(id) != 0) return RefuseBlocked(id);
  const auto found = devices_.find(id);
  if (found == devices_.end() || !found->second.exists()) {
    return NoSuchDevice(id);
  }
  return ViewOf(found->second);
}

absl::StatusOr<std::vector<DeviceView>> DeviceManager::List(bool all) {
  UBLKD_RETURN_IF_ERROR(Readiness());
  std::vector<uint32_t> ids;
  if (all) {
    UBLKD_ASSIGN_OR_RETURN(ids, factory_.Ids());
  }
  std::map<uint32_t, DeviceView> views;
  std::set<uint32_t> ours;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : devices_) {
      ours.insert(id);
      if (entry.exists()) views[id] = ViewOf(entry);
    }
  }
  for (const uint32_t id : ids) {
    if (ours.count(id) != 0) continue;
    if (std::optional<DeviceView> view = ViewOfForeign(id)) views[id] = *std::move(view);
  }
  std::vector<DeviceView> in_order;
  for (auto& [id, view] : views) in_order.push_back(std::move(view));
  return in_order;
}

std::optional<Attachment> DeviceManager::AttachedTo(const std::string& volume_id) const {
  DeviceSpec spec;
  spec.target = VolumeSpec{volume_id};
  if (const auto blocked = FindBlocked(DescribeTarget(spec))) return blocked;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : devices_) {
    const auto* volume = std::get_if<VolumeSpec>(&entry.view.spec.target);
    if (entry.exists() && volume != nullptr && volume->id == volume_id) {
      return Attachment{id, ViewOf(entry).size_bytes};
    }
  }
  return std::nullopt;
}

std::vector<DeviceSnapshot> DeviceManager::Snapshot() const {
  std::vector<std::pair<DeviceView, std::shared_ptr<ServedDevice>>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : devices_) {
      if (entry.exists()) all.emplace_back(PlainViewOf(entry), entry.device);
    }
  }
  std::vector<DeviceSnapshot> snapshots;
  for (auto& [view, device] : all) {
    ublk::DeviceStats stats;
    if (device != nullptr) stats = device->Stats();
    snapshots.push_back({std::move(view), std::move(stats)});
  }
  return snapshots;
}

}  // namespace ublkd::volume
