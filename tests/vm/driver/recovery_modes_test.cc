// SPDX-License-Identifier: Apache-2.0
//
// What becomes of the requests of a disk with USER_RECOVERY when its server dies, in each mode.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include "tests/vm/driver/recovery_fixture.h"

namespace ublkd::driver_test {
namespace {

using Op = PendingIo::Op;

constexpr int kDone = 4096;

// Stops all threads of a child; its tasks take no more requests.
bool Freeze(pid_t pid) {
  int status = 0;
  kill(pid, SIGSTOP);
  return waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status);
}

struct Mode {
  const char* name;
  uint64_t flags;
  int state;      // without a server
  int delivered;  // result of requests that the dead server had; 0: they wait
  int others;     // ... that it had not
};

class RecoveryModes : public RecoveryTest, public testing::WithParamInterface<Mode> {
 protected:
  // Requests that were in some way with the old server when it died.
  void ExpectResults(const std::vector<std::unique_ptr<PendingIo>>& ios, int expected,
                     const std::string& which) {
    if (expected != 0) {
      for (const auto& io : ios) {
        EXPECT_EQ(io->Result(), expected) << which << " requests must end at once";
      }
      return;
    }
    for (const auto& io : ios) {
      EXPECT_TRUE(io->Waits(std::chrono::milliseconds(50)))
          << which << " requests must wait for the next server, not end with "
          << io->Result().value_or(0);
    }
  }

  // That the disk is gone: some may even come too late to find it.
  void ExpectFailure(const std::vector<std::unique_ptr<PendingIo>>& ios) {
    for (const auto& io : ios) {
      const auto result = io->Result();
      ASSERT_TRUE(result.has_value()) << "I/O hangs, though there is no server to wait for";
      EXPECT_NE(*result, kDone) << "there was no server to answer";
    }
  }

