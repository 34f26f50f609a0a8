// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/volume/device_factory.h"

namespace ublkd::volume {

/// A kernel driver in memory: it has no disks, but ids, servers and users of its devices. The real
/// one is tested in virtual machines.
class FakeDevices : public DeviceFactory {
 public:
  class Served;

  absl::Status Probe() override {
    const std::lock_guard lock(mutex_);
    return state_;
  }
  bool Present() const override {
    const std::lock_guard lock(mutex_);
    return state_.ok();
  }
  absl::StatusOr<DriverInfo> Driver() override {
    if (absl::Status state = Probe(); !state.ok()) return state;
    return DriverInfo{"1.2.3", {"CMD_IOCTL_ENCODE"}};
  }
  absl::StatusOr<std::vector<uint32_t>> Ids() override {
    const std::lock_guard lock(mutex_);
    std::vector<uint32_t> ids;
    for (const auto& [id, server] : kernel_) ids.push_back(id);
    return ids;
  }
  absl::StatusOr<std::optional<KernelDevice>> Find(uint32_t id) override {
    if (absl::Status state = Probe(); !state.ok()) return state;
    const std::lock_guard lock(mutex_);
    const auto found = kernel_.find(id);
    if (found == kernel_.end() || hidden_.count(id) != 0) return std::nullopt;
    KernelDevice device;
    device.server_pid = found->second;
    const auto cookie = cookies_.find(id);
    device.cookie = cookie != cookies_.end() ? cookie->second : 0;
    device.recoverable = recoverable_.count(id) != 0;
    const bool waits = found->second == -1 || quiesced_.count(id) != 0;
    device.state = waits ? DeviceState::kQuiesced : DeviceState::kLive;
    const auto bytes = disk_bytes_.find(id);
    device.geometry.size_bytes = bytes != disk_bytes_.end() ? bytes->second : kLeftBytes;
    device.disk = kLeftDisk;
    return device;
  }
  absl::Status CheckUnused(uint32_t id) override {
    const std::lock_guard lock(mutex_);
    if (in_use_.count(id) == 0) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("/dev/ublkb", id, " is in use"));
  }
  absl::Status Remove(uint32_t id, ublk::StopMode mode) override {
    Pass(remove_gate_);
    const std::lock_guard lock(mutex_);
    if (in_use_.count(id) != 0 && mode == ublk::StopMode::kIfUnused) {
      return absl::FailedPreconditionError(absl::StrCat("/dev/ublkb", id, " is in use"));
    }
    removed_.push_back(id);
    kernel_.erase(id);
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<ServedDevice>> Create(
      const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) override;
  absl::StatusOr<std::shared_ptr<ServedDevice>> Recover(
      const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) override;

  static constexpr uint64_t kLeftBytes = 1 << 20;
  static constexpr dev_t kLeftDisk = 0xf003;

  /// From now on devices outlive their servers.
  void OutliveServers() {
    const std::lock_guard lock(mutex_);
    outlives_ = true;
  }
  /// From now on devices are made by a driver that cannot resize them.
  void ForbidResize() {
    const std::lock_guard lock(mutex_);
    resizes_ = false;
  }
  /// Of a disk that a server left: as large as that.
  void SetDiskBytes(uint32_t id, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    disk_bytes_[id] = bytes;
  }
  /// Runs once, in the next Resize before the disk grows.
  void OnResize(std::function<void()> hook) { on_resize_ = std::move(hook); }
  /// A disk that a server left, or with a pid did not leave in peace.
  void AddLeft(uint32_t id, pid_t server_pid = -1) {
    const std::lock_guard lock(mutex_);
    kernel_[id] = server_pid;
    recoverable_.insert(id);
  }
  /// The driver knows that nobody serves it, and still names the last who did.
  void Quiesce(uint32_t id) {
    const std::lock_guard lock(mutex_);
    quiesced_.insert(id);
  }
  /// As an operator's QUIESCE_DEV does it.
  void QuiesceFromOutside(uint32_t id);
  void FailRecovery(absl::Status status) {
    const std::lock_guard lock(mutex_);
    recovery_failure_ = std::move(status);
  }
  /// While held, taking over waits inside, as opening a file on a hung disk would.
  void HoldRecovery(uint32_t id, bool hold) {
    const std::lock_guard lock(mutex_);
    hold ? (void)held_recoveries_.insert(id) : (void)held_recoveries_.erase(id);
    changed_.notify_all();
  }
  /// OK, or why there is no driver.
  void SetState(absl::Status state) {
    const std::lock_guard lock(mutex_);
    state_ = std::move(state);
  }
  /// A device of another server; with -1, of a dead one.
  void AddForeign(uint32_t id, pid_t server_pid) {
    const std::lock_guard lock(mutex_);
    kernel_[id] = server_pid;
  }
  void SetCookie(uint32_t id, uint64_t cookie) {
    const std::lock_guard lock(mutex_);
    cookies_[id] = cookie;
  }
  /// Find does not see it: it appears between Find and Create.
  void Hide(uint32_t id) {
    const std::lock_guard lock(mutex_);
    hidden_.insert(id);
  }
  void FailNextCreate(absl::Status status) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(status);
  }
  /// While held, Create or Remove waits inside, as a kernel call on a hung backend would.
  void HoldCreate(bool hold) { Hold(create_gate_, hold); }
  void HoldRemove(bool hold) { Hold(remove_gate_, hold); }
  void WaitUntilHeld() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return waiting_ > 0; });
  }
  /// Runs in Create before the device is there.
  void OnCreate(std::function<void(uint32_t id)> hook) { on_create_ = std::move(hook); }

  void SetInUse(uint32_t id, bool in_use) {
    const std::lock_guard lock(mutex_);
    if (in_use) {
      in_use_.insert(id);
    } else {
      in_use_.erase(id);
    }
  }
  /// Its backend does not answer, so that it cannot be left.
  void SetStuck(uint32_t id, bool stuck) {
    const std::lock_guard lock(mutex_);
    stuck ? (void)stuck_.insert(id) : (void)stuck_.erase(id);
  }
  void SetStats(uint32_t id, ublk::DeviceStats stats) {
    const std::lock_guard lock(mutex_);
    stats_[id] = std::move(stats);
  }
  /// Deletes a device behind its server's back.
  void DeleteFromOutside(uint32_t id);

  std::map<uint32_t, pid_t> kernel() const {
    const std::lock_guard lock(mutex_);
    return kernel_;
  }
  std::vector<uint32_t> removed() const {
    const std::lock_guard lock(mutex_);
    return removed_;
  }
  std::vector<uint32_t> forced() const {
    const std::lock_guard lock(mutex_);
    return forced_;
  }

 private:
  void Hold(bool& gate, bool hold) {
    const std::lock_guard lock(mutex_);
    gate = hold;
    changed_.notify_all();
  }
  void Pass(const bool& gate) {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&gate] { return !gate; });
    --waiting_;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  absl::Status state_;
  absl::Status failure_;
  absl::Status recovery_failure_;
  bool outlives_ = false;
  bool resizes_ = true;
  std::map<uint32_t, uint64_t> disk_bytes_;
  std::function<void()> on_resize_;
  std::set<uint32_t> held_recoveries_;
  std::set<uint32_t> recoverable_;
  std::set<uint32_t> quiesced_;
  std::map<uint32_t, pid_t> kernel_;
  std::map<uint32_t, uint64_t> cookies_;
  std::set<uint32_t> hidden_;
  std::set<uint32_t> in_use_;
  std::set<uint32_t> stuck_;
  std::map<uint32_t, ublk::DeviceStats> stats_;
  std::map<uint32_t, std::function<void()>> unexpected_end_;
  std::vector<uint32_t> removed_;
  std::vector<uint32_t> forced_;
  bool create_gate_ = false;
  bool remove_gate_ = false;
  int waiting_ = 0;
  std::function<void(uint32_t)> on_create_;
};

