// SPDX-License-Identifier: Apache-2.0
//
// That a next server can always take over a disk with USER_RECOVERY, or the device be removed,
// whatever happens on the way, and that nothing is lost.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "tests/vm/driver/recovery_fixture.h"

namespace ublkd::driver_test {
namespace {

using Op = PendingIo::Op;

constexpr int kDone = 4096;

// Sends the descriptor through a socket, or receives one.
bool SendFd(int socket, int fd) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fd))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(fd));
  std::memcpy(CMSG_DATA(head), &fd, sizeof(fd));
  return sendmsg(socket, &message, 0) == 1;
}

int ReceiveFd(int socket) {
  char byte = 0;
  iovec data = {&byte, 1};
  int fd = -1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fd))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || CMSG_FIRSTHDR(&message) == nullptr) {
    return -1;
  }
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
  return fd;
}

class Recovery : public RecoveryTest {
 protected:
  // How often servers are killed under load; more than by default with $UBLKD_KILLS.
  static int Kills(int by_default) {
    const char* kills = std::getenv("UBLKD_KILLS");
    return kills != nullptr ? static_cast<int>(std::strtol(kills, nullptr, 10)) : by_default;
  }

  void KillUnderLoad(const Geometry& geometry, int kills, int tolerated) {
    Start(geometry);
    std::mt19937 random(1);
    VerifiedLoad load(device_->disk(), 6, tolerated);
    for (int round = 0; round < kills; ++round) {
      const int until = load.done() + static_cast<int>(random() % 60);
      // An emulated, shared machine may be slow for a long time; what hangs does so for ever.
      ASSERT_TRUE(Eventually([&] { return load.done() > until; }, std::chrono::seconds(90)))
          << "no I/O goes on after recovery " << round;
      KillServer();
      Recover();
      if (HasFatalFailure()) return;
    }
    load.Finish();
    EXPECT_EQ(load.wrong(), 0) << "acknowledged writes were lost or mixed up";
    if (tolerated == 0) {
      EXPECT_EQ(load.errors(), 0) << "no I/O may fail with REISSUE";
    }
    EXPECT_EQ(Attribute(id(), "recovered"), std::to_string(kills));
  }
};

TEST_F(Recovery, KillUnderLoadLosesNothingAndFailsNothing_R67_R61_R62) {
  KillUnderLoad({.queues = 2, .depth = 4, .flags = kReissue}, Kills(30), 0);
}

TEST_F(Recovery, KillUnderLoadWithNeedGetDataLosesNothing_R67) {
  KillUnderLoad({.queues = 2, .depth = 4, .flags = kReissue | UBLK_F_NEED_GET_DATA}, Kills(6), 0);
}

TEST_F(Recovery, KillUnderLoadWithoutReissueLosesNothingAcknowledged_R67) {
  KillUnderLoad({.queues = 2, .depth = 4, .flags = kFail}, Kills(6), EIO);
}

TEST_F(Recovery, NeedsItsFlag_R68) {
  Start({});
  EXPECT_EQ(control_.StartRecovery(id()), -EINVAL);
  EXPECT_EQ(control_.EndRecovery(id(), server_->pid()), -EINVAL);
}

TEST_F(Recovery, IsRefusedWhileTheServerLives_R68_R69) {
  Start({.flags = kReissue});
  EXPECT_EQ(control_.StartRecovery(id()), -EBUSY);
  EXPECT_EQ(control_.EndRecovery(id(), server_->pid()), -EBUSY);
  EXPECT_EQ(disk_->Write(0, 1), kDone) << "the question must not disturb the disk";
}

TEST_F(Recovery, IsRefusedBeforeStart_R68) {
  device_ = std::make_unique<Device>(control_, Geometry{.flags = kReissue});
  EXPECT_EQ(control_.StartRecovery(id()), -EBUSY);
  EXPECT_EQ(control_.EndRecovery(id(), getpid()), -EBUSY);
}

