// SPDX-License-Identifier: Apache-2.0
//
// A thread of the server ends alone, while its process goes on: io_uring does not tell the driver.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/vm/driver/recovery_fixture.h"

namespace ublkd::driver_test {
namespace {

using Op = PendingIo::Op;

constexpr int kDone = 4096;
constexpr std::chrono::milliseconds kSoon{10000};

class LoneDeath : public RecoveryTest {
 protected:
  void StartWithAThreadToKill(const Geometry& geometry, unsigned ring_flags = 0) {
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    server_ = std::make_unique<ServerProcess>([&] {
      const Handler ram = RamHandler(ram_.data());
      const Server server(
          id(), device_->geometry(),
          [&](const Request& request) { return ValveHandler(valve(request.queue), ram)(request); },
          {.ring_flags = ring_flags});
      for (;;) pause();
    });
    ASSERT_EQ(control_.Start(id(), server_->pid()), 0);
    disk_ = std::make_unique<OpenDisk>(device_->disk());
    ASSERT_GE(disk_->fd(), 0);
  }

  // One request is in the thread's hands, three are on their way to it.
  void BlockTheThread() {
    valve()->setting = Valve::kBlock;
    ios_.push_back(Begin(Op::kWrite, 0));
    ASSERT_TRUE(HoldsRequests(1));
    for (int i = 1; i < 4; ++i) ios_.push_back(Begin(Op::kWrite, i * 2));
    ASSERT_TRUE(Eventually([&] { return Attribute(id(), "inflight") == "4"; }));
  }

  std::vector<std::unique_ptr<PendingIo>> ios_;
};

TEST_F(LoneDeath, FailsItsRequests_R63) {
  StartWithAThreadToKill({.depth = 8, .flags = UBLK_F_NO_AUTO_PART_SCAN});
  BlockTheThread();
  valve()->setting = Valve::kDie;
  for (const auto& io : ios_) {
    EXPECT_EQ(io->Result(), -EIO) << "nobody will ever answer these requests";
  }
  EXPECT_EQ(Begin(Op::kRead, 0)->Result(), -EIO) << "nor new ones";
}

TEST_F(LoneDeath, KeepsItsRequestsForTheNextServer_R67_R70) {
  StartWithAThreadToKill({.depth = 8, .flags = kReissue | UBLK_F_NO_AUTO_PART_SCAN});
  BlockTheThread();
  valve()->setting = Valve::kDie;
  EXPECT_TRUE(Eventually([&] { return Attribute(id(), "inflight") == "0"; }, kSoon))
      << "the driver does not notice that the thread is gone";
  ios_.push_back(Begin(Op::kRead, 8));
  for (const auto& io : ios_) EXPECT_TRUE(io->Waits(std::chrono::milliseconds(50)));
  EXPECT_EQ(control_.StartRecovery(id()), -EBUSY) << "the process still has the char device";
  server_->Kill();
  Recover();
  for (const auto& io : ios_) EXPECT_EQ(io->Result(), kDone);
}

TEST_F(LoneDeath, IsStoppedAfterwards_R72) {
  StartWithAThreadToKill({.depth = 8, .flags = kReissue | UBLK_F_NO_AUTO_PART_SCAN});
  BlockTheThread();
  valve()->setting = Valve::kDie;
  EXPECT_TRUE(Eventually([&] { return Attribute(id(), "inflight") == "0"; }, kSoon))
      << "the driver does not notice that the thread is gone";
  control_.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(control_.Finish(std::chrono::seconds(20)), 0)
      << "STOP_DEV waits for requests that have no server";
  for (const auto& io : ios_) EXPECT_EQ(io->Result(), -EIO);
}

TEST_F(LoneDeath, DuringStopEndsTheStop_R72) {
  StartWithAThreadToKill({.depth = 8, .flags = kReissue | UBLK_F_NO_AUTO_PART_SCAN});
  BlockTheThread();
  control_.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id()});
  EXPECT_EQ(control_.Finish(std::chrono::milliseconds(300)), std::nullopt)
      << "STOP_DEV must let the server finish its requests";
  valve()->setting = Valve::kDie;
  EXPECT_EQ(control_.Finish(std::chrono::seconds(20)), 0)
      << "STOP_DEV waits for requests of a thread that is gone";
  for (const auto& io : ios_) EXPECT_EQ(io->Result(), -EIO);
}

// The first death is noticed, and so is the next, of a thread that was to finish what it has.
TEST_F(LoneDeath, OfOneThreadAfterTheOtherFailsTheRequestsOfBoth_R63) {
  StartWithAThreadToKill({.queues = 2, .depth = 4, .flags = UBLK_F_NO_AUTO_PART_SCAN});
  ASSERT_EQ(device_->geometry().queues, 2) << "the machine needs two processors";
  for (uint16_t queue = 0; queue < 2; ++queue) {
    valve(queue)->setting = Valve::kBlock;
    ios_.push_back(Begin(Op::kWrite, queue * 2, CpuOfQueue(control_, id(), queue)));
    ASSERT_TRUE(Eventually([&] { return valve(queue)->held == 1; }))
        << "queue " << queue << " in flight: " << Attribute(id(), "inflight");
  }
  valve(0)->setting = Valve::kDie;
  EXPECT_EQ(ios_[0]->Result(), -EIO);
  EXPECT_TRUE(ios_[1]->Waits()) << "its thread lives and may finish it";
  valve(1)->setting = Valve::kDie;
  EXPECT_EQ(ios_[1]->Result(), -EIO);
}

// With DEFER_TASKRUN, requests on their way wait until the thread asks its ring for them.
TEST_F(LoneDeath, WithDeferredTaskWorkFailsItsRequests_R63) {
  StartWithAThreadToKill({.depth = 8, .flags = UBLK_F_NO_AUTO_PART_SCAN},
                         ServerOptions{}.ring_flags);
  BlockTheThread();
  valve()->setting = Valve::kDie;
  for (const auto& io : ios_) {
    EXPECT_EQ(io->Result(), -EIO) << "nobody will ever answer these requests";
  }
}

}  // namespace
}  // namespace ublkd::driver_test
