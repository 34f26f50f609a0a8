// SPDX-License-Identifier: Apache-2.0
//
// TRY_STOP_DEV, which spares a disk in use, and UPDATE_SIZE of a running disk.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

constexpr uid_t kUser = 1000;
constexpr int kDone = 4096;

class StopTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers have no such commands, or leave marks";
  }

  void TearDown() override {
    if (device_ == nullptr) return;
    EXPECT_EQ(control_.Stop(id()), 0);
    if (server_ != nullptr) server_->Close();
    EXPECT_EQ(device_->Delete(), 0);
  }

  void NewServer() {
    server_ = std::make_unique<Server>(id(), device_->geometry(), RamHandler(ram_.data()));
    ASSERT_EQ(server_->error(), 0) << "the char device can't be opened";
  }

  void Start(Geometry geometry = {}) {
    geometry.flags |= UBLK_F_NO_AUTO_PART_SCAN;
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    NewServer();
    ASSERT_EQ(control_.Start(id(), getpid()), 0);
  }

  // After a stop.
  void StartAgain() {
    server_->Close();
    ASSERT_TRUE(Eventually([&] {
      server_ = std::make_unique<Server>(id(), device_->geometry(), RamHandler(ram_.data()));
      return server_->error() == 0;
    })) << "the char device is not free again";
    ASSERT_EQ(control_.Start(id(), getpid()), 0);
  }

  uint32_t id() const { return device_->id(); }

  Control control_;
  SharedMemory ram_{Geometry{}.bytes};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Server> server_;
};

using TryStop = StopTest;

TEST_F(TryStop, SparesADiskThatIsOpen_R21) {
  Start();
  OpenDisk root(device_->disk(), O_RDONLY);
  ASSERT_GE(root.fd(), 0);
  EXPECT_EQ(control_.TryStop(id()), -EBUSY) << "root's use counts as well";
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_LIVE);
  EXPECT_EQ(OpenDisk(device_->disk()).Write(0, 1), kDone) << "nobody may notice the attempt";
  root.Close();
  EXPECT_EQ(control_.TryStop(id()), 0);
}

TEST_F(TryStop, StopsAnIdleDisk_R21) {
  Start();
  EXPECT_EQ(control_.TryStop(id()), 0);
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
  EXPECT_FALSE(PathExists(device_->disk()));
  server_->Join();  // every command was aborted
}

TEST_F(TryStop, NeedsADisk_R21) {
  device_ = std::make_unique<Device>(control_, Geometry{});
  EXPECT_EQ(control_.TryStop(id()), -ENODEV);
  NewServer();
  ASSERT_EQ(control_.Start(id(), getpid()), 0);
  EXPECT_EQ(control_.Stop(id()), 0);
  EXPECT_EQ(control_.TryStop(id()), -ENODEV) << "it was stopped already";
}

TEST_F(TryStop, LeavesNoMarkOnTheNextDisk_R21) {
  Start();
  ASSERT_EQ(control_.TryStop(id()), 0);
  StartAgain();
  ASSERT_EQ(chmod(device_->disk().c_str(), 0666), 0);
  int as_user = 0;
  AsUser(kUser, kUser, [&] { as_user = OpenDisk(device_->disk()).Write(0, 1); });
  EXPECT_EQ(as_user, kDone) << "an ordinary user must be able to open the disk again";
  EXPECT_EQ(OpenDisk(device_->disk()).Write(0, 1), kDone);
  EXPECT_EQ(control_.TryStop(id()), 0);
}

TEST_F(TryStop, WithoutAServerStopsToo_R21_R72) {
  Start({.flags = UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE});
  ASSERT_EQ(control_.Quiesce(id()), 0);
  server_->Close();
  ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }));
  EXPECT_EQ(control_.TryStop(id()), 0);
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
}

// Somebody opens the disk again and again: whoever has it open can use it.
TEST_F(TryStop, NeverTakesAnOpenDiskAway_R21) {
  Start();
  std::atomic<bool> stop = false;
  std::atomic<int> opened = 0, failed = 0;
  std::thread user([&] {
    while (!stop) {
      // Leaves time in which the disk is not open.
      for (int i = opened % 4; i > 0; --i) sched_yield();
      const OpenDisk disk(device_->disk());
      if (disk.fd() < 0) continue;
      ++opened;
      if (disk.Read(0) != kDone) ++failed;
    }
  });
  for (int round = 0; round < 10; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const int before = opened;
    EXPECT_TRUE(Eventually([&] { return opened > before + 3; }));
    int result = -EBUSY;
    EXPECT_TRUE(Eventually([&] { return (result = control_.TryStop(id())) != -EBUSY; }));
    EXPECT_EQ(result, 0);
    StartAgain();
    if (HasFatalFailure()) break;
  }
  stop = true;
  user.join();
  EXPECT_EQ(failed, 0) << "a disk was stopped while it was open";
}

