// SPDX-License-Identifier: Apache-2.0
//
// What becomes of the results that a server commits, and of buffers that it has not.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/served.h"

namespace ublkd::driver_test {
namespace {

// To end a request may end the last use of the disk, and that waits for a write that the same
// thread of the server has to answer.
TEST(Results, TheLastUseOfADiskEndsInAnotherTask_R50) {
  const Geometry geometry = {.flags = UBLK_F_NO_AUTO_PART_SCAN};
  SharedMemory ram(geometry.bytes);
  const Handler inner = RamHandler(ram.data());
  std::atomic<bool> hold = true;
  Control control;
  Device device(control, geometry);
  Server server(device.id(), geometry, [&](const Request& request) -> std::optional<int> {
    if (hold && request.op() == UBLK_IO_OP_READ) return std::nullopt;
    return inner(request);
  });
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);

  aio_context_t aio = 0;
  ASSERT_EQ(syscall(SYS_io_setup, 1, &aio), 0);
  const PageBuffer buffer(4096);
  const int direct = open(device.disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  iocb io = {};
  io.aio_lio_opcode = IOCB_CMD_PREAD;
  io.aio_fildes = static_cast<uint32_t>(direct);
  io.aio_buf = reinterpret_cast<uintptr_t>(buffer.data());
  io.aio_nbytes = 4096;
  iocb* ios = &io;
  ASSERT_EQ(syscall(SYS_io_submit, aio, 1, &ios), 1);
  const int cached = open(device.disk().c_str(), O_RDWR | O_CLOEXEC);
  const auto held = [&] {
    size_t count = 0;
    server.InThread(0, [&](QueueServer& q) { count = q.kept().size(); });
    return count;
  };
  ASSERT_TRUE(Eventually([&] { return held() == 1; }));
  // A whole page, which needs not be read before.
  ASSERT_EQ(pwrite(cached, std::string(4096, 'x').c_str(), 4096, 8192), 4096);
  close(cached);
  // Only the request in flight still uses the disk.
  close(direct);
  hold = false;
  server.InThread(0, [](QueueServer& q) { q.Commit(q.kept()[0], 4096); });
  io_event event = {};
  EXPECT_EQ(syscall(SYS_io_getevents, aio, 1, 1, &event, nullptr), 1);
  EXPECT_EQ(event.res, 4096);
  EXPECT_TRUE(Eventually([&] { return ram.data()[8192] == std::byte{'x'}; }))
      << "the server waits for itself";
  EXPECT_TRUE(Eventually([&] { return control.TryStop(device.id()) == 0; }))
      << "the disk is still in use";
  EXPECT_EQ(syscall(SYS_io_destroy, aio), 0);
}

TEST(Results, ErrorsAreMapped_R48) {
  const Geometry geometry;
  std::atomic<int> answer = -EIO;
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    return request.op() == UBLK_IO_OP_WRITE ? answer.load() : int(request.bytes());
  });
  PageBuffer buffer(4096);
  for (const int err : {EIO, ENOSPC, ETIMEDOUT}) {
    answer = -err;
    errno = 0;
    EXPECT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), -1);
    EXPECT_EQ(errno, err) << "the server's error must reach the user";
  }
}

TEST(Results, ReadOfNothingIsAnError_R36_R48) {
  const Geometry geometry = {.bytes = 1 << 20};
  std::atomic<bool> empty = false;
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    std::memset(request.buffer, 0, request.op() == UBLK_IO_OP_READ ? request.bytes() : 0);
    return empty ? 0 : int(request.bytes());
  });
  PageBuffer buffer(4096);
  empty = true;
  EXPECT_EQ(pread(served.fd, buffer.data(), 4096, 512 << 10), -1)
      << "a read that returned nothing must not succeed with stale memory";
  EXPECT_EQ(errno, EIO);
  empty = false;
}

