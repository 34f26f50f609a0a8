// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/device.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/base/failpoint.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/ublk/char_device.h"
#include "daemon/ublk/disk_users.h"
#include "daemon/ublk/queue_thread.h"
#include "daemon/ublk/thread_plan.h"

namespace ublkd::ublk {
namespace {

constexpr absl::Duration kNodeTimeout = absl::Seconds(5);
constexpr absl::Duration kNodePause = absl::Milliseconds(1);
constexpr absl::Duration kServerPause = absl::Milliseconds(2);

absl::Status OutOfRange(absl::string_view field, uint64_t value, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", value, ": must be ", allowed));
}

uint16_t CpuCount() {
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  return static_cast<uint16_t>(std::clamp<long>(count, 1, kMaxQueues));
}

absl::Status CompleteOptions(DeviceOptions& options) {
  const uint16_t cpus = CpuCount();
  if (options.queues == 0) options.queues = std::min(cpus, kMaxDefaultQueues);
  if (options.depth == 0) options.depth = DefaultDepth(options.queues);
  if (options.max_io_bytes == 0) options.max_io_bytes = kDefaultMaxIoBytes;
  if (options.threads_per_queue == 0) options.threads_per_queue = 1;

  if (options.queues > cpus) {
    return OutOfRange("queues", options.queues, absl::StrCat("at most ", cpus, " (CPUs)"));
  }
  if (options.depth > kMaxDepth) {
    return OutOfRange("depth", options.depth, absl::StrCat("at most ", kMaxDepth));
  }
  if (options.max_io_bytes < kMinMaxIoBytes || options.max_io_bytes > kLargestMaxIoBytes ||
      options.max_io_bytes % kMinMaxIoBytes != 0) {
    return OutOfRange(
        "largest request", options.max_io_bytes,
        absl::StrCat("a multiple of ", kMinMaxIoBytes, " bytes up to ", kLargestMaxIoBytes));
  }
  if (options.threads_per_queue > options.depth) {
    return OutOfRange("threads per queue", options.threads_per_queue, "at most the depth");
  }
  return absl::OkStatus();
}

absl::Status CheckGranted(Features asked, Features granted) {
  const Features missing(asked.bits() & ~granted.bits());
  if (missing.bits() == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the ublk driver does not grant ", absl::StrJoin(missing.Names(), ", "),
                   "; load a driver that offers it or do not ask for it"));
}

Features RecoveryFeatures() {
  return Features().With(Feature::kUserRecovery).With(Feature::kUserRecoveryReissue);
}

/// 0 without the disk.
dev_t DiskNumberFromSysfs(const std::string& disk_name) {
  const auto text = ReadFile(absl::StrCat("/sys/block/", disk_name, "/dev"));
  return text.ok() ? ParseDeviceNumber(*text).value_or(0) : 0;
}

}  // namespace

/// The queue threads, and whether they still serve.
class Device::Threads {
 public:
  Threads(const DeviceOptions& options, const std::vector<ThreadSpec>& plan)
      : running_(plan.size()), on_unexpected_end_(options.on_unexpected_end) {
    for (const ThreadSpec& spec : plan) {
      threads_.push_back(
          std::make_unique<QueueThread>(QueueThread::Options{.spec = spec,
                                                             .depth = options.depth,
                                                             .max_io_bytes = options.max_io_bytes,
                                                             .buffers = *options.buffers,
                                                             .metrics = options.metrics,
                                                             .on_end = [this] { OnThreadEnd(); }}));
    }
  }

  /// Drops `device` on return: only the threads keep it open.
  absl::Status Start(std::shared_ptr<CharDevice> device, DeviceTarget& target) {
    for (const auto& thread : threads_) thread->Start(device, target);
    device.reset();
    absl::Status first_error;
    for (const auto& thread : threads_) first_error.Update(thread->WaitReady());
    return first_error;
  }

  /// From here on an end is unexpected; false when it has come already.
  bool BeginService() {
    in_service_ = true;
    return running_ > 0;
  }
  void EndService() { in_service_ = false; }
  bool serving() const { return in_service_ && running_ > 0; }

