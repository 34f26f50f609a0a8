// SPDX-License-Identifier: Apache-2.0
//
// QUIESCE_DEV: a planned change of servers. It succeeds, or the server goes on as before.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

using Op = PendingIo::Op;
using std::chrono::milliseconds;

constexpr uint64_t kFlags = UBLK_F_QUIESCE | UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE;
constexpr int kDone = 4096;

class Quiesce : public testing::Test {
 protected:
  void SetUp() override {
    if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers do not go on after a failed QUIESCE_DEV";
  }

  void TearDown() override {
    if (device_ == nullptr) return;
    if (disk_ != nullptr) disk_->Close();
    ReleaseRequests();
    EXPECT_EQ(control_.Stop(device_->id()), 0);
    if (server_ != nullptr) server_->Close();
    EXPECT_EQ(device_->Delete(), 0);
  }

  void NewServer() {
    server_ = std::make_unique<Server>(id(), device_->geometry(),
                                       ValveHandler(&valve_, RamHandler(ram_.data())));
    ASSERT_EQ(server_->error(), 0) << "the char device can't be opened";
  }

  void Start(Geometry geometry = {.depth = 4, .flags = kFlags}) {
    geometry.flags |= UBLK_F_NO_AUTO_PART_SCAN;
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    NewServer();
    ASSERT_EQ(control_.Start(id(), getpid()), 0);
    disk_ = std::make_unique<OpenDisk>(device_->disk());
    ASSERT_GE(disk_->fd(), 0);
  }

  std::unique_ptr<PendingIo> Begin(Op op, int block, int cpu = -1) {
    return std::make_unique<PendingIo>(*disk_, op, off_t{4096} * block, cpu);
  }

  // The server keeps `count` requests, all of queue 0.
  void HoldRequests(int count) {
    valve_.setting = Valve::kHold;
    const int cpu = CpuOfQueue(control_, id(), 0);
    for (int i = 0; i < count; ++i) held_.push_back(Begin(Op::kWrite, i * 2, cpu));
    ASSERT_TRUE(Eventually([&] { return valve_.held >= count; }));
    valve_.setting = Valve::kAnswer;
  }

  // QUIESCE_DEV has begun when they do.
  bool RequestsOfQueue1Wait() {
    EXPECT_EQ(device_->geometry().queues, 2) << "the machine needs two processors";
    return Eventually([&] {
      others_.push_back(Begin(Op::kWrite, 100, CpuOfQueue(control_, id(), 1)));
      return others_.back()->Waits(milliseconds(100));
    });
  }

  void ReleaseRequests() {
    if (held_.empty() || server_ == nullptr) return;
    server_->InThread(0, [](QueueServer& queue) {
      for (const uint16_t tag : queue.kept()) queue.Commit(tag, kDone);
    });
    for (const auto& io : held_) EXPECT_EQ(io->Result(), kDone) << "a request was lost";
    held_.clear();
  }

  // The state after a QUIESCE_DEV that did not come to pass.
  void ExpectServiceGoesOn() {
    EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE);
    ReleaseRequests();
    for (int block = 0; block < 8; ++block) {
      const auto io = Begin(Op::kWrite, block * 2);
      EXPECT_EQ(io->Result(), kDone) << "I/O stalls after a failed QUIESCE_DEV";
    }
    EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE);
  }

  // The threads of the old server have ended; the next one takes over.
  void ChangeServers(int state = UBLK_S_DEV_QUIESCED) {
    server_->Close();
    ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }));
    EXPECT_EQ(control_.State(id()), state);
    NewServer();
    ASSERT_EQ(control_.EndRecovery(id(), getpid()), 0);
    EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE);
  }

  uint32_t id() const { return device_->id(); }

  Control control_;
  Valve valve_;
  SharedMemory ram_{Geometry{}.bytes};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<OpenDisk> disk_;
  std::vector<std::unique_ptr<PendingIo>> held_;
  std::vector<std::unique_ptr<PendingIo>> others_;
};

TEST_F(Quiesce, NeedsItsFlag_R23) {
  Start({.flags = UBLK_F_USER_RECOVERY});
  EXPECT_EQ(control_.Quiesce(id()), -EOPNOTSUPP);
  ExpectServiceGoesOn();
}

TEST_F(Quiesce, NeedsADisk_R23) {
  device_ = std::make_unique<Device>(control_, Geometry{.flags = kFlags});
  EXPECT_EQ(control_.Quiesce(id()), -ENODEV);
}

TEST_F(Quiesce, AnIdleServerIsToldAndTheNextOneGoesOn_R23) {
  Start();
  ASSERT_EQ(disk_->Write(0, 77), kDone);
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(control_.Quiesce(id()), 0);
    server_->Join();  // every command was aborted
    const auto io = Begin(Op::kRead, 0);
    EXPECT_TRUE(io->Waits(milliseconds(50))) << "new requests must wait for the next server";
    ChangeServers();
    EXPECT_EQ(io->Result(), kDone);
  }
}

