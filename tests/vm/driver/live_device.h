// SPDX-License-Identifier: Apache-2.0
//
// A device that is up, with its server in this process, and what tests do with such a device.
#ifndef UBLKD_TESTS_VM_DRIVER_LIVE_DEVICE_H_
#define UBLKD_TESTS_VM_DRIVER_LIVE_DEVICE_H_

#include <fcntl.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

inline constexpr size_t kPage = 4096;

// Zeroed memory that begins at a page. It is shared with forked servers: to separate their copies
// costs more than all else that a test does.
class PageBuffer {
 public:
  explicit PageBuffer(size_t bytes) : memory_(bytes) {}
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;
  std::byte* data() const { return memory_.data(); }

 private:
  SharedMemory memory_;
};

// Bytes that tell their place and `seed`.
void FillPattern(std::byte* data, size_t bytes, uint32_t seed);
bool HoldsPattern(const std::byte* data, size_t bytes, uint32_t seed);
bool HoldsOnly(const std::byte* data, size_t bytes, std::byte value);

// Bytes, or -errno.
int ReadAt(int fd, void* data, size_t bytes, off_t at);
int WriteAt(int fd, const void* data, size_t bytes, off_t at);

// Memory that is not there yet: whoever touches it waits until it is provided.
class LazyMemory {
 public:
  explicit LazyMemory(size_t bytes);
  ~LazyMemory();
  LazyMemory(const LazyMemory&) = delete;
  LazyMemory& operator=(const LazyMemory&) = delete;

  // False if the kernel has no userfaultfd.
  bool works() const { return fd_ >= 0; }
  std::byte* data() const { return data_; }
  // True when somebody waits for it.
  bool IsTouched(std::chrono::milliseconds limit = std::chrono::seconds(10));
  // It is there, full of `value`, and whoever waits goes on.
  void Provide(std::byte value = {});

 private:
  size_t bytes_;
  std::byte* data_;
  int fd_ = -1;
  bool provided_ = false;
};

// Keeps all requests while `keep` is set.
Handler KeepIf(const std::atomic<bool>* keep, Handler inner);

// The char device of another process, as if it had been passed on; -1 if it has none for so long.
int TakeCharDevice(pid_t pid, uint32_t id,
                   std::chrono::milliseconds limit = std::chrono::seconds(10));

// A server, as soon as the one before has let go of the char device.
std::unique_ptr<Server> NextServer(uint32_t id, const Geometry& geometry, const Handler& handler,
                                   ServerOptions options = {});

// A started device and its disk, open for direct I/O. There is no partition scan.
class LiveDevice {
 public:
  LiveDevice(Geometry geometry, const Handler& handler, ServerOptions options = {});
  // Answers what the server has kept, and stops.
  ~LiveDevice();
  LiveDevice(const LiveDevice&) = delete;
  LiveDevice& operator=(const LiveDevice&) = delete;

  uint32_t id() const { return device->id(); }
  const Geometry& geometry() const { return device->geometry(); }
  // The tag that the server keeps in a queue, as soon as there are `count` of them; the last one.
  std::optional<uint16_t> KeptTag(uint16_t queue = 0, size_t count = 1);
  // Success for all kept requests.
  void CommitKept();
  void Commit(uint16_t tag, int result, uint16_t queue = 0);
  void Stop();
  // A server again, after Stop().
  void Serve(const Handler& handler);

  Control control;
  std::unique_ptr<Device> device;
  std::unique_ptr<Server> server;
  int fd = -1;

 private:
  ServerOptions options_;
};

// Random I/O by `threads`, each in a part of the disk of its own, against a model. Returns how many
// I/Os failed or gave other data than was written.
int CountWrongIos(int disk, uint64_t bytes, size_t block, int rounds, int threads = 4);

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_LIVE_DEVICE_H_