  void Join() {
    for (const auto& thread : threads_) thread->Join();
  }
  /// False when the target still holds requests at the deadline; may be called again then.
  bool Leave(absl::Time deadline) {
    if (!leaving_) {
      for (const auto& thread : threads_) thread->Leave();
    }
    leaving_ = true;
    while (running_ > 0 && deadline != absl::InfiniteFuture()) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(kServerPause);
    }
    Join();
    return true;
  }

  uint64_t RequestCount() const {
    uint64_t sum = 0;
    for (const auto& thread : threads_) sum += thread->RequestCount();
    return sum;
  }
  void AddTo(DeviceStats& stats) const {
    for (const auto& thread : threads_) thread->AddTo(stats);
  }
  void GiveMemoryBack() {
    for (const auto& thread : threads_) thread->GiveMemoryBack();
  }

 private:
  void OnThreadEnd() {
    const bool last = --running_ == 0;
    if (last && in_service_ && on_unexpected_end_) on_unexpected_end_();
  }

  std::atomic<size_t> running_;
  std::atomic<bool> in_service_ = false;
  bool leaving_ = false;
  std::function<void()> on_unexpected_end_;
  /// Destroyed first: the threads use what is above.
  std::vector<std::unique_ptr<QueueThread>> threads_;
};

absl::StatusOr<std::unique_ptr<Device>> Device::Create(Control& control,
                                                       const DeviceOptions& options,
                                                       std::unique_ptr<DeviceTarget> target) {
  DeviceOptions complete = options;
  UBLKD_RETURN_IF_ERROR(CompleteOptions(complete));
  std::unique_ptr<Device> device(new Device(control, std::move(complete), std::move(target)));
  UBLKD_RETURN_IF_ERROR(CompleteGeometry(device->geometry_));
  // On failure the destructor undoes what was done.
  UBLKD_RETURN_IF_ERROR(device->Start());
  return device;
}

absl::StatusOr<std::unique_ptr<Device>> Device::Recover(Control& control,
                                                        const DeviceOptions& options,
                                                        std::unique_ptr<DeviceTarget> target) {
  if (!options.id.has_value()) {
    return absl::InvalidArgumentError("recover a ublk device: no id was given");
  }
  std::unique_ptr<Device> device(new Device(control, options, std::move(target)));
  UBLKD_RETURN_IF_ERROR(CompleteGeometry(device->geometry_));
  UBLKD_RETURN_IF_ERROR(device->CheckRecoverable());
  if (absl::Status status = device->TakeOver(); !status.ok()) {
    device->LeaveThreads(absl::InfiniteFuture());
    return status;
  }
  return device;
}

Device::Device(Control& control, DeviceOptions options, std::unique_ptr<DeviceTarget> target)
    : control_(control),
      options_(std::move(options)),
      target_(std::move(target)),
      geometry_(target_->geometry()) {
  geometry_.read_only |= options_.read_only;
}

Device::~Device() {
  if (const absl::Status status = Stop(StopMode::kForce); !status.ok()) {
    LogWarning("a device was not removed cleanly",
               {{"device", info_.id}, {"error", std::string(status.message())}});
  }
}

absl::Status Device::Start() {
  UBLKD_RETURN_IF_ERROR(Add());
  FailPoint("create.added");
  UBLKD_RETURN_IF_ERROR(control_.SetParameters(info_.id, geometry_, options_.max_io_bytes));
  FailPoint("create.described");
  UBLKD_RETURN_IF_ERROR(StartThreads());
  FailPoint("create.fetched");
  UBLKD_RETURN_IF_ERROR(control_.StartDevice(info_.id, getpid()));
  FailPoint("create.started");
  return BeginService();
}

absl::Status Device::StartThreads() {
  std::vector<cpu_set_t> affinity(info_.queues);
  for (uint16_t queue = 0; queue < info_.queues; ++queue) {
    UBLKD_ASSIGN_OR_RETURN(affinity[queue], control_.QueueAffinity(info_.id, queue));
  }
  UBLKD_ASSIGN_OR_RETURN(std::shared_ptr<CharDevice> char_device, CharDevice::Open(info_.id));
  const std::vector<ThreadSpec> plan =
      PlanThreads(info_.id, info_.depth, options_.threads_per_queue, affinity);
  threads_ = std::make_unique<Threads>(options_, plan);
  return threads_->Start(std::move(char_device), *target_);
}

absl::Status Device::BeginService() {
  size_bytes_ = geometry_.size_bytes;
  UBLKD_RETURN_IF_ERROR(WaitForBlockNode());
  if (!threads_->BeginService()) {
    return absl::UnavailableError(
        absl::StrCat(block_path_, ": somebody deleted the device while it was made; try again"));
  }
  return absl::OkStatus();
}

