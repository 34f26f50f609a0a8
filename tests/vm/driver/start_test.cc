// SPDX-License-Identifier: Apache-2.0
//
// START_DEV waits for its server: what ends the wait, and what does not.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

constexpr std::chrono::milliseconds kShort{200};
constexpr std::chrono::seconds kLong{20};

class WaitingStart : public testing::Test {
 protected:
  void SetUp() override {
    if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers wait for ever, with the device locked";
  }
  void TearDown() override {
    if (deleted_) return;
    EXPECT_EQ(control_.Stop(id()), 0);
    if (server_ != nullptr) server_->Close();
  }

  // START_DEV, which waits.
  void SendStart(pid_t server) {
    waiter_.Send(UBLK_U_CMD_START_DEV, {.dev_id = id(), .data = uint64_t(server)});
    ASSERT_EQ(waiter_.Finish(kShort), std::nullopt) << "there is no server yet";
  }
  // The wait was ended: the device has no disk and can be started.
  void ExpectEndedAndStartable() {
    EXPECT_EQ(waiter_.Finish(kLong), -EBUSY);
    EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
    server_ = NextServer(id(), device_.geometry(), AnswerAll());
    EXPECT_EQ(control_.Start(id(), getpid()), 0);
  }
  uint32_t id() const { return device_.id(); }

  Control control_;
  Control waiter_;
  Device device_{control_, {.queues = 2, .depth = 4, .flags = UBLK_F_NO_AUTO_PART_SCAN}};
  std::unique_ptr<Server> server_;
  bool deleted_ = false;
};

TEST_F(WaitingStart, IsNotEndedByOthersWhoLookAtTheCharDevice_R15_R30) {
  SendStart(getpid());
  for (int i = 0; i < 3; ++i) {
    ServerProcess looker([this] {
      // The one before may not have let go of it yet.
      Eventually([this] {
        const int fd = open(CharPath(id()).c_str(), O_RDWR | O_CLOEXEC);
        if (fd >= 0) close(fd);
        return fd >= 0;
      });
    });
    EXPECT_EQ(looker.Wait(), 0);
  }
  server_ = NextServer(id(), device_.geometry(), AnswerAll());
  EXPECT_EQ(waiter_.Finish(kLong), 0) << "the server that START_DEV waits for is there";
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE);
}

TEST_F(WaitingStart, EndsWithTheServerItWaitsFor_R15_R64) {
  ServerProcess half(id(), device_.geometry(), AnswerAll(), {.fetch_only = 3});
  SendStart(half.pid());
  half.Kill();
  ExpectEndedAndStartable();
}

TEST_F(WaitingStart, IsEndedByStop_R16) {
  SendStart(getpid());
  EXPECT_EQ(control_.Stop(id()), 0);
  ExpectEndedAndStartable();
}

TEST_F(WaitingStart, IsEndedByDelete_R16_R19) {
  SendStart(getpid());
  EXPECT_EQ(device_.Delete(), 0);
  EXPECT_EQ(waiter_.Finish(kLong), -EBUSY);
  deleted_ = true;
}

TEST_F(WaitingStart, HoldsNeitherItsRingNorOthersUp_R03) {
  SendStart(getpid());
  // On the same ring: its answers come first.
  EXPECT_NE(waiter_.Features(), 0U);
  EXPECT_EQ(waiter_.State(id()), UBLK_S_DEV_DEAD);
  ublk_params params = {};
  EXPECT_EQ(waiter_.GetParams(id(), params), 0);
  EXPECT_EQ(control_.SetParams(id(), ParamsOf(device_.geometry())), 0) << "the device is locked";
  EXPECT_EQ(control_.Stop(id()), 0);
  EXPECT_EQ(waiter_.Finish(kLong), -EBUSY);
}

TEST_F(WaitingStart, StopMayComeWhileTheServerStillFetches_R18) {
  for (int round = 0; round < 40; ++round) {
    server_ = NextServer(id(), device_.geometry(), AnswerAll());
    // Commands are completed while others are on their way in.
    ASSERT_EQ(control_.Stop(id()), 0) << "round " << round;
    server_->Close();
  }
  server_ = NextServer(id(), device_.geometry(), AnswerAll());
  EXPECT_EQ(control_.Start(id(), getpid()), 0);
}

// The numbers that server and driver exchange are those of the server's namespace.
TEST_F(WaitingStart, ByAServerInAPidNamespaceOfItsOwn_R15_R24) {
  struct Answers {
    std::atomic<int> own_pid, wrong_pid, start, told_pid;
    std::atomic<bool> ready;
  };
  SharedMemory memory(4096);
  auto* answers = new (memory.data()) Answers();
  ServerProcess parent([&] {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWPID) != 0) _exit(1);
    const pid_t child = fork();
    if (child != 0) {
      waitpid(child, nullptr, 0);
      return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Server server(id(), device_.geometry(), AnswerAll());
    Control control;
    answers->own_pid = getpid();
    answers->wrong_pid = control.Start(id(), 2);
    answers->start = control.Start(id(), getpid());
    ublksrv_ctrl_dev_info info = {};
    control.GetInfo(id(), info);
    answers->told_pid = info.ublksrv_pid;
    answers->ready = true;
    server.Close();
    _exit(0);
  });
  ASSERT_TRUE(Eventually([&] { return answers->ready.load(); }, kLong));
  EXPECT_EQ(answers->own_pid, 1) << "the first of its namespace";
  EXPECT_EQ(answers->wrong_pid, -EINVAL);
  EXPECT_EQ(answers->start, 0);
  EXPECT_EQ(answers->told_pid, 1);
  ublksrv_ctrl_dev_info info = {};
  EXPECT_EQ(control_.GetInfo(id(), info), 0);
  EXPECT_GT(info.ublksrv_pid, 1) << "it has another number out here";
  EXPECT_EQ(OpenDisk(device_.disk()).Read(0), 4096);
  EXPECT_EQ(control_.Stop(id()), 0);
  EXPECT_EQ(parent.Wait(), 0);
}

TEST_F(WaitingStart, IsRefusedWhileStopWaitsForRequests_R16_R65) {
  SharedMemory memory(4096);
  auto* valve = new (memory.data()) Valve();
  valve->setting = Valve::kHold;
  ServerProcess server(id(), device_.geometry(), ValveHandler(valve, AnswerAll()));
  ASSERT_EQ(control_.Start(id(), server.pid()), 0);
  const OpenDisk disk(device_.disk());
  const PendingIo io(disk, PendingIo::Op::kWrite, 0);
  ASSERT_TRUE(Eventually([&] { return valve->held == 1; }));
  waiter_.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(waiter_.Finish(kShort), std::nullopt) << "the server has a request in its hands";
  EXPECT_EQ(control_.Start(id(), server.pid()), -EBUSY);
  EXPECT_EQ(control_.SetParams(id(), ParamsOf(device_.geometry())), -EACCES);
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE);
  server.Kill();
  EXPECT_EQ(waiter_.Finish(kLong), 0) << "the death of the server ends the stop";
  EXPECT_EQ(io.Result(), -EIO);
}

}  // namespace
}  // namespace ublkd::driver_test