TEST_F(Recovery, CanBeStartedRepeatedly_R68) {
  Start({.flags = kReissue});
  KillServer();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(control_.StartRecovery(id()), 0);
  Recover();
  EXPECT_EQ(control_.StartRecovery(id()), -EBUSY) << "there is a server again";
}

TEST_F(Recovery, EndsOnlyWithTheServersPid_R69) {
  Start({.flags = kReissue});
  KillServer();
  const auto io = Begin(Op::kWrite, 0);
  server_ = NewServer();
  for (const pid_t pid : {0, -1, 1, getpid()}) {
    EXPECT_EQ(control_.EndRecovery(id(), pid), -EINVAL) << "pid " << pid;
  }
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_QUIESCED) << "still not recovered";
  EXPECT_TRUE(io->Waits());
  EXPECT_EQ(control_.EndRecovery(id(), server_->pid()), 0);
  EXPECT_EQ(io->Result(), kDone);
  EXPECT_EQ(control_.EndRecovery(id(), server_->pid()), -EBUSY) << "it is over";
}

TEST_F(Recovery, SecondDeathBeforeTheEndIsRecoverable_R69) {
  Start({.flags = kReissue});
  HoldRequests();
  const auto held = Begin(Op::kWrite, 0);
  ASSERT_TRUE(HoldsRequests(1));
  for (int death = 0; death < 3; ++death) {
    KillServer();
    server_ = NewServer();
    // It has fetched all its tags, but nobody has called it the server.
    ASSERT_TRUE(Eventually([&] { return control_.EndRecovery(id(), 1) == -EINVAL; }));
    EXPECT_EQ(control_.StartRecovery(id()), -EBUSY) << "the next server is there already";
    EXPECT_TRUE(held->Waits(std::chrono::milliseconds(20)));
  }
  KillServer();
  Recover();
  EXPECT_EQ(held->Result(), kDone);
}

TEST_F(Recovery, DeathAfterFetchingSomeTagsIsRecoverable_R64) {
  Start({.depth = 8, .flags = kReissue});
  KillServer();
  const auto io = Begin(Op::kWrite, 0);
  server_ = NewServer({.fetch_only = 3});
  Control waiter;
  waiter.Send(UBLK_U_CMD_END_USER_RECOVERY, {.dev_id = id(), .data = uint64_t(server_->pid())});
  EXPECT_EQ(waiter.Finish(std::chrono::milliseconds(300)), std::nullopt)
      << "END_USER_RECOVERY must wait for all tags";
  KillServer();
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_QUIESCED);
  EXPECT_EQ(waiter.Finish(std::chrono::seconds(20)), -EBUSY)
      << "the server that it was told of is gone";
  server_ = NewServer();
  EXPECT_EQ(control_.EndRecovery(id(), server_->pid()), 0);
  EXPECT_EQ(io->Result(), kDone);
}

TEST_F(Recovery, DeathDuringStartLeavesAStartableDevice_R64) {
  device_ = std::make_unique<Device>(control_, Geometry{.depth = 8, .flags = kReissue});
  server_ = NewServer({.fetch_only = 3});
  Control waiter;
  waiter.Send(UBLK_U_CMD_START_DEV, {.dev_id = id(), .data = uint64_t(server_->pid())});
  EXPECT_EQ(waiter.Finish(std::chrono::milliseconds(200)), std::nullopt);
  server_->Kill();
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD) << "there was no disk yet that could survive";
  EXPECT_EQ(control_.Stop(id()), 0);
  EXPECT_EQ(waiter.Finish(std::chrono::seconds(20)), -EBUSY);
  ASSERT_TRUE(Eventually([&] {
    const int fd = open(CharPath(id()).c_str(), O_RDWR | O_CLOEXEC);
    if (fd >= 0) close(fd);
    return fd >= 0;
  }));
  ASSERT_TRUE(Eventually([&] {
    server_ = NewServer();
    return !server_->Wait(std::chrono::milliseconds(200)).has_value();
  })) << "the char device is not free again";
  EXPECT_EQ(control_.Start(id(), server_->pid()), 0);
}