TEST_F(Quiesce, UnderLoadLosesNothing_R23) {
  Start({.queues = 2, .depth = 4, .flags = kFlags});
  VerifiedLoad load(device_->disk(), 6);
  for (int round = 0; round < 10; ++round) {
    const int before = load.done();
    ASSERT_TRUE(Eventually([&] { return load.done() > before + 20; })) << "I/O does not go on";
    ASSERT_EQ(control_.Quiesce(id()), 0);
    ChangeServers();
    if (HasFatalFailure()) return;
  }
  load.Finish();
  EXPECT_EQ(load.errors(), 0) << "a planned change of servers must not be seen";
  EXPECT_EQ(load.wrong(), 0) << "acknowledged writes were lost";
  EXPECT_EQ(Attribute(id(), "aborted"), "0");
}

TEST_F(Quiesce, HeldRequestsCanStillBeFinished_R23) {
  Start();
  HoldRequests(2);
  EXPECT_EQ(control_.Quiesce(id()), 0) << "two tags are idle";
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE) << "the server is still there";
  const auto io = Begin(Op::kRead, 0);
  EXPECT_TRUE(io->Waits(milliseconds(50)));
  ReleaseRequests();
  server_->Join();
  EXPECT_TRUE(io->Waits(milliseconds(50))) << "the old server must get no more requests";
  ChangeServers();
  EXPECT_EQ(io->Result(), kDone);
}

TEST_F(Quiesce, WithAllTagsHeldTimesOutAndServiceGoesOn_R23) {
  Start({.depth = 2, .flags = kFlags});
  HoldRequests(2);
  EXPECT_EQ(control_.Quiesce(id(), milliseconds(100)), -EBUSY);
  ExpectServiceGoesOn();
  EXPECT_EQ(control_.Quiesce(id()), 0) << "it can be tried again";
  ChangeServers();
}

// Other queues have idle tags, so that requests come and wait while QUIESCE_DEV waits.
TEST_F(Quiesce, FailsForAllCallersAndRequestsThatCameAreAnswered_R23) {
  Start({.queues = 2, .depth = 2, .flags = kFlags});
  HoldRequests(2);
  Control other;
  other.Send(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id()});
  ASSERT_TRUE(RequestsOfQueue1Wait()) << "requests must wait while QUIESCE_DEV does";
  EXPECT_EQ(control_.Quiesce(id(), milliseconds(1)), -EBUSY);
  EXPECT_EQ(other.Finish(std::chrono::seconds(20)), -EBUSY) << "it could wait for ever";
  for (const auto& io : others_) EXPECT_EQ(io->Result(), kDone) << "I/O stalls after QUIESCE_DEV";
  ExpectServiceGoesOn();
}

TEST_F(Quiesce, WaitsForAnIdleTagOfEachQueue_R23) {
  Start({.queues = 2, .depth = 2, .flags = kFlags});
  HoldRequests(2);
  Control other;
  other.Send(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id()});
  EXPECT_EQ(other.Finish(milliseconds(200)), std::nullopt) << "no tag of queue 0 is idle";
  ReleaseRequests();
  EXPECT_EQ(other.Finish(std::chrono::seconds(20)), 0);
  ChangeServers();
  ExpectServiceGoesOn();
}

TEST_F(Quiesce, InterruptedServiceGoesOn_R23) {
  Start({.depth = 2, .flags = kFlags});
  HoldRequests(2);
  EXPECT_EQ(control_.RunInterrupted(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id()}), -EINTR);
  ExpectServiceGoesOn();
}

TEST_F(Quiesce, WhoseCallerIsKilledServiceGoesOn_R23) {
  Start({.queues = 2, .depth = 2, .flags = kFlags});
  HoldRequests(2);
  {
    const uint32_t id = device_->id();
    ServerProcess caller([id] {
      Control control;
      control.Quiesce(id);
    });
    ASSERT_TRUE(RequestsOfQueue1Wait()) << "QUIESCE_DEV was not called";
    caller.Kill();
  }
  for (const auto& io : others_) EXPECT_EQ(io->Result(), kDone) << "I/O stalls after QUIESCE_DEV";
  ExpectServiceGoesOn();
}

TEST_F(Quiesce, OfAQuiescedDeviceIsDone_R23) {
  Start();
  EXPECT_EQ(control_.Quiesce(id()), 0);
  EXPECT_EQ(control_.Quiesce(id()), 0) << "the server was told already";
  server_->Close();
  ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }));
  EXPECT_EQ(control_.Quiesce(id()), 0) << "there is no server";
  NewServer();
  ASSERT_EQ(control_.EndRecovery(id(), getpid()), 0);
}