absl::Status Device::Add() {
  UBLKD_ASSIGN_OR_RETURN(options_.buffers, ChooseBufferMode(options_.buffers, target_->data_use(),
                                                            control_.features()));
  if (*options_.buffers != BufferMode::kZeroCopy) geometry_.memory_alignment_bytes = 0;
  const bool comb = options_.threads_per_queue > 1;
  const Features wished(control_.features().bits() & Features().With(Feature::kUpdateSize).bits());
  const Features asked(options_.extra_features.bits() | wished.bits() |
                       FeaturesOf(*options_.buffers).bits() |
                       (comb ? Features().With(Feature::kPerIoDaemon).bits() : 0) |
                       (options_.recoverable ? RecoveryFeatures().bits() : 0));
  UBLKD_RETURN_IF_ERROR(CheckGranted(asked, control_.features()));
  UBLKD_ASSIGN_OR_RETURN(info_, control_.AddDevice({.id = options_.id,
                                                    .queues = options_.queues,
                                                    .depth = options_.depth,
                                                    .max_io_bytes = options_.max_io_bytes,
                                                    .features = asked,
                                                    .cookie = options_.cookie}));
  added_ = true;
  UBLKD_RETURN_IF_ERROR(CheckGranted(asked, info_.features));
  options_.id = info_.id;
  if (info_.cookie != options_.cookie) options_.cookie = 0;
  options_.queues = info_.queues;
  options_.depth = info_.depth;
  options_.max_io_bytes = std::min(options_.max_io_bytes, info_.max_io_bytes);
  block_path_ = absl::StrCat("/dev/ublkb", info_.id);
  return absl::OkStatus();
}

absl::Status Device::CheckRecoverable() {
  UBLKD_ASSIGN_OR_RETURN(info_, control_.GetDeviceInfo(*options_.id));
  const std::string what = absl::StrCat("recover ublk device ", info_.id);
  if (options_.cookie != 0 && info_.cookie != options_.cookie) {
    return absl::FailedPreconditionError(absl::StrCat(
        what, ": another server has made it since, under the same id; delete it there"));
  }
  const Features needed = RecoveryFeatures();
  if ((info_.features.bits() & needed.bits()) != needed.bits()) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": it was not made to outlive its server; delete it"));
  }
  UBLKD_ASSIGN_OR_RETURN(const Parameters disk, control_.GetParameters(info_.id));
  if (geometry_.size_bytes < disk.geometry.size_bytes ||
      geometry_.logical_block_bytes != disk.geometry.logical_block_bytes ||
      (geometry_.read_only && !disk.geometry.read_only)) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": the disk has ", disk.geometry.size_bytes, " bytes in blocks of ",
                     disk.geometry.logical_block_bytes, ", the target ", geometry_.size_bytes,
                     " in blocks of ", geometry_.logical_block_bytes,
                     geometry_.read_only ? ", read-only" : "", "; give it the target it had"));
  }
  UBLKD_ASSIGN_OR_RETURN(
      options_.buffers,
      ChooseBufferMode(BufferModeOf(info_.features), target_->data_use(), control_.features()));
  geometry_ = disk.geometry;
  options_.queues = info_.queues;
  options_.depth = info_.depth;
  options_.max_io_bytes = disk.max_io_bytes;
  options_.read_only = disk.geometry.read_only;
  options_.recoverable = true;
  options_.cookie = info_.cookie;
  options_.threads_per_queue = info_.features.Has(Feature::kPerIoDaemon)
                                   ? std::max<uint16_t>(options_.threads_per_queue, 1)
                                   : 1;
  block_path_ = absl::StrCat("/dev/ublkb", info_.id);
  return absl::OkStatus();
}

absl::Status Device::AwaitAbandoned() {
  const absl::Time deadline = absl::Now() + kRecoverWait;
  while (true) {
    absl::Status status = control_.StartRecovery(info_.id);
    if (!absl::IsUnavailable(status)) return status;
    if (absl::Now() > deadline) return absl::FailedPreconditionError(status.message());
    absl::SleepFor(kServerPause);
  }
}

absl::Status Device::TakeOver() {
  UBLKD_RETURN_IF_ERROR(AwaitAbandoned());
  FailPoint("recover.announced");
  UBLKD_RETURN_IF_ERROR(StartThreads());
  FailPoint("recover.fetched");
  UBLKD_RETURN_IF_ERROR(control_.EndRecovery(info_.id, getpid()));
  FailPoint("recover.served");
  UBLKD_RETURN_IF_ERROR(BeginService());
  added_ = true;
  return absl::OkStatus();
}