class FakeDevices::Served : public ServedDevice {
 public:
  Served(FakeDevices& owner, ublk::DeviceOptions options,
         std::unique_ptr<ublk::DeviceTarget> target)
      : owner_(owner),
        options_(std::move(options)),
        target_(std::move(target)),
        can_resize_(owner.resizes_) {
    if (!options_.buffers.has_value()) options_.buffers = ublk::BufferMode::kCopy;
  }
  ~Served() override { (void)Stop(ublk::StopMode::kForce); }

  uint32_t major() const override { return 240; }
  uint32_t minor() const override { return *options_.id; }
  const ublk::DeviceOptions& options() const override { return options_; }
  ublk::Geometry geometry() const override {
    const std::lock_guard lock(owner_.mutex_);
    ublk::Geometry geometry = target_->geometry();
    geometry.size_bytes = owner_.disk_bytes_[*options_.id];
    return geometry;
  }
  ublk::Features features() const override {
    const ublk::Features features = ublk::Features().With(ublk::Feature::kCmdIoctlEncode);
    return can_resize_ ? features.With(ublk::Feature::kUpdateSize) : features;
  }
  bool live() const override {
    const std::lock_guard lock(owner_.mutex_);
    const auto found = owner_.kernel_.find(*options_.id);
    return found != owner_.kernel_.end() && found->second == getpid() && !stopped_;
  }
  uint64_t RequestCount() const override {
    const ublk::DeviceStats stats = Stats();
    uint64_t count = stats.in_flight();
    for (const ublk::Op op : ublk::kAllOps) count += stats.Total(op).ios;
    return count;
  }
  ublk::DeviceStats Stats() const override {
    const std::lock_guard lock(owner_.mutex_);
    const auto found = owner_.stats_.find(*options_.id);
    if (found != owner_.stats_.end()) return found->second;
    return {std::vector<ublk::QueueStats>(options_.queues)};
  }
  void GiveMemoryBack() override {}
  absl::Status Stop(ublk::StopMode mode) override {
    const std::lock_guard lock(owner_.mutex_);
    const uint32_t id = *options_.id;
    if (stopped_) return absl::OkStatus();
    const bool in_use = owner_.in_use_.count(id) != 0;
    if (in_use && mode == ublk::StopMode::kIfUnused) {
      return absl::FailedPreconditionError(
          absl::StrCat("/dev/ublkb", id, " is in use: it is open or mounted; unmount it first"));
    }
    if (in_use) owner_.forced_.push_back(id);
    stopped_ = true;
    owner_.kernel_.erase(id);
    owner_.recoverable_.erase(id);
    owner_.unexpected_end_.erase(id);
    return absl::OkStatus();
  }
  absl::Status Leave(absl::Time /*deadline*/) override {
    const std::lock_guard lock(owner_.mutex_);
    const uint32_t id = *options_.id;
    if (owner_.stuck_.count(id) != 0) return absl::DeadlineExceededError("its backend hangs");
    if (stopped_) return absl::OkStatus();
    if (owner_.recoverable_.count(id) == 0) return absl::FailedPreconditionError("it can't");
    stopped_ = true;
    if (owner_.kernel_.count(id) != 0) owner_.kernel_[id] = -1;
    owner_.unexpected_end_.erase(id);
    return absl::OkStatus();
  }
  absl::Status Resize(uint64_t size_bytes) override {
    if (const auto hook = std::exchange(owner_.on_resize_, nullptr)) hook();
    const uint64_t available_bytes = *target_->AvailableBytes();
    const std::lock_guard lock(owner_.mutex_);
    uint64_t& now_bytes = owner_.disk_bytes_[*options_.id];
    if (size_bytes == now_bytes) return absl::OkStatus();
    if (size_bytes < now_bytes) return absl::InvalidArgumentError("a disk cannot shrink");
    if (!can_resize_) return absl::FailedPreconditionError("no UPDATE_SIZE");
    if (size_bytes > available_bytes) return absl::FailedPreconditionError("has not as much");
    now_bytes = size_bytes;
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> AvailableBytes() const override { return target_->AvailableBytes(); }

 private:
  FakeDevices& owner_;
  ublk::DeviceOptions options_;
  const std::unique_ptr<ublk::DeviceTarget> target_;
  const bool can_resize_;
  bool stopped_ = false;
};

inline absl::StatusOr<std::shared_ptr<ServedDevice>> FakeDevices::Create(
    const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) {
  if (on_create_) on_create_(*options.id);
  Pass(create_gate_);
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return std::exchange(failure_, absl::OkStatus());
    if (!kernel_.emplace(*options.id, getpid()).second) {
      return absl::AlreadyExistsError(absl::StrCat("id ", *options.id, " is in use"));
    }
    if (outlives_) recoverable_.insert(*options.id);
    disk_bytes_[*options.id] = target->geometry().size_bytes;
    unexpected_end_[*options.id] = options.on_unexpected_end;
    cookies_[*options.id] = options.cookie;
  }
  return std::make_shared<Served>(*this, options, std::move(target));
}