TEST_F(Quiesce, WaitingForAServerThatDiesIsDone_R23) {
  device_ = std::make_unique<Device>(
      control_, Geometry{.depth = 2, .flags = kFlags | UBLK_F_NO_AUTO_PART_SCAN});
  SharedMemory shared(4096);
  auto* valve = shared.as<Valve>();
  ServerProcess process(id(), device_->geometry(), ValveHandler(valve, RamHandler(ram_.data())));
  ASSERT_EQ(control_.Start(id(), process.pid()), 0);
  disk_ = std::make_unique<OpenDisk>(device_->disk());
  valve->setting = Valve::kHold;
  const auto first = Begin(Op::kWrite, 0);
  const auto second = Begin(Op::kWrite, 2);
  ASSERT_TRUE(Eventually([&] { return valve->held == 2; }));
  Control other;
  other.Send(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id()});
  EXPECT_EQ(other.Finish(milliseconds(200)), std::nullopt);
  process.Kill();
  EXPECT_EQ(other.Finish(std::chrono::seconds(20)), 0) << "what was wanted has happened";
  ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }));
  NewServer();
  ASSERT_EQ(control_.EndRecovery(id(), getpid()), 0);
  EXPECT_EQ(first->Result(), kDone);
  EXPECT_EQ(second->Result(), kDone);
}

// Its process goes on, so that nobody closes the char device.
TEST_F(Quiesce, WaitingForAThreadThatDiesIsDone_R23) {
  device_ = std::make_unique<Device>(
      control_, Geometry{.depth = 2, .flags = kFlags | UBLK_F_NO_AUTO_PART_SCAN});
  SharedMemory shared(4096);
  auto* valve = shared.as<Valve>();
  ServerProcess process([&] {
    const Server server(id(), device_->geometry(), ValveHandler(valve, RamHandler(ram_.data())));
    for (;;) pause();
  });
  ASSERT_EQ(control_.Start(id(), process.pid()), 0);
  disk_ = std::make_unique<OpenDisk>(device_->disk());
  valve->setting = Valve::kHold;
  const auto first = Begin(Op::kWrite, 0);
  ASSERT_TRUE(Eventually([&] { return valve->held == 1; }));
  valve->setting = Valve::kBlock;
  const auto second = Begin(Op::kWrite, 2);
  ASSERT_TRUE(Eventually([&] { return valve->held == 2; }));
  Control other;
  other.Send(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id()});
  EXPECT_EQ(other.Finish(milliseconds(200)), std::nullopt);
  valve->setting = Valve::kDie;
  EXPECT_EQ(other.Finish(std::chrono::seconds(20)), 0) << "there is nobody to wait for";
  process.Kill();
  ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }));
  valve->setting = Valve::kAnswer;
  NewServer();
  ASSERT_EQ(control_.EndRecovery(id(), getpid()), 0);
  EXPECT_EQ(first->Result(), kDone);
  EXPECT_EQ(second->Result(), kDone);
}

TEST_F(Quiesce, StopOvertakesIt_R23) {
  Start({.queues = 2, .depth = 2, .flags = kFlags});
  HoldRequests(2);
  Control quiescer, stopper;
  quiescer.Send(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id()});
  ASSERT_TRUE(RequestsOfQueue1Wait()) << "QUIESCE_DEV does not begin";
  stopper.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(quiescer.Finish(std::chrono::seconds(20)), -ENODEV);
  for (const auto& io : others_) {
    EXPECT_EQ(io->Result(), kDone) << "STOP_DEV lets the server finish what came before";
  }
  EXPECT_EQ(stopper.Finish(milliseconds(200)), std::nullopt) << "requests are held";
  ReleaseRequests();
  EXPECT_EQ(stopper.Finish(std::chrono::seconds(20)), 0);
}

TEST_F(Quiesce, StopAfterwardsWaitsForHeldRequests_R23_R72) {
  Start();
  HoldRequests(1);
  EXPECT_EQ(control_.Quiesce(id()), 0);
  const auto io = Begin(Op::kWrite, 100);
  EXPECT_TRUE(io->Waits(milliseconds(50)));
  Control stopper;
  stopper.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(io->Result(), -EIO) << "there will be no next server";
  EXPECT_EQ(stopper.Finish(milliseconds(200)), std::nullopt) << "a request is held";
  ReleaseRequests();
  EXPECT_EQ(stopper.Finish(std::chrono::seconds(20)), 0);
}

TEST_F(Quiesce, DeleteAfterwardsEndsWaitingRequests_R23) {
  Start();
  EXPECT_EQ(control_.Quiesce(id()), 0);
  const auto io = Begin(Op::kWrite, 100);
  EXPECT_TRUE(io->Waits(milliseconds(50)));
  EXPECT_EQ(control_.DeleteAsync(id()), 0);
  EXPECT_EQ(io->Result(), -EIO);
  disk_->Close();
  server_->Close();
  EXPECT_TRUE(Eventually([&] { return control_.State(id()) == -ENODEV; }));
  device_->Forget();
  device_.reset();
}

TEST_F(Quiesce, WithFailIoRequestsFailMeanwhile_R23_R67) {
  Start({.flags = UBLK_F_QUIESCE | UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO});
  EXPECT_EQ(control_.Quiesce(id()), 0);
  server_->Join();
  EXPECT_EQ(Begin(Op::kRead, 0)->Result(), -EIO);
  ChangeServers(UBLK_S_DEV_FAIL_IO);
  EXPECT_EQ(Begin(Op::kRead, 0)->Result(), kDone);
}

}  // namespace
}  // namespace ublkd::driver_test