// The next server dies at any moment around END_USER_RECOVERY.
TEST_F(Recovery, DeathAroundTheEndIsRecoverable_R64_R69) {
  Start({.queues = 2, .depth = 4, .flags = kReissue});
  std::mt19937 random(1);
  VerifiedLoad load(device_->disk(), 3);
  Control waiter;
  for (int round = 0; round < 10; ++round) {
    KillServer();
    server_ = NewServer();
    const ControlArgs end = {.dev_id = id(), .data = uint64_t(server_->pid())};
    waiter.Send(UBLK_U_CMD_END_USER_RECOVERY, end);
    usleep(static_cast<useconds_t>(random() % 20000));
    server_->Kill();
    // Whether the first came before the death or waits for a server that is gone.
    EXPECT_LT(control_.RunInterrupted(UBLK_U_CMD_END_USER_RECOVERY, end), 0)
        << "the server is dead";
    ExpectRecoverable();
    Recover();
    if (HasFatalFailure()) return;
    const auto first = waiter.Finish(std::chrono::seconds(20));
    ASSERT_TRUE(first.has_value()) << "END_USER_RECOVERY hangs, though there is a server";
    EXPECT_TRUE(*first == 0 || *first == -EINVAL || *first == -EBUSY) << *first;
  }
  load.Finish();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0) << "acknowledged writes were lost";
}

TEST_F(Recovery, AnInterruptedEndCanBeRepeated_R69) {
  Start({.flags = kReissue});
  KillServer();
  const auto io = Begin(Op::kWrite, 0);
  EXPECT_EQ(control_.RunInterrupted(UBLK_U_CMD_END_USER_RECOVERY,
                                    {.dev_id = id(), .data = uint64_t(getpid())}),
            -EINTR)
      << "nobody has fetched anything";
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_QUIESCED);
  Recover();
  EXPECT_EQ(io->Result(), kDone);
}

// A copy of the char device may be with somebody who still serves: two servers would mix up data.
TEST_F(Recovery, AChildOfTheOldServerKeepsTheNewOneOut_R70) {
  Start({.flags = kReissue});
  server_->Kill();
  ExpectRecoverable();
  // The real one: it forks after it has opened the char device.
  SharedMemory memory(4096);
  auto* child = new (memory.data()) std::atomic<pid_t>(0);
  server_ = std::make_unique<ServerProcess>([&, child] {
    Server server(id(), device_->geometry(), RamHandler(ram_.data()));
    const pid_t pid = fork();
    if (pid == 0) {
      for (;;) pause();
    }
    *child = pid;
    server.Close();
  });
  ASSERT_EQ(control_.EndRecovery(id(), server_->pid()), 0);
  ASSERT_TRUE(Eventually([&] { return *child != 0; }));
  server_->Kill();
  const auto io = Begin(Op::kWrite, 0);
  EXPECT_TRUE(io->Waits()) << "it must wait for the next server";
  EXPECT_EQ(control_.StartRecovery(id()), -EBUSY) << "the old char device is still open";
  EXPECT_EQ(open(CharPath(id()).c_str(), O_RDWR | O_CLOEXEC), -1);
  EXPECT_EQ(errno, EBUSY);
  kill(*child, SIGKILL);
  Recover();
  EXPECT_EQ(io->Result(), kDone);
}

