// SPDX-License-Identifier: Apache-2.0
//
// A server that dies, at any moment and in any way, leaves no hanging I/O and a device that can be
// deleted. "Noticed" means: the device is DEAD and its users have their errors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <iostream>
#include <random>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

// What is promised is one second; an emulated, shared machine gets some slack.
constexpr std::chrono::milliseconds kNotice{1000};
constexpr std::chrono::milliseconds kNoticeLimit{4000};
constexpr size_t kIoBytes = 4096;

Handler KeepAll() {
  return [](const Request&) -> std::optional<int> { return std::nullopt; };
}

// Answers until `keep` is set: a disk that answers nothing from the start can't even be opened,
// since its partition scan hangs.
Handler KeepOnce(const std::atomic<int>* keep) {
  return [keep](const Request& request) -> std::optional<int> {
    if (*keep != 0) return std::nullopt;
    return static_cast<int>(request.bytes());
  };
}

Handler AnswerAll() {
  return [](const Request& request) -> std::optional<int> {
    return static_cast<int>(request.bytes());
  };
}

class Death : public testing::Test {
 protected:
  // A device with its server in another process, started.
  void StartServer(const Geometry& geometry, Handler handler, ServerOptions options = {}) {
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    process_ = std::make_unique<ServerProcess>(device_->id(), device_->geometry(),
                                               std::move(handler), options);
    ASSERT_EQ(control_.Start(device_->id(), process_->pid()), 0) << "START_DEV failed";
  }

  // The time from now until the device is dead.
  void ExpectDeadSoon() {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_TRUE(
        Eventually([&] { return control_.State(device_->id()) == UBLK_S_DEV_DEAD; }, kNoticeLimit))
        << "the driver has not noticed the end of the server";
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - begin);
    RecordProperty("notice_ms", static_cast<int>(took.count()));
    if (took > kNotice) std::cout << "  slow: noticed after " << took.count() << " ms\n";
    EXPECT_FALSE(PathExists(device_->disk())) << "the disk of a dead device must go";
  }

  void ExpectDeletable() { EXPECT_EQ(device_->Delete(), 0) << "DEL_DEV failed"; }

  Control control_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<ServerProcess> process_;
};

// Threads that read from a disk until it fails.
class Readers {
 public:
  Readers(const std::string& disk, int count, bool direct = true) {
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([this, disk, i, direct] {
        const int fd = open(disk.c_str(), O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0));
        void* buffer = std::aligned_alloc(4096, kIoBytes);
        std::memset(buffer, i, kIoBytes);
        for (int round = 0;; ++round) {
          const off_t at = static_cast<off_t>(kIoBytes) * ((round * 37 + i * 100) % 1000);
          ++started_;
          const ssize_t n =
              round % 2 == 0 ? pread(fd, buffer, kIoBytes, at) : pwrite(fd, buffer, kIoBytes, at);
          if (n != ssize_t(kIoBytes)) break;
          ++done_;
        }
        std::free(buffer);
        close(fd);
        ++ended_;
      });
    }
  }
  ~Readers() { Join(); }
  void Join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  int started() const { return started_; }
  int done() const { return done_; }
  int ended() const { return ended_; }

 private:
  std::atomic<int> started_ = 0;
  std::atomic<int> done_ = 0;
  std::atomic<int> ended_ = 0;
  std::vector<std::thread> threads_;
};

TEST_F(Death, KillWhileIdleIsNoticedWithinASecond_R60) {
  StartServer({.queues = 2}, AnswerAll());
  process_->Kill();
  ExpectDeadSoon();
  ExpectDeletable();
}

TEST_F(Death, KillUnderLoadEndsEveryIo_R60_R61) {
  for (int round = 0; round < 10; ++round) {
    StartServer({.queues = 2, .depth = 8}, AnswerAll());
    Readers readers(device_->disk(), 8);
    ASSERT_TRUE(Eventually([&] { return readers.done() > 50 + 37 * round; }));
    process_->Kill();
    ExpectDeadSoon();
    EXPECT_TRUE(Eventually([&] { return readers.ended() == 8; }, kNoticeLimit))
        << "I/O hangs after the server was killed";
    readers.Join();
    ExpectDeletable();
  }
}