TEST(Results, ShortReadIsContinued_R48) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  for (size_t i = 0; i < geometry.bytes; ++i) ram.data()[i] = std::byte(i / 512 * 7 + i);
  Recorder recorder;
  Served served(geometry, recorder.Wrap([&](const Request& request) -> std::optional<int> {
    if (request.op() != UBLK_IO_OP_READ) return 0;
    // At most 1 KiB at a time, and a crooked number when it is less than all.
    const size_t bytes = std::min<size_t>(request.bytes(), 1024);
    std::memcpy(request.buffer, ram.data() + request.offset(), bytes);
    return static_cast<int>(bytes < request.bytes() ? bytes + 100 : bytes);
  }));
  PageBuffer buffer(16384);
  ASSERT_EQ(pread(served.fd, buffer.data(), 16384, 1 << 20), 16384);
  EXPECT_EQ(std::memcmp(buffer.data(), ram.data() + (1 << 20), 16384), 0)
      << "what is missing after a short read has to be asked for again";
}

TEST(Results, ShortWriteIsContinued_R48) {
  if (!DriverIsOurs())
    GTEST_SKIP() << "stock drivers from 7.x on take a short write as a whole one";
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    const size_t bytes = std::min<size_t>(request.bytes(), 1536);
    if (request.op() == UBLK_IO_OP_READ) return int(request.bytes());
    std::memcpy(ram.data() + request.offset(), request.buffer, bytes);
    return static_cast<int>(bytes);
  });
  PageBuffer buffer(16384);
  for (size_t i = 0; i < 16384; ++i) buffer.data()[i] = std::byte(i * 13 / 7);
  ASSERT_EQ(pwrite(served.fd, buffer.data(), 16384, 0), 16384);
  EXPECT_EQ(std::memcmp(buffer.data(), ram.data(), 16384), 0)
      << "what is missing after a short write has to be written again";
}

TEST(Results, TooMuchIsClamped_R48) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    RamHandler(ram.data())(request);
    return INT32_MAX;
  });
  PageBuffer buffer(4096);
  EXPECT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), 4096);
  EXPECT_EQ(pread(served.fd, buffer.data(), 4096, 0), 4096);
}

// A server that loses its buffer gets no data it can't have, and the write is not lost.
TEST(Results, WriteIntoAFaultingBufferIsRetried_R47) {
  const Geometry geometry = {.depth = 1};
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()));
  ASSERT_TRUE(PartitionScanHasEnded(served.device.disk()));
  PageBuffer buffer(4096);
  std::memset(buffer.data(), 0x3c, 4096);
  // Let the tag be armed once more, then take its memory away.
  ASSERT_EQ(pwrite(served.fd, buffer.data(), 4096, 8192), 4096);
  uint64_t addr = 0;
  served.server->InThread(0, [&](QueueServer& queue) {
    addr = queue.Buffer(0);
    mprotect(reinterpret_cast<void*>(addr), 4096, PROT_NONE);
  });
  std::atomic<ssize_t> written = -2;
  std::thread writer([&] { written = pwrite(served.fd, buffer.data(), 4096, 4096); });
  EXPECT_FALSE(Eventually([&] { return written != -2; }, std::chrono::milliseconds(300)))
      << "the write can't be finished while the buffer is away";
  mprotect(reinterpret_cast<void*>(addr), 4096, PROT_READ | PROT_WRITE);
  writer.join();
  EXPECT_EQ(written, 4096);
  EXPECT_EQ(std::memcmp(ram.data() + 4096, buffer.data(), 4096), 0);
}

TEST(GetData, WriteWithoutTakingTheDataCanFail_R41) {
  Geometry geometry = {.depth = 4, .flags = UBLK_F_NEED_GET_DATA};
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()));
  served.server->InThread(0, [](QueueServer& queue) {
    EXPECT_EQ(queue.Try(UBLK_U_IO_NEED_GET_DATA, 0, 1, 0, queue.Buffer(1)), -EBUSY)
        << "NEED_GET_DATA without being asked for it";
  });
  PageBuffer buffer(4096);
  EXPECT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), 4096);
}

}  // namespace
}  // namespace ublkd::driver_test
