// SPDX-License-Identifier: Apache-2.0
//
// /dev/ublkcN: opening, mapping and the commands of a server that misbehaves.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

constexpr size_t kPage = 4096;
constexpr off_t kStride = 4096 * sizeof(ublksrv_io_desc);

Handler AnswerAll() {
  return [](const Request& request) -> std::optional<int> {
    return static_cast<int>(request.bytes());
  };
}

TEST(Chan, HasOneOpener_R30) {
  Control control;
  Device device(control, {});
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC), -1);
  EXPECT_EQ(errno, EBUSY);
  close(fd);
  EXPECT_TRUE(Eventually([&] {
    const int again = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
    if (again >= 0) close(again);
    return again >= 0;
  }));
}

TEST(Chan, MapsDescriptorsReadOnlyAndWhole_R31) {
  Control control;
  Device device(control, {.queues = 2, .depth = 16});
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const auto map = [&](size_t bytes, int prot, off_t offset) {
    return mmap(nullptr, bytes, prot, MAP_SHARED, fd, offset);
  };
  EXPECT_EQ(map(kPage, PROT_READ | PROT_WRITE, 0), MAP_FAILED) << "writable";
  EXPECT_EQ(map(2 * kPage, PROT_READ, 0), MAP_FAILED) << "longer than the queue";
  EXPECT_EQ(map(kPage, PROT_READ, kPage), MAP_FAILED) << "not the start of a queue";
  EXPECT_EQ(map(kPage, PROT_READ, kStride * 4096), MAP_FAILED) << "no such queue";
  EXPECT_EQ(map(kPage, PROT_READ, static_cast<off_t>(~uint64_t{0} >> 1) & ~0xfffL), MAP_FAILED);
  void* second = map(kPage, PROT_READ, kStride);
  ASSERT_NE(second, MAP_FAILED);
  EXPECT_NE(mprotect(second, kPage, PROT_READ | PROT_WRITE), 0) << "made writable later";
  if (DriverIsOurs()) {
    ServerProcess child([&] {
      if (map(kPage, PROT_READ, 0) != MAP_FAILED) _exit(1);
    });
    EXPECT_EQ(child.Wait(), 0) << "another process may not map descriptors";
  }
  munmap(second, kPage);
  close(fd);
}

class Commands : public testing::Test {
 protected:
  void SetUp() override {
    device_ = std::make_unique<Device>(control_, Geometry{.queues = 2, .depth = 4});
    ASSERT_EQ(device_->error(), 0);
  }
  Control control_;
  std::unique_ptr<Device> device_;
};

TEST_F(Commands, BadFetchesAreRefused_R40) {
  Server server(device_->id(), device_->geometry(), AnswerAll(), {.fetch_only = 2});
  const uint16_t queues = device_->geometry().queues;
  server.InThread(0, [&](QueueServer& q) {
    const uint64_t buffer = q.Buffer(0);
    EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0, 0, 0, buffer), -EINVAL) << "fetched already";
    EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0, 3, 0, 0), -EINVAL) << "without a buffer";
    EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0, 4, 0, buffer), -EINVAL) << "no such tag";
    EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, queues, 0, 0, buffer), -EINVAL) << "no such queue";
    EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0xffff, 0xffff, 0, buffer), -EINVAL);
    EXPECT_EQ(q.Try(UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0, 3, 0, buffer), -EINVAL) << "not fetched";
    EXPECT_LT(q.Try(0x2f, 0, 0, 0, buffer), 0) << "no such command";
  });
  EXPECT_EQ(control_.Stop(device_->id()), 0);
}

TEST_F(Commands, OnlyTheOwnerCommitsAndOnlyOnce_R40_R41) {
  Server server(device_->id(), device_->geometry(), AnswerAll());
  ASSERT_EQ(control_.Start(device_->id(), getpid()), 0);
  // Whose requests would be committed below.
  ASSERT_TRUE(PartitionScanHasEnded(device_->disk()));
  server.InThread(0, [&](QueueServer& q) {
    const uint64_t buffer = q.Buffer(0);
    EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0, 1, 0, buffer), -EBUSY) << "fetch of a ready queue";
    EXPECT_EQ(q.Try(UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0, 1, 0, buffer), -EBUSY)
        << "commit without a request";
    if (device_->geometry().queues > 1) {
      EXPECT_EQ(q.Try(UBLK_U_IO_COMMIT_AND_FETCH_REQ, 1, 1, 0, buffer), -EINVAL)
          << "commit by another task";
    }
  });
  EXPECT_EQ(control_.Stop(device_->id()), 0);
}

TEST_F(Commands, AreRefusedAfterStopUntilReopened_R17) {
  const int fd = open(CharPath(device_->id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(control_.Stop(device_->id()), 0);
  Ring ring(8, 0);
  io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ);
  const ublksrv_io_cmd command = {.q_id = 0, .tag = 0, .result = 0, .addr = 4096};
  __builtin_memcpy(sqe->cmd, &command, sizeof(command));
  EXPECT_EQ(ring.Finish(), UBLK_IO_RES_ABORT);
  close(fd);
}

TEST_F(Commands, PolledRingIsRefused_R44) {
  const int fd = open(CharPath(device_->id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    Ring ring(8, IORING_SETUP_IOPOLL);
    ASSERT_EQ(ring.error(), 0);
    io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ);
    const ublksrv_io_cmd command = {.q_id = 0, .tag = 0, .result = 0, .addr = 4096};
    __builtin_memcpy(sqe->cmd, &command, sizeof(command));
    const auto result = ring.Finish(std::chrono::seconds(5));
    ASSERT_TRUE(result.has_value()) << "the command hangs";
    EXPECT_LT(*result, 0);
  }
  close(fd);
}

}  // namespace
}  // namespace ublkd::driver_test
