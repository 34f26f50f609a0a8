// SPDX-License-Identifier: Apache-2.0
//
// A small ublk client for testing the driver: control commands and a server, both made of plain
// SQEs, so that a test can send what no decent server would.
#ifndef UBLKD_TESTS_VM_DRIVER_RAW_SERVER_H_
#define UBLKD_TESTS_VM_DRIVER_RAW_SERVER_H_

#include <liburing.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "driver/uapi/ublk_cmd.h"

namespace ublkd::driver_test {

inline constexpr uint32_t kAnyId = UINT32_MAX;
inline constexpr uint16_t kNoQueue = UINT16_MAX;
inline constexpr size_t kSectorBytes = 512;

// Calls `condition` until it is true or `limit` is over; returns what it said last.
bool Eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = std::chrono::seconds(10));

// True if the module under test is ours, not the kernel's own.
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

  int Add(ublksrv_ctrl_dev_info& info);
  int Delete(uint32_t id) { return Run(UBLK_U_CMD_DEL_DEV, {.dev_id = id}); }
  int DeleteAsync(uint32_t id) { return Run(UBLK_U_CMD_DEL_DEV_ASYNC, {.dev_id = id}); }
  int Start(uint32_t id, pid_t pid);
  int Stop(uint32_t id) { return Run(UBLK_U_CMD_STOP_DEV, {.dev_id = id}); }
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
  // Not 0: a zoned disk, with zones of this size.
  uint64_t zone_bytes = 0;
};

ublksrv_ctrl_dev_info InfoOf(const Geometry& geometry, uint32_t id = kAnyId);
ublk_params ParamsOf(const Geometry& geometry);

struct Request {
  uint16_t queue;
  uint16_t tag;
  const ublksrv_io_desc* desc;
  std::byte* buffer;
  int fd;               // of the char device
  uint64_t* commit_at;  // of a ZONE_APPEND: the sector where it went, to be set

  uint8_t op() const { return ublksrv_get_op(desc); }
  uint64_t offset() const { return desc->start_sector * kSectorBytes; }
  size_t bytes() const { return size_t{desc->nr_sectors} * kSectorBytes; }
};

// The result to commit, or nothing to keep the request.
using Handler = std::function<std::optional<int>(const Request&)>;

// Serves `memory` of the device's size: READ and WRITE copy, DISCARD and WRITE_ZEROES clear.
Handler RamHandler(std::byte* memory);

// Shared, zeroed memory that a forked server and the test both see.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  size_t bytes_;
  std::byte* data_;
};

// One queue of a server: ring, buffers and the thread that owns both.
class QueueServer;

struct ServerOptions {
  unsigned ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  // Tags to fetch in each queue; the rest never gets a command. 0: all.
  uint16_t fetch_only = 0;
  // Set on the FETCH and COMMIT SQEs, such as IOSQE_ASYNC.
  uint8_t sqe_flags = 0;
};

// Opens /dev/ublkcN and serves it with one thread a queue, until every command was aborted.
class Server {
 public:
  Server(uint32_t id, const Geometry& geometry, Handler handler, ServerOptions options = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // 0, or the errno of what failed when opening.
  int error() const { return error_; }
  // Runs `action` in the thread of a queue and waits for it.
  void InThread(uint16_t queue, const std::function<void(QueueServer&)>& action);
  // Waits for the threads to end by ABORT.
  void Join();
  // Joins, unmaps and closes the char device.
  void Close();
  int fd() const { return fd_; }

 private:
  int error_ = 0;
  int fd_ = -1;
  std::vector<std::unique_ptr<QueueServer>> queues_;
  std::vector<std::thread> threads_;
};

class QueueServer {
 public:
  QueueServer(int fd, uint16_t queue, const Geometry& geometry, Handler handler,
              ServerOptions options);
  ~QueueServer();

  int error() const { return error_; }
  void Run();
  void Post(std::function<void(QueueServer&)> action);

  // In the thread: commit a kept request.
  void Commit(uint16_t tag, int result);
  // In the thread: send any command and return its result. Only for commands that end at once.
  int Try(uint32_t op, uint16_t queue, uint16_t tag, int result, uint64_t addr,
          uint8_t sqe_flags = 0);
  uint64_t Buffer(uint16_t tag) const;
  const ublksrv_io_desc& Desc(uint16_t tag) const { return descs_[tag]; }
  // Tags of kept requests, oldest first.
  std::vector<uint16_t> kept() const { return kept_; }

 private:
  void Send(uint32_t op, uint16_t tag, int result, uint64_t commit_at = 0);
  void WatchWake();
  void OnCqe(uint64_t user_data, int res);
  void OnRequest(uint16_t tag, int res);
  void RunActions();

  const int fd_;
  const uint16_t queue_;
  const Geometry geometry_;
  const Handler handler_;
  const ServerOptions options_;
  int error_ = 0;
  int wake_fd_ = -1;
  const ublksrv_io_desc* descs_ = nullptr;
  std::byte* buffers_ = nullptr;
  std::unique_ptr<Ring> ring_;
  unsigned armed_ = 0;
  uint64_t wake_value_ = 0;
  std::vector<uint16_t> kept_;
  std::optional<int> tried_;

  std::mutex mutex_;
  std::deque<std::function<void(QueueServer&)>> actions_;
  std::atomic<bool> ended_ = false;
};

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

// A server in a process of its own, to be killed.
class ServerProcess {
 public:
  ServerProcess(uint32_t id, const Geometry& geometry, Handler handler, ServerOptions options = {});
  // Runs `body` in the process instead.
  explicit ServerProcess(const std::function<void()>& body);
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Sends the signal and waits for the end.
  void Kill(int signal = 9);
  // Exit status as of waitpid, or nothing after `limit`.
  std::optional<int> Wait(std::chrono::milliseconds limit = std::chrono::seconds(20));

 private:
  pid_t pid_ = -1;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_RAW_SERVER_H_
