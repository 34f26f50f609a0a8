// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "daemon/ublk/buffer_mode.h"
#include "daemon/ublk/control.h"
#include "daemon/ublk/device_target.h"
#include "daemon/ublk/features.h"
#include "daemon/ublk/geometry.h"
#include "daemon/ublk/stats.h"

namespace ublkd::ublk {

/// Queues of a device that names none: one for each CPU, but no more than these.
inline constexpr uint16_t kMaxDefaultQueues = 4;
inline constexpr uint16_t kMaxQueues = 4096;
/// Depth of a device that names none: its queues share kDefaultRequests, within these bounds. Each
/// request that can be in flight takes about 2 KiB of engine and kernel for as long as the device
/// lives, and an idle device is to stay below 1 MiB.
inline constexpr uint16_t kDefaultRequests = 256;
inline constexpr uint16_t kMinDefaultDepth = 64;
inline constexpr uint16_t kMaxDefaultDepth = 128;
inline constexpr uint16_t kMaxDepth = 4096;
inline constexpr uint32_t kDefaultMaxIoBytes = 512 << 10;
inline constexpr uint32_t kMinMaxIoBytes = 4 << 10;
inline constexpr uint32_t kLargestMaxIoBytes = 32 << 20;

/// For a device of so many queues, at least one.
constexpr uint16_t DefaultDepth(uint32_t queues) {
  return static_cast<uint16_t>(
      std::clamp<uint32_t>(kDefaultRequests / queues, kMinDefaultDepth, kMaxDefaultDepth));
}

struct DeviceOptions {
  /// Absent: the lowest free id.
  std::optional<uint32_t> id = {};
  /// 0: one for each CPU up to kMaxDefaultQueues. More than there are CPUs is refused.
  uint16_t queues = 0;
  /// Requests in flight for each queue; 0: DefaultDepth.
  uint16_t depth = 0;
  /// Largest single request, a multiple of the page size; 0: kDefaultMaxIoBytes.
  uint32_t max_io_bytes = 0;
  bool read_only = false;
  /// The disk outlives its server: while nobody serves it its users wait, and Recover takes it
  /// over. Refused with FAILED_PRECONDITION when the driver does not offer that.
  bool recoverable = false;
  /// Absent: the cheapest that the target and the driver can do. Another than those that they can
  /// is refused with FAILED_PRECONDITION. Recover keeps the one that the device has.
  std::optional<BufferMode> buffers = {};
  /// Threads for each hardware queue; more than one needs Feature::kPerIoDaemon.
  uint16_t threads_per_queue = 1;
  /// Asked for on top of what the engine always asks for; refused with FAILED_PRECONDITION when the
  /// driver does not grant all of them.
  Features extra_features = {};
  /// By which its maker knows the device again; 0: none. In effect 0 when the driver did not keep
  /// it. Recover refuses a device with another one; 0: it takes any, and keeps that one.
  uint64_t cookie = 0;
  /// Counters and latencies; only measurements of their cost switch them off.
  bool metrics = true;
  /// Called at most once, on a queue thread, when the device ended though nobody called Stop (it
  /// was deleted from outside). Must not destroy or stop the device itself: tell another thread.
  std::function<void()> on_unexpected_end = {};
};

enum class StopMode {
  /// Refuses when the disk is open or mounted.
  kIfUnused,
  /// Ends the device whoever uses it; its users get I/O errors. For shutdown.
  kForce,
};

/// A live disk and the threads that serve it.
class Device {
 public:
  /// Makes the disk and returns when /dev/ublkbN can be opened. A failure at any step undoes those
  /// before it: no device, thread or descriptor is left.
  ///
  /// INVALID_ARGUMENT an option or the geometry is out of range, ALREADY_EXISTS the id is in use,
  /// FAILED_PRECONDITION the driver does not grant an asked feature or there is no /dev node,
  /// RESOURCE_EXHAUSTED memory or descriptors, and what Control and the target say.
  /// `control` must outlive the device.
  static absl::StatusOr<std::unique_ptr<Device>> Create(Control& control,
                                                        const DeviceOptions& options,
                                                        std::unique_ptr<DeviceTarget> target);

  /// Takes over the recoverable device `options.id`, whose server has left or died. It stays as it
  /// is, with the queues, the depth and the largest request it has; its requests that were not
  /// answered come again. Waits for the driver to notice the death, kRecoverWait at most.
  ///
  /// NOT_FOUND there is no such device, INVALID_ARGUMENT no id, FAILED_PRECONDITION it is not
  /// recoverable, it is still served, or the target is smaller than the disk or has other blocks;
  /// and what Control and the target say. After an error the device waits as before.
  static absl::StatusOr<std::unique_ptr<Device>> Recover(Control& control,
                                                         const DeviceOptions& options,
                                                         std::unique_ptr<DeviceTarget> target);