TEST_F(Recovery, APassedOnDescriptorKeepsTheNewServerOut_R70) {
  device_ =
      std::make_unique<Device>(control_, Geometry{.flags = kReissue | UBLK_F_NO_AUTO_PART_SCAN});
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  server_ = std::make_unique<ServerProcess>([&] {
    Server server(id(), device_->geometry(), RamHandler(ram_.data()));
    if (!SendFd(sockets[1], server.fd())) _exit(1);
    server.Close();
  });
  const int copy = ReceiveFd(sockets[0]);
  ASSERT_GE(copy, 0);
  ASSERT_EQ(control_.Start(id(), server_->pid()), 0);
  disk_ = std::make_unique<OpenDisk>(device_->disk());
  server_->Kill();
  const auto io = Begin(Op::kWrite, 0);
  EXPECT_TRUE(io->Waits()) << "it must wait for the next server";
  EXPECT_EQ(control_.StartRecovery(id()), -EBUSY) << "the old char device is still open";
  close(copy);
  close(sockets[0]);
  close(sockets[1]);
  Recover();
  EXPECT_EQ(io->Result(), kDone);
}

TEST_F(Recovery, DuringAHangingPartitionScan_R51) {
  // One partition, behind the first MiB.
  std::byte* entry = ram_.data() + 446;
  entry[4] = std::byte{0x83};
  const uint32_t first = 2048, count = 2048;
  std::memcpy(entry + 8, &first, 4);
  std::memcpy(entry + 12, &count, 4);
  ram_.data()[510] = std::byte{0x55};
  ram_.data()[511] = std::byte{0xaa};

  device_ = std::make_unique<Device>(control_, Geometry{.flags = kReissue});
  HoldRequests();
  server_ = NewServer();
  ASSERT_EQ(control_.Start(id(), server_->pid()), 0);
  ASSERT_TRUE(HoldsRequests(1)) << "no partition scan";
  for (int death = 0; death < 2; ++death) {
    KillServer();
    const int held = valve()->held;
    server_ = NewServer();
    ASSERT_EQ(control_.EndRecovery(id(), server_->pid()), 0);
    ASSERT_TRUE(HoldsRequests(held + 1)) << "the scan must ask the next server";
  }
  KillServer();
  Recover();
  EXPECT_TRUE(Eventually([&] { return PathExists(device_->disk() + "p1"); }))
      << "the scan must end with what the last server says";
}

TEST_F(Recovery, StopDuringAHangingPartitionScan_R51_R72) {
  device_ = std::make_unique<Device>(control_, Geometry{.flags = kReissue});
  HoldRequests();
  server_ = NewServer();
  ASSERT_EQ(control_.Start(id(), server_->pid()), 0);
  ASSERT_TRUE(HoldsRequests(1)) << "no partition scan";
  KillServer();
  control_.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(control_.Finish(std::chrono::seconds(20)), 0) << "STOP_DEV waits for a dead server";
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
}

