// SPDX-License-Identifier: Apache-2.0
//
// A disk that outlives its server, its servers in processes of their own, and I/O to it.
#ifndef UBLKD_TESTS_VM_DRIVER_RECOVERY_FIXTURE_H_
#define UBLKD_TESTS_VM_DRIVER_RECOVERY_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

// How a disk can outlive its server.
inline constexpr uint64_t kFail = UBLK_F_USER_RECOVERY;
inline constexpr uint64_t kReissue = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE;
inline constexpr uint64_t kFailIo = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO;

class RecoveryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DriverIsOurs()) GTEST_SKIP() << "what stock drivers do differs from kernel to kernel";
  }

  // A server in another process, which answers as `valve()` says.
  std::unique_ptr<ServerProcess> NewServer(ServerOptions options = {}) {
    return std::make_unique<ServerProcess>(device_->id(), device_->geometry(),
                                           ValveHandler(valve(), RamHandler(ram_.data())), options);
  }

  // A device with its server, started, and its disk opened.
  void Start(Geometry geometry, ServerOptions options = {}) {
    geometry.flags |= UBLK_F_NO_AUTO_PART_SCAN;
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0) << "ADD_DEV failed";
    server_ = NewServer(options);
    ASSERT_EQ(control_.Start(id(), server_->pid()), 0) << "START_DEV failed";
    disk_ = std::make_unique<OpenDisk>(device_->disk());
    ASSERT_GE(disk_->fd(), 0);
  }

  // The old server has let go of everything.
  void ExpectRecoverable() {
    ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }))
        << "START_USER_RECOVERY says " << control_.StartRecovery(id()) << " long after the death";
  }

  // The next server, which answers everything.
  void Recover() {
    ExpectRecoverable();
    valve()->setting = Valve::kAnswer;
    server_ = NewServer();
    ASSERT_EQ(control_.EndRecovery(id(), server_->pid()), 0) << "END_USER_RECOVERY failed";
    EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE);
  }

  void KillServer() {
    server_->Kill();
    ExpectRecoverable();
  }

  void HoldRequests() { valve()->setting = Valve::kHold; }
  bool HoldsRequests(int count) {
    return Eventually([&] { return valve()->held >= count; });
  }

  std::unique_ptr<PendingIo> Begin(PendingIo::Op op, int block, int cpu = -1) {
    return std::make_unique<PendingIo>(*disk_, op, off_t{4096} * block, cpu);
  }

  // Nothing that happened may keep the device.
  void TearDown() override {
    if (device_ == nullptr) return;
    server_.reset();
    if (disk_ != nullptr) disk_->Close();
    EXPECT_EQ(device_->Delete(), 0) << "DEL_DEV failed";
  }

  // After DEL_DEV_ASYNC: the device goes when its users do.
  void ExpectGone() {
    server_.reset();
    disk_->Close();
    EXPECT_TRUE(Eventually([&] { return control_.State(id()) == -ENODEV; }))
        << "the deleted device stays";
    device_->Forget();
    device_.reset();
  }

  uint32_t id() const { return device_->id(); }
  // The second one is for those who tell queues apart.
  Valve* valve(uint16_t queue = 0) const { return shared_.as<Valve>() + queue; }

  Control control_;
  SharedMemory shared_{4096};
  SharedMemory ram_{Geometry{}.bytes};
  std::unique_ptr<Device> device_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<OpenDisk> disk_;
};

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_RECOVERY_FIXTURE_H_