// Somebody else stops the device and starts it again between the look and the stop.
TEST_F(TryStop, OfADiskThatIsGoneSparesTheNextOne_R21) {
  Start();
  std::atomic<bool> stop = false;
  std::thread rival([&] {
    Control control;
    while (!stop) control.TryStop(id());
  });
  int used = 0, failed = 0;
  for (int round = 0; round < 40 || (used == 0 && round < 400); ++round) {
    {
      const OpenDisk disk(device_->disk());
      for (int i = 0; disk.fd() >= 0 && i < 5; ++i) {
        ++used;
        if (disk.Read(0) != kDone) ++failed;
      }
      if (disk.fd() >= 0 && control_.State(id()) != UBLK_S_DEV_LIVE) ++failed;
    }
    ASSERT_EQ(control_.Stop(id()), 0);
    // The rival may stop it again at any moment.
    server_->Close();
    server_ = NextServer(id(), device_->geometry(), RamHandler(ram_.data()));
    const int started = control_.Start(id(), getpid());
    ASSERT_TRUE(started == 0 || started == -EBUSY) << started;
  }
  stop = true;
  rival.join();
  EXPECT_GT(used, 0) << "the disk was never there long enough";
  EXPECT_EQ(failed, 0) << "a disk was stopped while it was open";
}

class Resize : public StopTest {
 protected:
  static constexpr uint64_t kSectors = Geometry{}.bytes / kSectorBytes;
};

TEST_F(Resize, IsSeenByThoseWhoHaveTheDiskOpen_R22) {
  Start();
  const OpenDisk disk(device_->disk());
  for (const uint64_t sectors : {kSectors * 2, kSectors / 2, uint64_t{8}, kSectors}) {
    EXPECT_EQ(control_.Resize(id(), sectors), 0);
    EXPECT_EQ(disk.bytes(), sectors * kSectorBytes);
    EXPECT_EQ(OpenDisk(device_->disk()).bytes(), sectors * kSectorBytes);
    ublk_params params = {};
    EXPECT_EQ(control_.GetParams(id(), params), 0);
    EXPECT_EQ(params.basic.dev_sectors, sectors) << "GET_PARAMS must tell the new size";
    EXPECT_EQ(disk.Write(static_cast<off_t>(sectors * kSectorBytes), 1), -ENOSPC) << "at the end";
  }
}

TEST_F(Resize, IsAnnounced_R22) {
  Start();
  const int events = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
  sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;
  ASSERT_EQ(bind(events, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(control_.Resize(id(), kSectors * 2), 0);
  const std::string wanted = "DEVNAME=ublkb" + std::to_string(id());
  EXPECT_TRUE(Eventually([&] {
    pollfd poller = {events, POLLIN, 0};
    if (poll(&poller, 1, 0) != 1) return false;
    char text[4096];
    const ssize_t n = recv(events, text, sizeof(text), 0);
    // Strings with a NUL behind each.
    const std::string event(text, n > 0 ? static_cast<size_t>(n) : 0);
    return event.find(std::string("\0", 1) + wanted + '\0') != std::string::npos &&
           event.find("RESIZE=1") != std::string::npos;
  })) << "no uevent with RESIZE=1";
  close(events);
}

TEST_F(Resize, AbsurdSizesAreRefused_R22) {
  Geometry geometry = {.block_shift = 12};
  Start(geometry);
  const OpenDisk disk(device_->disk());
  for (const uint64_t sectors : {uint64_t{1}, kSectors + 7, UINT64_MAX, UINT64_MAX - 7,
                                 uint64_t{1} << 63, (uint64_t{1} << 54), uint64_t{1} << 60}) {
    EXPECT_EQ(control_.Resize(id(), sectors), -EINVAL) << sectors << " sectors";
    EXPECT_EQ(disk.bytes(), geometry.bytes);
  }
  EXPECT_EQ(disk.Write(0, 1), kDone);
}

TEST_F(Resize, NeedsADisk_R22) {
  device_ = std::make_unique<Device>(control_, Geometry{});
  EXPECT_EQ(control_.Resize(id(), kSectors), -ENODEV);
}

TEST_F(Resize, WithoutAServer_R22) {
  Start({.flags = UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE});
  const OpenDisk disk(device_->disk());
  ASSERT_EQ(control_.Quiesce(id()), 0);
  server_->Close();
  ASSERT_TRUE(Eventually([&] { return control_.StartRecovery(id()) == 0; }));
  EXPECT_EQ(control_.Resize(id(), kSectors / 2), 0);
  EXPECT_EQ(disk.bytes(), kSectors / 2 * kSectorBytes);
  NewServer();
  ASSERT_EQ(control_.EndRecovery(id(), getpid()), 0);
  EXPECT_EQ(disk.bytes(), kSectors / 2 * kSectorBytes) << "the next server must not change it";
  EXPECT_EQ(disk.Write(0, 1), kDone);
}

}  // namespace
}  // namespace ublkd::driver_test