  static constexpr absl::Duration kRecoverWait = absl::Seconds(5);

  /// Stops by force when nobody did, and nobody left.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  uint32_t id() const { return info_.id; }
  /// "/dev/ublkbN".
  const std::string& block_path() const { return block_path_; }
  /// Device number of the disk.
  unsigned major() const { return major_; }
  unsigned minor() const { return minor_; }
  /// As in effect: every default is filled in, `id` is set.
  const DeviceOptions& options() const { return options_; }
  /// As it is now: the size grows. Any thread.
  Geometry geometry() const;
  const Features& features() const { return info_.features; }

  /// False after Stop, and when the device was deleted from outside. Any thread.
  bool live() const;

  /// Requests that have come to this process: as long as it stays the same and none is held, all
  /// that Stats tells does. Costs next to nothing. Any thread.
  uint64_t RequestCount() const;

  /// Any thread; never waits for a queue thread.
  DeviceStats Stats() const;

  /// Gives the memory back that requests of before have left in the buffers of threads that hold
  /// none now. For a device that nobody uses: the next requests take longer. Any thread; returns at
  /// once.
  void GiveMemoryBack();

  /// Returns OK when the disk is gone, all threads are joined, the id is free and no descriptor is
  /// left. Stopping what is stopped is OK. Any thread; calls wait for one another.
  ///
  /// kIfUnused: FAILED_PRECONDITION when the disk is open, mounted or held by another device;
  /// nothing has changed then. Without Feature::kSafeStopDev the openers are looked for in /proc,
  /// which sees only this process's PID namespace.
  /// kForce: waits for the requests that the target holds, and at most kForceDeleteWaitMs for
  /// those who have the disk open; after that DEADLINE_EXCEEDED, and the id becomes free when the
  /// last of them is gone.
  absl::Status Stop(StopMode mode) ABSL_LOCKS_EXCLUDED(life_mutex_);

  static constexpr int64_t kForceDeleteWaitMs = 5000;

  /// Returns OK when this process has let go of a recoverable device: what the target holds is
  /// answered, all else waits for the next server, as do the users. Leaving what is stopped or left
  /// is OK. Any thread.
  /// FAILED_PRECONDITION it is not recoverable, DEADLINE_EXCEEDED the driver did not notice, or the
  /// target still holds requests at the deadline. These go on, no more are taken, and it may be
  /// called again; a process that ends instead loses nothing, since they come again.
  absl::Status Leave(absl::Time deadline = absl::InfiniteFuture()) ABSL_LOCKS_EXCLUDED(life_mutex_);

  /// Grows the disk while it is used; when it answers OK everybody sees the new size. The size that
  /// it has is OK. Any thread; calls wait for one another, and for Stop and Leave.
  /// INVALID_ARGUMENT it is smaller, no multiple of the logical block or too large for a disk;
  /// FAILED_PRECONDITION the driver did not grant Feature::kUpdateSize (it is always asked for),
  /// the target has not as much, or the device was stopped or left. Nothing has changed then.
  absl::Status Resize(uint64_t size_bytes) ABSL_LOCKS_EXCLUDED(life_mutex_);
  /// How large the disk may become, as its target is now. FAILED_PRECONDITION it was left.
  absl::StatusOr<uint64_t> AvailableBytes() const ABSL_LOCKS_EXCLUDED(life_mutex_);

 private:
  class Threads;

  Device(Control& control, DeviceOptions options, std::unique_ptr<DeviceTarget> target);
  absl::Status Start();
  absl::Status Add();
  /// Starts the threads, which fetch all tags.
  absl::Status StartThreads();
  absl::Status BeginService();
  absl::Status CheckRecoverable();
  absl::Status AwaitAbandoned();
  absl::Status TakeOver();
  bool LeaveThreads(absl::Time deadline);
  absl::Status WaitForBlockNode();
  absl::Status StopDisk(StopMode mode);
  absl::Status Remove();
  absl::Status CheckNewSize(uint64_t size_bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(life_mutex_);
  absl::Status CheckServed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(life_mutex_);

  Control& control_;
  DeviceOptions options_;
  std::unique_ptr<DeviceTarget> target_;
  /// As it began; the size grows.
  Geometry geometry_;
  std::atomic<uint64_t> size_bytes_ = 0;
  DeviceInfo info_;
  /// The driver knows the device and we have to remove it.
  bool added_ = false;
  std::string block_path_;
  unsigned major_ = 0;
  unsigned minor_ = 0;
  /// Set once by Create and kept to the end, for the counters.
  std::unique_ptr<Threads> threads_;
  /// One call at a time changes or ends the device.
  mutable absl::Mutex life_mutex_;
};

}  // namespace ublkd::ublk
