// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/live_device.h"

#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace ublkd::driver_test {
namespace {

std::byte PatternByte(size_t at, uint32_t seed) {
  return std::byte((at / kSectorBytes * 31 + at * 7 + seed * 101) & 0xff);
}

std::byte* MapMemory(size_t bytes) {
  return static_cast<std::byte*>(
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

}  // namespace

void FillPattern(std::byte* data, size_t bytes, uint32_t seed) {
  for (size_t i = 0; i < bytes; ++i) data[i] = PatternByte(i, seed);
}

bool HoldsPattern(const std::byte* data, size_t bytes, uint32_t seed) {
  for (size_t i = 0; i < bytes; ++i)
    if (data[i] != PatternByte(i, seed)) return false;
  return true;
}

bool HoldsOnly(const std::byte* data, size_t bytes, std::byte value) {
  return std::all_of(data, data + bytes, [&](std::byte b) { return b == value; });
}

int ReadAt(int fd, void* data, size_t bytes, off_t at) {
  const ssize_t n = pread(fd, data, bytes, at);
  return n < 0 ? -errno : static_cast<int>(n);
}

int WriteAt(int fd, const void* data, size_t bytes, off_t at) {
  const ssize_t n = pwrite(fd, data, bytes, at);
  return n < 0 ? -errno : static_cast<int>(n);
}

LazyMemory::LazyMemory(size_t bytes) : bytes_(bytes), data_(MapMemory(bytes)) {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd < 0) return;
  uffdio_api api = {};
  api.api = UFFD_API;
  uffdio_register range = {};
  range.range = {.start = reinterpret_cast<uintptr_t>(data_), .len = bytes};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &range) != 0) {
    close(fd);
    return;
  }
  fd_ = fd;
}

LazyMemory::~LazyMemory() {
  if (!provided_ && works()) Provide();
  if (fd_ >= 0) close(fd_);
  munmap(data_, bytes_);
}

bool LazyMemory::IsTouched(std::chrono::milliseconds limit) {
  pollfd poll_fd = {.fd = fd_, .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, static_cast<int>(limit.count())) == 1;
}

void LazyMemory::Provide(std::byte value) {
  const PageBuffer content(bytes_);
  std::memset(content.data(), static_cast<int>(value), bytes_);
  uffdio_copy copy = {};
  copy.dst = reinterpret_cast<uintptr_t>(data_);
  copy.src = reinterpret_cast<uintptr_t>(content.data());
  copy.len = bytes_;
  EXPECT_EQ(ioctl(fd_, UFFDIO_COPY, &copy), 0) << "UFFDIO_COPY: " << std::strerror(errno);
  provided_ = true;
}

Handler KeepIf(const std::atomic<bool>* keep, Handler inner) {
  return [keep, inner = std::move(inner)](const Request& request) -> std::optional<int> {
    if (*keep) return std::nullopt;
    return inner(request);
  };
}

int TakeCharDevice(pid_t pid, uint32_t id, std::chrono::milliseconds limit) {
  int taken = -1;
  const auto take = [&] {
    const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    for (int fd = 3; fd < 64 && taken < 0; ++fd) {
      char target[64] = {};
      const std::string link = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
      if (readlink(link.c_str(), target, sizeof(target) - 1) > 0 && CharPath(id) == target) {
        taken = static_cast<int>(syscall(SYS_pidfd_getfd, process, fd, 0));
      }
    }
    close(process);
    return taken >= 0;
  };
  Eventually(take, limit);
  return taken;
}

std::unique_ptr<Server> NextServer(uint32_t id, const Geometry& geometry, const Handler& handler,
                                   ServerOptions options) {
  std::unique_ptr<Server> server;
  const bool served = Eventually([&] {
    server = std::make_unique<Server>(id, geometry, handler, options);
    return server->error() == 0;
  });
  EXPECT_TRUE(served) << "the char device can't be opened or mapped: "
                      << std::strerror(server->error());
  return server;
}