TEST_F(Death, KillWithAllTagsHeldIsNoticedWithinASecond_R63) {
  SharedMemory shared(4096);
  auto* keep = new (shared.data()) std::atomic<int>(0);
  StartServer({.queues = 1, .depth = 4}, KeepOnce(keep));
  Readers readers(device_->disk(), 12);
  ASSERT_TRUE(Eventually([&] { return readers.done() > 50; }));
  *keep = 1;
  // More readers than tags: all tags are held when nobody gets on.
  ASSERT_TRUE(Eventually([&] {
    const int done = readers.done();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return readers.done() == done;
  }));
  process_->Kill();
  ExpectDeadSoon();
  EXPECT_TRUE(Eventually([&] { return readers.ended() == 12; }, kNoticeLimit))
      << "requests that the dead server held must fail";
  readers.Join();
  ExpectDeletable();
}

TEST_F(Death, KillWithBufferedWritesInFlightEnds) {
  SharedMemory shared(4096);
  auto* keep = new (shared.data()) std::atomic<int>(0);
  StartServer({.queues = 1, .depth = 4}, KeepOnce(keep));
  const int fd = open(device_->disk().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  *keep = 1;
  std::atomic<bool> ended = false;
  std::thread writer([&] {
    const std::vector<char> data(1 << 20, 'x');
    [[maybe_unused]] ssize_t n = write(fd, data.data(), data.size());
    fsync(fd);
    close(fd);
    ended = true;
  });
  // Writes back at the latest in fsync(), and waits there for the server that keeps it all.
  EXPECT_FALSE(Eventually([&] { return ended.load(); }, std::chrono::milliseconds(300)));
  process_->Kill();
  ExpectDeadSoon();
  writer.join();
  ExpectDeletable();
}

TEST_F(Death, AfterFetchingSomeTags_R64) {
  const Geometry geometry = {.queues = 2, .depth = 16};
  device_ = std::make_unique<Device>(control_, geometry);
  process_ = std::make_unique<ServerProcess>(device_->id(), geometry, AnswerAll(),
                                             ServerOptions{.fetch_only = 3});
  // START_DEV waits for tags that never come; it is not to get stuck when the server goes.
  Control starter;
  starter.Send(UBLK_U_CMD_START_DEV, {.dev_id = device_->id(), .data = uint64_t(process_->pid())});
  EXPECT_EQ(starter.Finish(std::chrono::milliseconds(300)), std::nullopt)
      << "START_DEV must wait for all tags";
  process_->Kill();
  EXPECT_EQ(control_.Stop(device_->id()), 0);
  EXPECT_EQ(starter.Finish(std::chrono::seconds(5)), -EBUSY) << "STOP_DEV must wake START_DEV";
  EXPECT_TRUE(Eventually([&] {
    const int fd = open(CharPath(device_->id()).c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return false;
    close(fd);
    return true;
  })) << "the char device must be free again";
  ExpectDeletable();
}

TEST_F(Death, StartDevOfADeadServerCanBeInterrupted_R15) {
  device_ = std::make_unique<Device>(control_, Geometry{});
  const uint32_t id = device_->id();
  ServerProcess starter([id] {
    Control control;
    control.Start(id, getpid());
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  starter.Kill();
  EXPECT_EQ(control_.State(id), UBLK_S_DEV_DEAD);
  ExpectDeletable();
}

// Each command has to be known to the driver and to io_uring at once, or it is never ended.
TEST_F(Death, RightAfterTheCommandsWereSent_R42) {
  device_ = std::make_unique<Device>(control_, Geometry{.depth = 32});
  const uint32_t id = device_->id();
  for (int round = 0; round < 30; ++round) {
    ServerProcess server([id, round] {
      int fd = -1;
      Eventually([&] { return (fd = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC)) >= 0; });
      if (fd < 0) _exit(1);
      Ring ring(64, round % 2 == 0 ? 0 : IORING_SETUP_SQPOLL);
      for (uint16_t tag = 0; tag < 32; ++tag) {
        io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ);
        const ublksrv_io_cmd command = {.q_id = 0, .tag = tag, .result = 0, .addr = 4096};
        std::memcpy(sqe->cmd, &command, sizeof(command));
        if (round % 3 == 0) sqe->flags = IOSQE_ASYNC;
      }
      io_uring_submit(ring.get());
      _exit(0);
    });
    ASSERT_EQ(server.Wait(), 0) << "round " << round << ": the last server still has the device";
  }
  ExpectDeletable();
}

TEST_F(Death, RingClosedByALivingProcessIsNoticed_R60) {
  device_ = std::make_unique<Device>(control_, Geometry{.depth = 4});
  const uint32_t id = device_->id();
  SharedMemory flag(4096);
  auto* closed = new (flag.data()) std::atomic<int>(0);
  process_ = std::make_unique<ServerProcess>([id, closed] {
    const int fd = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
    {
      Ring ring(8, 0);
      for (uint16_t tag = 0; tag < 4; ++tag) {
        io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ);
        const ublksrv_io_cmd command = {.q_id = 0, .tag = tag, .result = 0, .addr = 4096};
        std::memcpy(sqe->cmd, &command, sizeof(command));
      }
      io_uring_submit(ring.get());
      while (*closed == 0) usleep(1000);
    }
    close(fd);
    *closed = 2;
    pause();
  });
  ASSERT_EQ(control_.Start(id, process_->pid()), 0);
  *closed = 1;
  ASSERT_TRUE(Eventually([&] { return *closed == 2; }));
  ExpectDeadSoon();
  ExpectDeletable();
}

TEST_F(Death, ExecOfTheServerCompletesItsCommands_R71) {
  device_ = std::make_unique<Device>(control_, Geometry{.depth = 4});
  const uint32_t id = device_->id();
  SharedMemory flag(4096);
  auto* go = new (flag.data()) std::atomic<int>(0);
  process_ = std::make_unique<ServerProcess>([id, go] {
    const int fd = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
    Ring ring(8, 0);
    for (uint16_t tag = 0; tag < 4; ++tag) {
      io_uring_sqe* sqe = ring.Command(fd, UBLK_U_IO_FETCH_REQ);
      const ublksrv_io_cmd command = {.q_id = 0, .tag = tag, .result = 0, .addr = 4096};
      std::memcpy(sqe->cmd, &command, sizeof(command));
    }
    io_uring_submit(ring.get());
    while (*go == 0) usleep(1000);
    execl("/bin/sleep", "sleep", "60", nullptr);
  });
  ASSERT_EQ(control_.Start(id, process_->pid()), 0);
  *go = 1;
  ExpectDeadSoon();
  ExpectDeletable();
}

TEST_F(Death, AChildOfTheServerDoesNotKeepTheDevice_R71) {
  device_ = std::make_unique<Device>(control_, Geometry{.depth = 4});
  const uint32_t id = device_->id();
  SharedMemory shared(4096);
  auto* child = new (shared.data()) std::atomic<pid_t>(0);
  process_ = std::make_unique<ServerProcess>([&, id, child] {
    Server server(id, device_->geometry(), AnswerAll());
    const pid_t pid = fork();
    if (pid == 0) {
      close(server.fd());
      pause();
      _exit(0);
    }
    *child = pid;
    server.Close();
  });
  ASSERT_EQ(control_.Start(id, process_->pid()), 0);
  ASSERT_TRUE(Eventually([&] { return *child != 0; }));
  process_->Kill();
  ExpectDeadSoon();
  ExpectDeletable();
  kill(*child, SIGKILL);
}

TEST_F(Death, ADeadDeviceTakesANewServer_R17) {
  StartServer({.queues = 2}, AnswerAll());
  process_->Kill();
  ExpectDeadSoon();
  const Geometry& geometry = device_->geometry();
  std::unique_ptr<ServerProcess> next;
  // The char device is free a moment after the state changed.
  ASSERT_TRUE(Eventually([&] {
    const int fd = open(CharPath(device_->id()).c_str(), O_RDWR | O_CLOEXEC);
    if (fd >= 0) close(fd);
    return fd >= 0;
  }));
  next = std::make_unique<ServerProcess>([&] {
    for (;;) {
      Server server(device_->id(), geometry, AnswerAll());
      if (server.error() == EBUSY) continue;
      server.Close();
      return;
    }
  });
  ASSERT_EQ(control_.Start(device_->id(), next->pid()), 0);
  EXPECT_EQ(control_.State(device_->id()), UBLK_S_DEV_LIVE);
  next->Kill();
  ExpectDeadSoon();
  ExpectDeletable();
}

TEST_F(Death, KillWhileThePartitionScanHangs_R51) {
  StartServer({.queues = 1, .depth = 4}, KeepAll());
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  process_->Kill();
  ExpectDeadSoon();
  ExpectDeletable();
}

TEST_F(Death, DeleteRightAfterTheKill) {
  for (int round = 0; round < 10; ++round) {
    StartServer({.queues = 2, .depth = 8}, AnswerAll());
    Readers readers(device_->disk(), 4);
    ASSERT_TRUE(Eventually([&] { return readers.done() > 20; }));
    kill(process_->pid(), SIGKILL);
    ExpectDeletable();
    process_->Kill();
    readers.Join();
  }
}

TEST_F(Death, AThreadOfTheServerEndsAlone) {
  if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers do not look at single threads";
  device_ = std::make_unique<Device>(control_, Geometry{.queues = 1, .depth = 4});
  const uint32_t id = device_->id();
  SharedMemory flag(4096);
  auto* go = new (flag.data()) std::atomic<int>(0);
  process_ = std::make_unique<ServerProcess>([id, go] {
    const int fd = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
    auto* ring = new std::unique_ptr<Ring>;
    std::thread([&] {
      *ring = std::make_unique<Ring>(8, 0);
      const auto issue = [&](uint32_t op, uint16_t tag, int result) {
        io_uring_sqe* sqe = (*ring)->Command(fd, op);
        const ublksrv_io_cmd command = {.q_id = 0, .tag = tag, .result = result, .addr = 4096};
        std::memcpy(sqe->cmd, &command, sizeof(command));
        sqe->user_data = tag;
        io_uring_submit((*ring)->get());
      };
      for (uint16_t tag = 0; tag < 4; ++tag) issue(UBLK_U_IO_FETCH_REQ, tag, 0);
      // Fails what comes, so that it holds nothing when it ends.
      while (*go == 0) {
        io_uring_cqe* cqe = nullptr;
        if (io_uring_peek_cqe((*ring)->get(), &cqe) != 0) {
          usleep(1000);
          continue;
        }
        const auto tag = static_cast<uint16_t>(cqe->user_data);
        io_uring_cqe_seen((*ring)->get(), cqe);
        issue(UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, -EIO);
      }
    }).join();
    pause();
  });
  ASSERT_EQ(control_.Start(id, process_->pid()), 0);
  ASSERT_TRUE(PartitionScanHasEnded(device_->disk()));
  *go = 1;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  Readers readers(device_->disk(), 1);
  EXPECT_TRUE(Eventually([&] { return readers.ended() == 1; }, kNoticeLimit))
      << "I/O to a queue whose thread is gone must not hang";
  readers.Join();
  process_->Kill();  // it still has the char device open, which DEL_DEV waits for
  ExpectDeletable();
}

}  // namespace
}  // namespace ublkd::driver_test