absl::Status Device::WaitForBlockNode() {
  const std::string name = absl::StrCat("ublkb", info_.id);
  UBLKD_ASSIGN_OR_RETURN(const Parameters parameters, control_.GetParameters(info_.id));
  dev_t disk = parameters.block_device;
  if (disk == 0) disk = DiskNumberFromSysfs(name);
  major_ = ::major(disk);
  minor_ = ::minor(disk);

  const absl::Time deadline = absl::Now() + kNodeTimeout;
  while (true) {
    struct stat node;
    const bool there = stat(block_path_.c_str(), &node) == 0;
    if (there && S_ISBLK(node.st_mode) && node.st_rdev == disk) {
      const UniqueFd opened(open(block_path_.c_str(), O_RDONLY | O_CLOEXEC));
      if (opened.valid()) return absl::OkStatus();
    }
    if (absl::Now() > deadline) {
      return absl::FailedPreconditionError(
          absl::StrCat(block_path_, ": the disk ", major_, ":", minor_,
                       there ? " is live, but this node is not it or cannot be opened"
                             : " is live, but there is no such node",
                       "; mount the host's /dev (devtmpfs) here"));
    }
    absl::SleepFor(kNodePause);
  }
}

bool Device::live() const { return threads_ != nullptr && threads_->serving(); }

uint64_t Device::RequestCount() const { return threads_ == nullptr ? 0 : threads_->RequestCount(); }

DeviceStats Device::Stats() const {
  DeviceStats stats;
  stats.queues.resize(info_.queues);
  if (threads_ != nullptr) threads_->AddTo(stats);
  return stats;
}

void Device::GiveMemoryBack() {
  if (live()) threads_->GiveMemoryBack();
}

absl::Status Device::Stop(StopMode mode) {
  const absl::MutexLock lock(&life_mutex_);
  if (!added_) return absl::OkStatus();
  UBLKD_RETURN_IF_ERROR(StopDisk(mode));
  FailPoint("delete.stopped");
  return Remove();
}

bool Device::LeaveThreads(absl::Time deadline) {
  if (threads_ == nullptr) return true;
  threads_->EndService();
  target_->LetPass();
  if (!threads_->Leave(deadline)) return false;
  // The next server needs what it holds.
  target_.reset();
  return true;
}

absl::Status Device::Leave(absl::Time deadline) {
  const absl::MutexLock lock(&life_mutex_);
  if (!added_) return absl::OkStatus();
  if (!options_.recoverable) {
    return absl::FailedPreconditionError(
        absl::StrCat(block_path_, ": it ends with its server, so it can only be stopped"));
  }
  if (!LeaveThreads(deadline)) {
    return absl::DeadlineExceededError(
        absl::StrCat(block_path_, ": ", Stats().in_flight(),
                     " requests wait for a backend that does not answer"));
  }
  added_ = false;
  const absl::Time notice_deadline = absl::Now() + kRecoverWait;
  while (true) {
    const absl::StatusOr<DeviceInfo> info = control_.GetDeviceInfo(info_.id);
    // Deleted from outside.
    if (absl::IsNotFound(info.status())) return absl::OkStatus();
    UBLKD_RETURN_IF_ERROR(info.status());
    if (info->state != DeviceState::kLive) return absl::OkStatus();
    if (absl::Now() > notice_deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(block_path_, ": the driver does not notice that nobody serves it"));
    }
    absl::SleepFor(kServerPause);
  }
}

absl::Status Device::StopDisk(StopMode mode) {
  // Also when nobody serves it: a disk that was quiesced from outside may be mounted.
  const bool in_use_matters = mode == StopMode::kIfUnused;
  UniqueFd claim;
  if (in_use_matters && control_.features().Has(Feature::kSafeStopDev)) {
    absl::Status status = control_.TryStopDevice(info_.id);
    // Deleted from outside a moment ago.
    if (absl::IsNotFound(status)) status = absl::OkStatus();
    UBLKD_RETURN_IF_ERROR(status);
  } else if (in_use_matters) {
    absl::StatusOr<UniqueFd> claimed = ClaimUnusedDisk(block_path_, makedev(major_, minor_));
    if (!absl::IsNotFound(claimed.status())) {
      UBLKD_ASSIGN_OR_RETURN(claim, std::move(claimed));
    }
  }
  if (threads_ != nullptr) threads_->EndService();
  // The driver waits for what is held.
  target_->LetPass();
  // Also after a safe stop: it ends the fetched commands of a device that was not started.
  const absl::Status status = control_.StopDevice(info_.id);
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status Device::Remove() {
  if (threads_ != nullptr) threads_->Join();
  absl::Status status = control_.DeleteDevice(info_.id, DeleteMode::kWait, kForceDeleteWaitMs);
  if (absl::IsNotFound(status)) status = absl::OkStatus();
  // Whoever still has the disk open: the driver frees the id when they close it.
  if (status.ok() || absl::IsDeadlineExceeded(status)) added_ = false;
  return status;
}

}  // namespace ublkd::ublk