inline absl::StatusOr<std::shared_ptr<ServedDevice>> FakeDevices::Recover(
    const ublk::DeviceOptions& options, std::unique_ptr<ublk::DeviceTarget> target) {
  ublk::DeviceOptions in_effect = options;
  in_effect.queues = 2;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_recoveries_.count(*options.id) == 0; });
    if (!recovery_failure_.ok()) return recovery_failure_;
    const uint64_t disk_bytes = disk_bytes_.emplace(*options.id, kLeftBytes).first->second;
    if (target->geometry().size_bytes < disk_bytes) {
      return absl::FailedPreconditionError("the target is smaller than the disk");
    }
    quiesced_.erase(*options.id);
    in_effect.cookie = cookies_[*options.id];
    kernel_[*options.id] = getpid();
    unexpected_end_[*options.id] = options.on_unexpected_end;
  }
  return std::make_shared<Served>(*this, in_effect, std::move(target));
}

inline void FakeDevices::QuiesceFromOutside(uint32_t id) {
  std::function<void()> ended;
  {
    const std::lock_guard lock(mutex_);
    kernel_[id] = -1;
    ended = unexpected_end_[id];
  }
  ended();
}

inline void FakeDevices::DeleteFromOutside(uint32_t id) {
  std::function<void()> ended;
  {
    const std::lock_guard lock(mutex_);
    kernel_.erase(id);
    ended = unexpected_end_[id];
  }
  ended();
}

}  // namespace ublkd::volume
