// SPDX-License-Identifier: Apache-2.0
//
// /sys/class/ublk-char/ublkcN: what an operator sees of a device.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

using Op = PendingIo::Op;

constexpr int kDone = 4096;

class Counters : public testing::Test {
 protected:
  void SetUp() override {
    if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers have none";
  }

  void Start(Geometry geometry) {
    geometry.flags |= UBLK_F_NO_AUTO_PART_SCAN;
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    EXPECT_EQ(Attribute(id(), "state"), "dead");
    NewServer();
    ASSERT_EQ(control_.Start(id(), server_->pid()), 0);
    disk_ = std::make_unique<OpenDisk>(device_->disk());
  }

  void NewServer() {
    server_ = std::make_unique<ServerProcess>(id(), device_->geometry(),
                                              ValveHandler(shared_.as<Valve>(), AnswerAll()));
  }

  void Hold(int count, const std::vector<int>& cpus = {-1}) {
    shared_.as<Valve>()->setting = Valve::kHold;
    for (int i = 0; i < count; ++i) {
      ios_.push_back(std::make_unique<PendingIo>(*disk_, Op::kWrite, off_t{8192} * i,
                                                 cpus[static_cast<size_t>(i) % cpus.size()]));
    }
    ASSERT_TRUE(Eventually([&] { return shared_.as<Valve>()->held == count; }));
  }

  void Recover() {
    shared_.as<Valve>()->setting = Valve::kAnswer;
    NewServer();
    ASSERT_EQ(control_.EndRecovery(id(), server_->pid()), 0);
  }

  void KillAndExpect(const std::string& state) {
    server_->Kill();
    EXPECT_TRUE(Eventually([&] { return Attribute(id(), "state") == state; }))
        << "state is " << Attribute(id(), "state") << ", not " << state;
  }

  void ExpectCounters(int aborted, int requeued, int recovered) {
    EXPECT_EQ(Attribute(id(), "aborted"), std::to_string(aborted));
    EXPECT_EQ(Attribute(id(), "requeued"), std::to_string(requeued));
    EXPECT_EQ(Attribute(id(), "recovered"), std::to_string(recovered));
  }

  uint32_t id() const { return device_->id(); }

  Control control_;
  SharedMemory shared_{4096};
  std::unique_ptr<Device> device_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<OpenDisk> disk_;
  std::vector<std::unique_ptr<PendingIo>> ios_;
};

TEST_F(Counters, OfADiskThatDiesWithItsServer) {
  Start({.depth = 4});
  EXPECT_EQ(Attribute(id(), "state"), "live");
  ExpectCounters(0, 0, 0);
  Hold(3);
  KillAndExpect("dead");
  for (const auto& io : ios_) EXPECT_EQ(io->Result(), -EIO);
  ExpectCounters(3, 0, 0);
  disk_->Close();
}

TEST_F(Counters, OfADiskThatWaits) {
  Start({.depth = 4, .flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE});
  Hold(3);
  KillAndExpect("quiesced");
  ExpectCounters(0, 3, 0);
  EXPECT_EQ(Attribute(id(), "inflight"), "0") << "waiting is not in flight";
  ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }));
  Recover();
  for (const auto& io : ios_) EXPECT_EQ(io->Result(), kDone);
  EXPECT_EQ(Attribute(id(), "state"), "live");
  ExpectCounters(0, 3, 1);
  disk_->Close();
}

TEST_F(Counters, OfADiskThatFailsMeanwhile) {
  Start({.depth = 4, .flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO});
  Hold(2);
  KillAndExpect("fail_io");
  for (const auto& io : ios_) EXPECT_EQ(io->Result(), -EIO);
  ExpectCounters(2, 0, 0);
  EXPECT_EQ(disk_->Read(0), -EIO);
  ExpectCounters(3, 0, 0);
  disk_->Close();
}

TEST_F(Counters, TellRequestsInFlightOfEachQueue) {
  Start({.queues = 2, .depth = 4});
  ASSERT_EQ(device_->geometry().queues, 2) << "the machine needs two processors";
  EXPECT_EQ(Attribute(id(), "inflight"), "0 0");
  const int first = CpuOfQueue(control_, id(), 0), second = CpuOfQueue(control_, id(), 1);
  Hold(3, {first, second, first});
  EXPECT_EQ(Attribute(id(), "inflight"), "2 1");
  server_->Kill();
  for (const auto& io : ios_) EXPECT_EQ(io->Result(), -EIO);
  disk_->Close();
}

}  // namespace
}  // namespace ublkd::driver_test
