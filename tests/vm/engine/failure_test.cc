// SPDX-License-Identifier: Apache-2.0
//
// A server that dies, a target that fails: errors, never a hang.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "daemon/target/null.h"
#include "daemon/target/target.h"
#include "tests/vm/engine/fixture.h"

namespace ublkd {
namespace {

constexpr size_t kBlockBytes = 4096;

/// Answers the first half of the disk, fails in the second, and throws at its end.
class FaultyTarget {
 public:
  static constexpr uint64_t kBytes = 1 << 20;
  struct Queue {
    uring::Result Read(const ublk::Request& request) {
      if (request.offset_bytes + kBlockBytes == kBytes) throw std::runtime_error("at the end");
      const bool bad = request.offset_bytes >= kBytes / 2;
      return bad ? uring::Result::Error(ENOSPC) : uring::Result::Ok();
    }
    uring::Result Write(const ublk::Request&) { return uring::Result::Ok(); }
  };
  ublk::Geometry geometry() const {
    return {.size_bytes = kBytes, .logical_block_bytes = kBlockBytes};
  }
  absl::StatusOr<Queue> OpenQueue(uring::Ring&) { return Queue(); }
};

TEST_F(EngineTest, ErrorsAndExceptionsOfATargetAreAnsweredAndCounted) {
  auto target = target::MakeDeviceTarget(FaultyTarget());
  ASSERT_TRUE(target.ok()) << target.status();
  auto device = ublk::Device::Create(control(), {.queues = 1}, *std::move(target));
  ASSERT_TRUE(device.ok()) << device.status();
  const UniqueFd disk(open((*device)->block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(disk.valid());
  const ublk::OpStats before = (*device)->Stats().Total(ublk::Op::kRead);
  const uint64_t exceptions = (*device)->Stats().queues[0].exceptions;
  alignas(kBlockBytes) char block[kBlockBytes];
  EXPECT_EQ(pread(disk.get(), block, sizeof(block), 0), static_cast<ssize_t>(sizeof(block)));
  EXPECT_EQ(pread(disk.get(), block, sizeof(block), FaultyTarget::kBytes / 2), -1);
  EXPECT_EQ(errno, ENOSPC) << "the target's errno reaches the user";
  EXPECT_EQ(pread(disk.get(), block, sizeof(block), FaultyTarget::kBytes - kBlockBytes), -1);
  EXPECT_EQ(errno, EIO);
  const ublk::OpStats after = (*device)->Stats().Total(ublk::Op::kRead);
  // The kernel's look for partitions may have read as well.
  EXPECT_GE(after.ios - before.ios, 3u);
  EXPECT_EQ(after.errors - before.errors, 2u);
  EXPECT_EQ((*device)->Stats().queues[0].exceptions - exceptions, 1u);
}

/// Serves a null device in a process of its own until it is killed.
pid_t ForkServer(uint32_t id) {
  const pid_t child = fork();
  if (child != 0) return child;
  auto control = ublk::Control::Open();
  if (!control.ok()) _exit(1);
  auto target = target::MakeNullTarget(uint64_t{1} << 30, kBlockBytes);
  auto device = ublk::Device::Create(**control, {.id = id, .queues = 1}, *std::move(target));
  if (!device.ok()) _exit(2);
  while (true) pause();
}

/// As long as it lives, this process gets no further thread, nor does the kernel for it.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    Write("/sys/fs/cgroup/cgroup.subtree_control", "+pids");
    std::filesystem::create_directory(kGroup);
    Write(absl::StrCat(kGroup, "/cgroup.procs"), absl::StrCat(getpid()));
    Write(absl::StrCat(kGroup, "/pids.max"), "1");
  }
  ~NoMoreThreads() {
    Write("/sys/fs/cgroup/cgroup.procs", absl::StrCat(getpid()));
    // What is on its way to its end is still in the group.
    EXPECT_TRUE(Eventually(absl::Seconds(20), [] {
      std::error_code error;
      return std::filesystem::remove(kGroup, error);
    }));
  }

 private:
  static constexpr const char* kGroup = "/sys/fs/cgroup/engine-test";
  static void Write(const std::string& path, const std::string& text) {
    EXPECT_TRUE(std::ofstream(path) << text << std::flush) << path;
  }
};

TEST_F(EngineTest, AFlushThatFindsNoThreadIsTriedAgain) {
  auto device = ServeFile(MakeFile("disk", 16 * kMiB), {.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  const UniqueFd disk(open((*device)->block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(disk.valid());
  absl::Notification begin;
  absl::Notification done;
  int result = -1;
  std::thread user([&] {
    begin.WaitForNotification();
    result = fsync(disk.get());
    done.Notify();
  });
  {
    // The kernel flushes a file in a thread of the queue's ring, which it makes for the first
    // flush.
    const NoMoreThreads limit;
    begin.Notify();
    EXPECT_FALSE(done.WaitForNotificationWithTimeout(absl::Milliseconds(300)));
  }
  user.join();
  EXPECT_EQ(result, 0);
  EXPECT_EQ((*device)->Stats().Total(ublk::Op::kFlush).errors, 0u);
}

class KillTest : public EngineTest {
 protected:
  static constexpr uint32_t kId = 9;

  bool ServerIsLive() {
    const auto info = control().GetDeviceInfo(kId);
    return info.ok() && info->state == ublk::DeviceState::kLive && access("/dev/ublkb9", F_OK) == 0;
  }
};

TEST_F(KillTest, KillUnderLoadIsErrorsNotAHang) {
  for (int round = 0; round < 3; ++round) {
    const pid_t server = ForkServer(kId);
    ASSERT_GT(server, 0);
    ASSERT_TRUE(Eventually(absl::Seconds(20), [this] { return ServerIsLive(); }))
        << "the server came up";
    const pid_t load = fork();
    if (load == 0) {
      const int quiet = open("/dev/null", O_WRONLY);
      dup2(quiet, STDOUT_FILENO);
      dup2(quiet, STDERR_FILENO);
      execlp("fio", "fio", "--name=load", "--filename=/dev/ublkb9", "--rw=randrw", "--bs=4k",
             "--direct=1", "--ioengine=io_uring", "--iodepth=32", "--time_based", "--runtime=60",
             static_cast<char*>(nullptr));
      _exit(127);
    }
    ASSERT_TRUE(Eventually(absl::Seconds(20), [] {
      const auto text = ReadFile("/sys/block/ublkb9/stat");
      return text.ok() && std::strtoull(text->c_str(), nullptr, 10) > 1000;
    })) << "the load runs";

    const absl::Time killed = absl::Now();
    kill(server, SIGKILL);
    int status = 0;
    const bool load_ended =
        Eventually(absl::Seconds(20), [&] { return waitpid(load, &status, WNOHANG) == load; });
    const absl::Duration pause = absl::Now() - killed;
    EXPECT_TRUE(load_ended) << "I/O on a dead server's disk hangs";
    // Emulation runs ten to twenty times slower, and fio takes its time to report.
    EXPECT_LT(pause, absl::Seconds(5));
    EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "the load has seen errors";
    if (!load_ended) kill(load, SIGKILL);
    waitpid(server, nullptr, 0);
    const absl::Status deleted = control().DeleteDevice(kId, ublk::DeleteMode::kWait, 10'000);
    EXPECT_TRUE(deleted.ok()) << deleted;
  }
}

TEST_F(KillTest, AServerKilledWhileItStartsCanBeDeleted) {
  for (int round = 0; round < 10; ++round) {
    const pid_t server = ForkServer(kId);
    ASSERT_GT(server, 0);
    ASSERT_TRUE(
        Eventually(absl::Seconds(20), [this] { return control().GetDeviceInfo(kId).ok(); }));
    kill(server, SIGKILL);
    waitpid(server, nullptr, 0);
    const absl::Status deleted = control().DeleteDevice(kId, ublk::DeleteMode::kWait, 10'000);
    EXPECT_TRUE(deleted.ok()) << deleted;
  }
}

}  // namespace
}  // namespace ublkd
