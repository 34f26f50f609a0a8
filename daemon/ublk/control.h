// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "daemon/base/file.h"
#include "daemon/ublk/features.h"
#include "daemon/ublk/geometry.h"
#include "daemon/uring/command_ring.h"

namespace ublkd::ublk {

/// dev_info.state of the ABI.
enum class DeviceState : uint16_t { kDead = 0, kLive = 1, kQuiesced = 2, kFailIo = 3 };

/// What the driver says of a device.
struct DeviceInfo {
  uint32_t id = 0;
  uint16_t queues = 0;
  uint16_t depth = 0;
  DeviceState state = DeviceState::kDead;
  uint32_t max_io_bytes = 0;
  /// Process that serves it, as seen from here; -1 when nobody does or it cannot be seen.
  pid_t server_pid = -1;
  /// In effect for this device.
  Features features = {};
  /// Of who made it, see AddDeviceRequest.
  uint64_t cookie = 0;
};

/// What a device is to become.
struct AddDeviceRequest {
  /// Absent: the driver chooses the lowest free id.
  std::optional<uint32_t> id = {};
  uint16_t queues = 1;
  uint16_t depth = 128;
  uint32_t max_io_bytes = 512 << 10;
  Features features = {};
  /// The driver keeps it with the device and does not look at it (ublksrv_flags of the ABI).
  uint64_t cookie = 0;
};

/// Parameters as the driver holds them.
struct Parameters {
  Geometry geometry;
  uint32_t max_io_bytes = 0;
  /// Device numbers of the block and the character device; 0:0 before START or with a driver that
  /// does not tell.
  dev_t block_device = 0;
  dev_t char_device = 0;
};

enum class DeleteMode {
  /// Returns when the id can be used again; waits as long as somebody has the disk open.
  kWait,
  /// Returns at once; the id becomes free when the last user is gone.
  kAsync,
};

/// The driver's control device. Any thread may call any method at any time: a call that blocks in
/// the kernel (start, stop, delete) does not hold up the others.
///
/// Every method's status: NOT_FOUND no such device, PERMISSION_DENIED, UNIMPLEMENTED the driver
/// does not know the command, and what is said at the method.
class Control {
 public:
  /// UNAVAILABLE when the driver is not loaded, PERMISSION_DENIED when it or io_uring may not be
  /// used; both messages carry the remedy.
  static absl::StatusOr<std::unique_ptr<Control>> Open(
      const std::string& path = "/dev/ublk-control");
  ~Control();

  /// What the driver offers; read once when opened.
  const Features& features() const { return features_; }

  /// Returns the device as the driver made it: clamped queues, masked features, the id.
  /// ALREADY_EXISTS the id is in use, INVALID_ARGUMENT.
  absl::StatusOr<DeviceInfo> AddDevice(const AddDeviceRequest& request);

  /// The server must have closed the char device and unmapped its descriptors. `wait_ms` bounds
  /// kWait; DEADLINE_EXCEEDED when somebody still has the disk open then (0: no bound). The device
  /// is on its way out all the same, and deleting it again is allowed.
  absl::Status DeleteDevice(uint32_t id, DeleteMode mode, int64_t wait_ms = 0);

  /// Returns when every tag has been fetched and the disk is there. `server_pid` is the process
  /// that has the char device open.
  absl::Status StartDevice(uint32_t id, pid_t server_pid);

  /// Removes the disk and ends every fetched command. A device that was not started is fine.
  absl::Status StopDevice(uint32_t id);

  /// As StopDevice, but FAILED_PRECONDITION when the disk is open. UNIMPLEMENTED without
  /// Feature::kSafeStopDev.
  absl::Status TryStopDevice(uint32_t id);

  /// Announces a new server for a recoverable device whose server is gone. UNAVAILABLE as long as
  /// the driver has not noticed that it is.
  absl::Status StartRecovery(uint32_t id);

  /// Returns when every tag has been fetched again; whoever waited for the disk goes on.
  absl::Status EndRecovery(uint32_t id, pid_t server_pid);

  /// Only before START.
  absl::Status SetParameters(uint32_t id, const Geometry& geometry, uint32_t max_io_bytes);
  absl::StatusOr<Parameters> GetParameters(uint32_t id);

  absl::StatusOr<DeviceInfo> GetDeviceInfo(uint32_t id);

  /// Gives a disk that was started another size, a multiple of its logical block, which everybody
  /// sees at once. Nothing is checked against the size it has. UNIMPLEMENTED without
  /// Feature::kUpdateSize, INVALID_ARGUMENT; NOT_FOUND also when there is no disk.
  absl::Status UpdateSize(uint32_t id, uint64_t size_bytes);

  /// CPUs whose requests come through the hardware queue.
  absl::StatusOr<cpu_set_t> QueueAffinity(uint32_t id, uint16_t queue);

 private:
  struct Command;

  explicit Control(UniqueFd fd);
  /// Runs one command to its end; the CQE's result, or a negative errno of the ring itself.
  int Execute(const Command& command, int64_t wait_ms = 0);
  absl::Status ExecuteForStatus(const Command& command, absl::string_view what,
                                int64_t wait_ms = 0);
  absl::StatusOr<std::unique_ptr<uring::CommandRing>> TakeRing();

  UniqueFd fd_;
  Features features_;
  absl::Mutex mutex_;
  /// Rings that run nothing now: as many as commands ever ran at once.
  std::vector<std::unique_ptr<uring::CommandRing>> idle_rings_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ublkd::ublk
