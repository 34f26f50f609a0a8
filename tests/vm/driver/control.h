// SPDX-License-Identifier: Apache-2.0
//
// Control commands made of plain SQEs, so that a test can send what no decent program would.
#ifndef UBLKD_TESTS_VM_DRIVER_CONTROL_H_
#define UBLKD_TESTS_VM_DRIVER_CONTROL_H_

#include <liburing.h>
#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "driver/uapi/ublk_cmd.h"

namespace ublkd::driver_test {

inline constexpr uint32_t kAnyId = UINT32_MAX;
inline constexpr uint16_t kNoQueue = UINT16_MAX;
inline constexpr size_t kSectorBytes = 512;

// Calls `condition` until it is true or `limit` is over; returns what it said last.
bool Eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = std::chrono::seconds(10));

// True if the module under test is ours, not the kernel's own; or is to be judged as if it were.
bool DriverIsOurs();

/// Waits until the driver has looked for partitions on a disk that was just started: until then
/// its reads come at any time. The disk must answer reads, with errors at least.
bool PartitionScanHasEnded(const std::string& disk);

std::string CharPath(uint32_t id);
std::string DiskPath(uint32_t id);
bool PathExists(const std::string& path);

// One io_uring. Not shared between threads.
class Ring {
 public:
  Ring(unsigned entries, unsigned flags);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // 0, or the error of io_uring_setup.
  int error() const { return error_; }
  io_uring* get() { return &ring_; }
  // A zeroed SQE for `fd` with the uring_cmd opcode.
  io_uring_sqe* Command(int fd, uint32_t op);
  // Submits, waits for one CQE and returns its result; `nullopt` after `limit`.
  std::optional<int> Finish(std::chrono::milliseconds limit = std::chrono::seconds(60));

 private:
  io_uring ring_ = {};
  int error_ = 0;
};

struct ControlArgs {
  uint32_t dev_id = 0;
  uint16_t queue_id = kNoQueue;
  uint16_t len = 0;
  const void* addr = nullptr;
  uint64_t data = 0;
  uint16_t path_len = 0;
};

// /dev/ublk-control. For one thread.
class Control {
 public:
  explicit Control(unsigned ring_flags = IORING_SETUP_SQE128);
  ~Control();
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // Sends a command and returns its result: 0 or -errno. -ETIME after a minute.
  int Run(uint32_t op, const ControlArgs& args);
  // Only sends; the result is the next one that Finish() returns.
  void Send(uint32_t op, const ControlArgs& args, uint8_t sqe_flags = 0);
  std::optional<int> Finish(std::chrono::milliseconds limit) { return ring_.Finish(limit); }
  // Sends a command that waits, interrupts it as a signal would, and returns its result.
  int RunInterrupted(uint32_t op, const ControlArgs& args);

  int Add(ublksrv_ctrl_dev_info& info);
  int Delete(uint32_t id) { return Run(UBLK_U_CMD_DEL_DEV, {.dev_id = id}); }
  int DeleteAsync(uint32_t id) { return Run(UBLK_U_CMD_DEL_DEV_ASYNC, {.dev_id = id}); }
  int Start(uint32_t id, pid_t pid);
  int Stop(uint32_t id) { return Run(UBLK_U_CMD_STOP_DEV, {.dev_id = id}); }
  int TryStop(uint32_t id) { return Run(UBLK_U_CMD_TRY_STOP_DEV, {.dev_id = id}); }
  int Resize(uint32_t id, uint64_t sectors);
  int StartRecovery(uint32_t id) { return Run(UBLK_U_CMD_START_USER_RECOVERY, {.dev_id = id}); }
  int EndRecovery(uint32_t id, pid_t pid);
  // Without a limit it waits for as long as it takes.
  int Quiesce(uint32_t id, std::chrono::milliseconds limit = {});
  int SetParams(uint32_t id, const ublk_params& params);
  int GetParams(uint32_t id, ublk_params& params);
  int GetInfo(uint32_t id, ublksrv_ctrl_dev_info& info);
  uint64_t Features();
  // UBLK_S_DEV_*, or -errno.
  int State(uint32_t id);

  int fd() const { return fd_; }
  Ring& ring() { return ring_; }

 private:
  int fd_;
  Ring ring_;
};

// What a device is made of.
struct Geometry {
  uint16_t queues = 1;
  uint16_t depth = 16;
  uint64_t flags = 0;
  uint64_t bytes = 32 << 20;
  uint8_t block_shift = 9;
  uint32_t max_io_bytes = 512 << 10;
  uint32_t attrs = 0;
  bool discard = true;
  // Distance of descriptors, with UBLK_F_IO_DESC_SIZE. 0: they lie side by side.
  uint16_t desc_bytes = 0;
  // Not 0: a zoned disk, with zones of this size.
  uint64_t zone_bytes = 0;
};

ublksrv_ctrl_dev_info InfoOf(const Geometry& geometry, uint32_t id = kAnyId);
ublk_params ParamsOf(const Geometry& geometry);

// A device that is deleted at the end of the test.
class Device {
 public:
  Device(Control& control, const Geometry& geometry);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // 0, or what ADD_DEV or SET_PARAMS said.
  int error() const { return error_; }
  uint32_t id() const { return info_.dev_id; }
  const ublksrv_ctrl_dev_info& info() const { return info_; }
  // As granted: there are no more queues than CPUs.
  const Geometry& geometry() const { return geometry_; }
  std::string disk() const { return DiskPath(id()); }
  void Forget() { deleted_ = true; }
  int Delete();

 private:
  Control& control_;
  ublksrv_ctrl_dev_info info_;
  Geometry geometry_;
  int error_ = 0;
  bool deleted_ = false;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_CONTROL_H_