// The scan waits for the next server, and who opens the disk for the scan: neither uses the disk.
TEST_F(Recovery, TryStopDuringAHangingPartitionScan_R21_R51) {
  device_ = std::make_unique<Device>(control_, Geometry{.flags = kReissue});
  HoldRequests();
  server_ = NewServer();
  ASSERT_EQ(control_.Start(id(), server_->pid()), 0);
  ASSERT_TRUE(HoldsRequests(1)) << "no partition scan";
  std::atomic<int> opened = INT_MIN;
  std::thread late([&] {
    const int fd = open(device_->disk().c_str(), O_RDONLY | O_CLOEXEC);
    opened = fd >= 0 ? 0 : -errno;
    if (fd >= 0) close(fd);
  });
  KillServer();
  control_.Send(UBLK_U_CMD_TRY_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(control_.Finish(std::chrono::seconds(20)), 0) << "TRY_STOP_DEV waits for the scan";
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
  EXPECT_EQ(control_.Stop(id()), 0);  // whatever came of the above, to be able to go on
  late.join();
  EXPECT_TRUE(opened == -ENXIO || opened == -ENOENT)
      << "a disk that is gone was opened: " << opened;
}

// A user who waits for the next server, with the disk locked, is one all the same.
TEST_F(Recovery, TryStopDuringAHangingScanOfAUser_R21) {
  Start({.flags = kReissue});
  HoldRequests();
  std::thread user([&] { ioctl(disk_->fd(), BLKRRPART); });
  EXPECT_TRUE(HoldsRequests(1)) << "BLKRRPART reads nothing";
  KillServer();
  control_.Send(UBLK_U_CMD_TRY_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(control_.Finish(std::chrono::seconds(20)), -EBUSY);
  Recover();
  if (HasFailure()) control_.Stop(id());  // whatever the user waits for
  user.join();
  disk_->Close();
  KillServer();  // it has inherited the open disk
  EXPECT_EQ(control_.TryStop(id()), 0);
}

TEST_F(Recovery, DeleteEndsAWaitingRecovery_R68) {
  Start({.flags = kReissue});
  KillServer();
  const auto io = Begin(Op::kWrite, 0);
  Control waiter;
  waiter.Send(UBLK_U_CMD_END_USER_RECOVERY, {.dev_id = id(), .data = uint64_t(getpid())});
  EXPECT_EQ(waiter.Finish(std::chrono::milliseconds(300)), std::nullopt);
  EXPECT_EQ(control_.DeleteAsync(id()), 0);
  EXPECT_EQ(waiter.Finish(std::chrono::seconds(20)), -EBUSY);
  EXPECT_EQ(io->Result(), -EIO);
  ExpectGone();
}

TEST_F(Recovery, StopEndsAWaitingRecovery_R68) {
  Start({.flags = kReissue});
  KillServer();
  const auto io = Begin(Op::kWrite, 0);
  server_ = NewServer({.fetch_only = 3});
  Control waiter;
  waiter.Send(UBLK_U_CMD_END_USER_RECOVERY, {.dev_id = id(), .data = uint64_t(server_->pid())});
  EXPECT_EQ(waiter.Finish(std::chrono::milliseconds(300)), std::nullopt);
  EXPECT_EQ(control_.Stop(id()), 0);
  EXPECT_EQ(waiter.Finish(std::chrono::seconds(20)), -EBUSY);
  EXPECT_EQ(io->Result(), -EIO);
}

TEST_F(Recovery, DeleteRacesWithTheEnd_R69) {
  for (int round = 0; round < 8; ++round) {
    Start({.depth = 4, .flags = kReissue});
    KillServer();
    const auto io = Begin(Op::kWrite, 0);
    server_ = NewServer();
    Control waiter;
    waiter.Send(UBLK_U_CMD_END_USER_RECOVERY, {.dev_id = id(), .data = uint64_t(server_->pid())});
    usleep(static_cast<useconds_t>(round) * 2000);
    EXPECT_EQ(control_.DeleteAsync(id()), 0);
    const auto end = waiter.Finish(std::chrono::seconds(20));
    ASSERT_TRUE(end.has_value()) << "END_USER_RECOVERY hangs on a deleted device";
    EXPECT_TRUE(*end == 0 || *end == -EBUSY || *end == -ENODEV) << *end;
    const auto result = io->Result();
    ASSERT_TRUE(result.has_value()) << "I/O hangs on a deleted device";
    EXPECT_TRUE(*result == kDone || *result == -EIO) << *result;
    EXPECT_TRUE(server_->Wait().has_value()) << "a server's commands must end with its device";
    ExpectGone();
  }
}

TEST_F(Recovery, RacesWithStop_R68_R72) {
  for (int round = 0; round < 8; ++round) {
    Start({.depth = 4, .flags = kReissue});
    VerifiedLoad load(device_->disk(), 2);
    ASSERT_TRUE(Eventually([&] { return load.done() > 5 * round; }));
    kill(server_->pid(), SIGKILL);
    usleep(static_cast<useconds_t>(round) * 1000);
    control_.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id()});
    EXPECT_EQ(control_.Finish(std::chrono::seconds(20)), 0) << "STOP_DEV hangs";
    server_->Kill();
    load.Finish();
    EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
    TearDown();
    device_.reset();
  }
}

}  // namespace
}  // namespace ublkd::driver_test
