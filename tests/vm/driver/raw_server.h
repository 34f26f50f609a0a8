// SPDX-License-Identifier: Apache-2.0
//
// A small ublk server for testing the driver, made of plain SQEs, so that a test can send what no
// decent server would.
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
#include "tests/vm/driver/control.h"

namespace ublkd::driver_test {

// One queue of a server, or a part of its tags: ring, buffers and the thread that owns both.
class QueueServer;

struct Request {
  uint16_t queue;
  uint16_t tag;
  const ublksrv_io_desc* desc;
  std::byte* buffer;
  int fd = -1;                    // of the char device
  uint64_t* commit_at = nullptr;  // of a ZONE_APPEND: the sector where it went, to be set
  QueueServer* server = nullptr;  // whose thread this is

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

struct ServerOptions {
  unsigned ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
  // Tags to fetch in each queue; the rest never gets a command. 0: all.
  uint16_t fetch_only = 0;
  // Set on the FETCH and COMMIT SQEs, such as IOSQE_ASYNC.
  uint8_t sqe_flags = 0;
  // They take the tags of their queue in turns.
  uint16_t threads_per_queue = 1;
  // Empty places for registered buffers in each ring.
  unsigned fixed_buffers = 0;
  // The address in the FETCH and COMMIT SQEs of a tag, which UBLK_F_AUTO_BUF_REG looks at.
  std::function<uint64_t(uint16_t tag)> sqe_addr = nullptr;
};

// Opens /dev/ublkcN and serves it with one or more threads a queue, until every command was
// aborted.
class Server {
 public:
  Server(uint32_t id, const Geometry& geometry, Handler handler, ServerOptions options = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // 0, or the errno of what failed when opening.
  int error() const { return error_; }
  // Runs `action` in a thread of a queue, the one with tag `part`, and waits for it.
  void InThread(uint16_t queue, const std::function<void(QueueServer&)>& action, uint16_t part = 0);
  // The same without waiting.
  void Post(uint16_t queue, std::function<void(QueueServer&)> action, uint16_t part = 0);
  // Waits for the threads to end by ABORT.
  void Join();
  // Joins, unmaps and closes the char device.
  void Close();
  int fd() const { return fd_; }

 private:
  int error_ = 0;
  int fd_ = -1;
  uint16_t threads_per_queue_;
  std::vector<std::unique_ptr<QueueServer>> queues_;
  std::vector<std::thread> threads_;
};

class QueueServer {
 public:
  // Serves tags `part`, `part` + options.threads_per_queue and so on.
  QueueServer(int fd, uint16_t queue, uint16_t part, const Geometry& geometry, Handler handler,
              ServerOptions options);
  ~QueueServer();

  int error() const { return error_; }
  void Run();
  void Post(std::function<void(QueueServer&)> action);

  // In the thread: commit a kept request.
  void Commit(uint16_t tag, int result);
  // In the thread: send any command and return its result. Only for commands that end at once.
  int Try(uint32_t op, uint16_t queue, uint16_t tag, int result, uint64_t addr,
          uint8_t sqe_flags = 0, uint64_t sqe_addr = 0);
  // In the thread, and in a handler: submits and returns the result.
  int Await(io_uring_sqe* sqe);
  // Of the thread.
  Ring& ring() { return *ring_; }
  // A kept request was committed by other means.
  void Forget(uint16_t tag);
  uint64_t Buffer(uint16_t tag) const;
  const ublksrv_io_desc& Desc(uint16_t tag) const;
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
  const uint16_t part_;
  const Geometry geometry_;
  const Handler handler_;
  const ServerOptions options_;
  int error_ = 0;
  int wake_fd_ = -1;
  const std::byte* descs_ = nullptr;
  std::byte* buffers_ = nullptr;
  std::unique_ptr<Ring> ring_;
  unsigned armed_ = 0;
  uint64_t wake_value_ = 0;
  std::vector<uint16_t> kept_;

  std::mutex mutex_;
  std::deque<std::function<void(QueueServer&)>> actions_;
  std::atomic<bool> ended_ = false;
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
