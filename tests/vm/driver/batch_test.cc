// SPDX-License-Identifier: Apache-2.0
//
// Queues that are served as a whole (UBLK_F_BATCH_IO), by any thread. Skipped where the kernel
// can't.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "tests/vm/driver/batch_server.h"
#include "tests/vm/driver/disk_user.h"

namespace ublkd::driver_test {
namespace {

constexpr size_t kIoBytes = 4096;

Geometry BatchGeometry(uint16_t queues = 1, uint64_t more_flags = 0) {
  return {.queues = queues,
          .depth = 16,
          .flags = UBLK_F_BATCH_IO | more_flags,
          .bytes = 8 << 20,
          .max_io_bytes = 64 << 10};
}

class Batch : public testing::Test {
 protected:
  void SetUp() override {
    if ((control_.Features() & UBLK_F_BATCH_IO) == 0) GTEST_SKIP() << "not on this kernel";
  }

  // Writes and reads back all over the disk from several threads.
  static void ExpectRightData(const std::string& disk, unsigned threads, int rounds) {
    std::vector<std::thread> users;
    for (unsigned i = 0; i < threads; ++i) {
      users.emplace_back([&disk, i, threads, rounds] {
        const int fd = open(disk.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
        ASSERT_GE(fd, 0);
        auto* buffer = static_cast<unsigned char*>(std::aligned_alloc(4096, 4 * kIoBytes));
        std::mt19937 random(i);
        for (int round = 0; round < rounds; ++round) {
          const size_t bytes = (1 + random() % 4) * kIoBytes;
          const auto at = static_cast<off_t>((random() % 60 * threads + i) * 4 * kIoBytes);
          const auto mark = static_cast<unsigned char>(random());
          std::memset(buffer, mark, bytes);
          ASSERT_EQ(pwrite(fd, buffer, bytes, at), static_cast<ssize_t>(bytes));
          std::memset(buffer, 0, bytes);
          ASSERT_EQ(pread(fd, buffer, bytes, at), static_cast<ssize_t>(bytes));
          ASSERT_EQ(buffer[0], mark);
          ASSERT_EQ(buffer[bytes - 1], mark);
        }
        std::free(buffer);
        close(fd);
      });
    }
    for (std::thread& user : users) user.join();
  }

  Control control_;
};

TEST_F(Batch, DataIsRightOnOneAndFourQueues_R78) {
  for (const uint16_t queues : {uint16_t{1}, uint16_t{4}}) {
    Device device(control_, BatchGeometry(queues));
    ASSERT_EQ(device.error(), 0);
    EXPECT_EQ(device.info().flags & UBLK_F_PER_IO_DAEMON, 0U) << "no tag has a task of its own";
    SharedMemory memory(device.geometry().bytes);
    BatchServer server(device.id(), device.geometry(), RamHandler(memory.data()));
    ASSERT_EQ(server.error(), 0);
    ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
    ExpectRightData(device.disk(), 4, 200);
    ASSERT_EQ(control_.Stop(device.id()), 0);
    server.Close();
    EXPECT_GT(server.delivered(), 4U * 200);
    EXPECT_EQ(server.refused(), 0U) << "PREP or COMMIT was not done as a whole";
  }
}

TEST_F(Batch, SeveralThreadsServeAQueue_R78) {
  Device device(control_, BatchGeometry());
  SharedMemory memory(device.geometry().bytes);
  BatchServer server(device.id(), device.geometry(), RamHandler(memory.data()), 3);
  ASSERT_EQ(control_.Start(device.id(), getpid()), 0);
  ExpectRightData(device.disk(), 8, 200);
  ASSERT_EQ(control_.Stop(device.id()), 0);
  server.Close();
  EXPECT_EQ(server.refused(), 0U) << "PREP or COMMIT was not done as a whole";
}

// Files are closed after io_uring has waited for its workers, and one of them waits for a request
// that nobody but the release of the char device gives back.
TEST_F(Batch, AServerThatStopsItsOwnDeviceCanBeKilled_R02) {
  struct Shared {
    std::atomic<int> held = 0;
    std::atomic<bool> stop = false;
  };
  Device device(control_, BatchGeometry(1, UBLK_F_NO_AUTO_PART_SCAN));
  ASSERT_EQ(device.error(), 0);
  const SharedMemory memory(sizeof(Shared));
  auto* shared = memory.as<Shared>();
  ServerProcess process([&] {
    const Handler keeps = [&](const Request&) -> std::optional<int> {
      ++shared->held;
      for (;;) pause();
    };
    const BatchServer server(device.id(), device.geometry(), keeps);
    while (!shared->stop) usleep(1000);
    Control().Stop(device.id());
  });
  ASSERT_EQ(control_.Start(device.id(), process.pid()), 0);
  OpenDisk disk(device.disk());
  const PendingIo io(disk, PendingIo::Op::kRead, 0);
  ASSERT_TRUE(Eventually([&] { return shared->held > 0; })) << "the server gets no request";
  shared->stop = true;
  ASSERT_TRUE(Eventually([&] { return control_.Resize(device.id(), 16384) == -ENODEV; }))
      << "the disk is not being removed";
  kill(process.pid(), SIGKILL);
  EXPECT_TRUE(process.Wait().has_value()) << "the server can't be killed";
  EXPECT_EQ(io.Result(), -EIO);
  disk.Close();
  EXPECT_EQ(device.Delete(), 0);
}

TEST_F(Batch, CommandsForSingleTagsAreRefused) {
  Device device(control_, BatchGeometry());
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    Ring ring(8, 0);
    io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ);
    const ublksrv_io_cmd command = {.q_id = 0, .tag = 0, .result = 0, .addr = 4096};
    std::memcpy(sqe->cmd, &command, sizeof(command));
    EXPECT_EQ(ring.Finish(), -EOPNOTSUPP);
  }
  close(fd);
}

TEST_F(Batch, PrepIsAllOrNothing_R78) {
  const Geometry geometry = BatchGeometry();
  Device device(control_, geometry);
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    BatchRing ring(fd);
    ASSERT_EQ(ring.error(), 0);
    std::vector<Element> elements(geometry.depth);
    for (uint16_t tag = 0; tag < geometry.depth; ++tag) {
      elements[tag] = {.head = {.tag = tag, .buf_index = 0, .result = 0}, .addr = kIoBytes};
    }
    std::vector<Element> twice = elements;
    twice.back().head.tag = 0;
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, twice), -EINVAL) << "a tag twice";
    std::vector<Element> beyond = elements;
    beyond.back().head.tag = geometry.depth;
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, beyond), -EINVAL) << "no such tag";
    std::vector<Element> without = elements;
    without.back().addr = 0;
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, without), -EINVAL) << "no buffer";
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 9, elements), -EINVAL) << "no such queue";
    elements.push_back({});
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, elements), -E2BIG);
    elements.pop_back();
    EXPECT_EQ(ring.Run(UBLK_U_IO_COMMIT_IO_CMDS, 0, elements), -EBUSY) << "nothing was given";
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, elements), 0) << "the failures left something";
    EXPECT_EQ(ring.Run(UBLK_U_IO_PREP_IO_CMDS, 0, elements), -EBUSY) << "all tags are there";
  }
  close(fd);
}