  void ExpectSuccessIfTheyWait(const std::vector<std::unique_ptr<PendingIo>>& ios, int expected,
                               const std::string& which) {
    if (expected != 0) return;
    for (const auto& io : ios) {
      EXPECT_EQ(io->Result(), kDone) << which << " requests must be answered by the next server";
    }
  }
};

TEST_P(RecoveryModes, DeliveredRequests_R67) {
  const Mode& mode = GetParam();
  Start({.depth = 8, .flags = mode.flags});
  HoldRequests();
  std::vector<std::unique_ptr<PendingIo>> ios;
  for (int i = 0; i < 4; ++i) ios.push_back(Begin(i % 2 == 0 ? Op::kWrite : Op::kRead, i * 2));
  ASSERT_TRUE(HoldsRequests(4));
  KillServer();
  EXPECT_EQ(control_.State(id()), mode.state);
  ExpectResults(ios, mode.delivered, "delivered");
  Recover();
  ExpectSuccessIfTheyWait(ios, mode.delivered, "delivered");
}

// On their way when the server dies: it has no chance to see them.
TEST_P(RecoveryModes, QueuedRequests_R67) {
  const Mode& mode = GetParam();
  for (const unsigned ring_flags : {0U, ServerOptions{}.ring_flags}) {
    Start({.depth = 8, .flags = mode.flags}, {.ring_flags = ring_flags});
    ASSERT_TRUE(Freeze(server_->pid()));
    std::vector<std::unique_ptr<PendingIo>> ios;
    for (int i = 0; i < 4; ++i) ios.push_back(Begin(i % 2 == 0 ? Op::kWrite : Op::kRead, i * 2));
    ASSERT_TRUE(Eventually([&] { return Attribute(id(), "inflight") == "4"; }));
    KillServer();
    EXPECT_EQ(valve()->held, 0) << "the test itself: the server was to see nothing";
    ExpectResults(ios, mode.others, "queued");
    Recover();
    ExpectSuccessIfTheyWait(ios, mode.others, "queued");
    TearDown();
  }
  device_.reset();
}

// More requests than tags: the rest waits for a tag, and gets it when the server dies.
TEST_P(RecoveryModes, AllTagsHeldAndMoreWaiting_R63_R67) {
  const Mode& mode = GetParam();
  Start({.depth = 2, .flags = mode.flags});
  HoldRequests();
  std::vector<std::unique_ptr<PendingIo>> delivered, others;
  for (int i = 0; i < 2; ++i) delivered.push_back(Begin(Op::kWrite, i * 2));
  ASSERT_TRUE(HoldsRequests(2));
  for (int i = 2; i < 6; ++i) others.push_back(Begin(Op::kWrite, i * 2));
  EXPECT_TRUE(others[0]->Waits());
  KillServer();
  ExpectResults(delivered, mode.delivered, "delivered");
  ExpectResults(others, mode.others, "waiting");
  Recover();
  ExpectSuccessIfTheyWait(delivered, mode.delivered, "delivered");
  ExpectSuccessIfTheyWait(others, mode.others, "waiting");
}

TEST_P(RecoveryModes, NewRequestsWithoutAServer_R67_R24) {
  const Mode& mode = GetParam();
  Start({.flags = mode.flags});
  ASSERT_EQ(disk_->Write(0, 77), kDone);
  KillServer();
  ublksrv_ctrl_dev_info info = {};
  ASSERT_EQ(control_.GetInfo(id(), info), 0);
  EXPECT_EQ(info.state, mode.state);
  EXPECT_EQ(info.ublksrv_pid, -1) << "there is no server";
  EXPECT_TRUE(PathExists(device_->disk())) << "the disk must outlive its server";

  std::vector<std::unique_ptr<PendingIo>> ios;
  ios.push_back(Begin(Op::kRead, 0));
  ios.push_back(Begin(Op::kWrite, 8));
  ExpectResults(ios, mode.others, "new");
  // It can also be opened by somebody else meanwhile.
  const OpenDisk another(device_->disk());
  EXPECT_GE(another.fd(), 0);
  Recover();
  ExpectSuccessIfTheyWait(ios, mode.others, "new");
  std::byte block[4096];
  EXPECT_EQ(another.Read(0, block), kDone) << "I/O must go on after the recovery";
  EXPECT_EQ(block[0], std::byte{77});
  ASSERT_EQ(control_.GetInfo(id(), info), 0);
  EXPECT_EQ(info.ublksrv_pid, server_->pid());
}

TEST_P(RecoveryModes, StopWithoutAServerEndsEverything_R72) {
  const Mode& mode = GetParam();
  Start({.depth = 4, .flags = mode.flags});
  HoldRequests();
  std::vector<std::unique_ptr<PendingIo>> ios;
  ios.push_back(Begin(Op::kWrite, 0));
  ASSERT_TRUE(HoldsRequests(1));
  KillServer();
  for (int i = 1; i < 7; ++i) ios.push_back(Begin(Op::kWrite, i * 2));
  EXPECT_EQ(control_.Stop(id()), 0);
  ExpectFailure(ios);
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
  EXPECT_EQ(control_.StartRecovery(id()), -EBUSY) << "there is no disk to recover";

  // It can be started like a new one.
  disk_->Close();
  valve()->setting = Valve::kAnswer;
  server_ = NewServer();
  ASSERT_EQ(control_.Start(id(), server_->pid()), 0);
  EXPECT_EQ(OpenDisk(device_->disk()).Write(0, 1), kDone);
}

TEST_P(RecoveryModes, DeleteWithoutAServerEndsEverything_R72) {
  const Mode& mode = GetParam();
  Start({.depth = 4, .flags = mode.flags});
  HoldRequests();
  std::vector<std::unique_ptr<PendingIo>> ios;
  ios.push_back(Begin(Op::kRead, 0));
  ASSERT_TRUE(HoldsRequests(1));
  KillServer();
  for (int i = 1; i < 7; ++i) ios.push_back(Begin(Op::kRead, i * 2));
  EXPECT_EQ(control_.DeleteAsync(id()), 0);
  ExpectFailure(ios);
  EXPECT_EQ(control_.StartRecovery(id()), -ENODEV) << "a deleted device can't be recovered";
  ExpectGone();
}

INSTANTIATE_TEST_SUITE_P(Modes, RecoveryModes,
                         testing::Values(Mode{"Fail", kFail, UBLK_S_DEV_QUIESCED, -EIO, 0},
                                         Mode{"Reissue", kReissue, UBLK_S_DEV_QUIESCED, 0, 0},
                                         Mode{"FailIo", kFailIo, UBLK_S_DEV_FAIL_IO, -EIO, -EIO}),
                         [](const auto& mode) { return std::string(mode.param.name); });

}  // namespace
}  // namespace ublkd::driver_test