LiveDevice::LiveDevice(Geometry geometry, const Handler& handler, ServerOptions options)
    : options_(options) {
  geometry.flags |= UBLK_F_NO_AUTO_PART_SCAN;
  device = std::make_unique<Device>(control, geometry);
  EXPECT_EQ(device->error(), 0) << "ADD_DEV or SET_PARAMS failed";
  Serve(handler);
}

LiveDevice::~LiveDevice() {
  if (server != nullptr) Stop();
}

void LiveDevice::Serve(const Handler& handler) {
  server = NextServer(id(), geometry(), handler, options_);
  EXPECT_EQ(control.Start(id(), getpid()), 0) << "START_DEV failed";
  fd = open(device->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  EXPECT_GE(fd, 0) << "the disk can't be opened";
}

std::optional<uint16_t> LiveDevice::KeptTag(uint16_t queue, size_t count) {
  std::optional<uint16_t> tag;
  Eventually([&] {
    server->InThread(queue, [&](QueueServer& q) {
      if (q.kept().size() >= count) tag = q.kept().back();
    });
    return tag.has_value();
  });
  EXPECT_TRUE(tag.has_value()) << "the server never got the request that it was to keep";
  return tag;
}

void LiveDevice::CommitKept() {
  for (uint16_t queue = 0; queue < geometry().queues; ++queue) {
    server->InThread(queue, [](QueueServer& q) {
      for (const uint16_t tag : q.kept()) {
        q.Commit(tag, static_cast<int>(q.Desc(tag).nr_sectors * kSectorBytes));
      }
    });
  }
}

void LiveDevice::Commit(uint16_t tag, int result, uint16_t queue) {
  server->InThread(queue, [&](QueueServer& q) { q.Commit(tag, result); });
}

void LiveDevice::Stop() {
  CommitKept();
  if (fd >= 0) close(fd);
  EXPECT_EQ(control.Stop(id()), 0) << "STOP_DEV failed";
  server->Close();
  server.reset();
}

namespace {

// One thread's part of the disk, and what should be in it.
int CountWrongIosIn(int disk, size_t begin, size_t bytes, size_t block, int rounds, uint32_t seed) {
  constexpr size_t kMaxIo = 1 << 20;  // larger than a request, so that it is split
  std::mt19937 random(seed);
  const PageBuffer model(bytes);
  const PageBuffer buffer(kMaxIo);
  int wrong = 0;
  for (int round = 0; round < rounds; ++round) {
    const size_t max_bytes = std::min<size_t>(round % 8 == 0 ? kMaxIo : 32768, bytes);
    const size_t size = (1 + random() % (max_bytes / block)) * block;
    const size_t at = random() % ((bytes - size) / block + 1) * block;
    const auto offset = static_cast<off_t>(begin + at);
    if (round == 0 || random() % 2 == 0) {
      FillPattern(buffer.data(), size, random());
      if (pwrite(disk, buffer.data(), size, offset) != static_cast<ssize_t>(size)) ++wrong;
      std::memcpy(model.data() + at, buffer.data(), size);
    } else {
      std::memset(buffer.data(), 0xa5, size);
      if (pread(disk, buffer.data(), size, offset) != static_cast<ssize_t>(size) ||
          std::memcmp(model.data() + at, buffer.data(), size) != 0) {
        ++wrong;
      }
    }
  }
  return wrong;
}

}  // namespace

int CountWrongIos(int disk, uint64_t bytes, size_t block, int rounds, int threads) {
  std::atomic<int> wrong = 0;
  std::vector<std::thread> running;
  const size_t part = bytes / static_cast<size_t>(threads) / block * block;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      wrong += CountWrongIosIn(disk, static_cast<size_t>(t) * part, part, block, rounds,
                               static_cast<uint32_t>(t) + 1);
    });
  }
  for (std::thread& thread : running) thread.join();
  return wrong;
}

}  // namespace ublkd::driver_test