TEST_F(Batch, AKilledServerLeavesADeadDeviceOrARecoverableOne_R78_R67) {
  for (const uint64_t flags :
       {uint64_t{0}, uint64_t{UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE}}) {
    const Geometry geometry = BatchGeometry(2, flags);
    Device device(control_, geometry);
    ASSERT_EQ(device.error(), 0);
    SharedMemory memory(geometry.bytes);
    const auto serve = [&] {
      BatchServer server(device.id(), device.geometry(), RamHandler(memory.data()), 2);
      server.Close();
    };
    ServerProcess first(serve);
    ASSERT_EQ(control_.Start(device.id(), first.pid()), 0);
    std::atomic<int> failed = 0;
    std::atomic<int> done = 0;
    std::atomic<bool> stop = false;
    std::thread user([&] {
      const int fd = open(device.disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
      void* buffer = std::aligned_alloc(4096, kIoBytes);
      std::memset(buffer, 1, kIoBytes);
      while (!stop && failed == 0) {
        if (pwrite(fd, buffer, kIoBytes, 0) != static_cast<ssize_t>(kIoBytes)) ++failed;
        ++done;
      }
      std::free(buffer);
      close(fd);
    });
    ASSERT_TRUE(Eventually([&] { return done > 50; }));
    first.Kill();
    if (flags == 0) {
      EXPECT_TRUE(Eventually([&] { return control_.State(device.id()) == UBLK_S_DEV_DEAD; }));
      user.join();
      EXPECT_EQ(failed, 1);
    } else {
      EXPECT_TRUE(Eventually([&] { return control_.State(device.id()) == UBLK_S_DEV_QUIESCED; }));
      EXPECT_TRUE(Eventually([&] {
        return control_.Run(UBLK_U_CMD_START_USER_RECOVERY, {.dev_id = device.id()}) == 0;
      })) << "START_USER_RECOVERY stays refused";
      ServerProcess second(serve);
      EXPECT_EQ(control_.Run(UBLK_U_CMD_END_USER_RECOVERY,
                             {.dev_id = device.id(), .data = uint64_t(second.pid())}),
                0);
      const int before = done;
      EXPECT_TRUE(Eventually([&] { return done > before + 50; })) << "I/O does not go on";
      stop = true;
      user.join();
      EXPECT_EQ(failed, 0) << "a request was lost";
      second.Kill();
    }
    EXPECT_EQ(device.Delete(), 0);
  }
}

}  // namespace
}  // namespace ublkd::driver_test
