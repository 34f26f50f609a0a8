// SPDX-License-Identifier: Apache-2.0
//
// Devices that ordinary users make (UNPRIVILEGED_DEV): what they may do with theirs, and what they
// may not do to others.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

using std::chrono::milliseconds;

constexpr uid_t kOwner = 1000;
constexpr uid_t kStranger = 1001;
constexpr int kDone = 4096;
constexpr const char* kQuotaPath = "/sys/module/ublk_drv/parameters/ublks_max";
constexpr const char* kControlPath = "/dev/ublk-control";

// A command whose buffer starts with a path, as those for unprivileged devices do.
int RunWithPath(Control& control, uint32_t op, uint32_t id, const std::string& path,
                void* data = nullptr, size_t data_bytes = 0, uint64_t argument = 0) {
  std::vector<std::byte> buffer(path.size() + data_bytes);
  std::memcpy(buffer.data(), path.data(), path.size());
  if (data_bytes > 0) std::memcpy(buffer.data() + path.size(), data, data_bytes);
  const int result = control.Run(op, {.dev_id = id,
                                      .len = static_cast<uint16_t>(buffer.size()),
                                      .addr = buffer.data(),
                                      .data = argument,
                                      .path_len = static_cast<uint16_t>(path.size())});
  if (data_bytes > 0) std::memcpy(data, buffer.data() + path.size(), data_bytes);
  return result;
}

class AccessTest : public testing::Test {
 protected:
  void SetUp() override {
    if ((control_.Features() & UBLK_F_UNPRIVILEGED_DEV) == 0 || !DriverIsOurs()) {
      GTEST_SKIP() << "no unprivileged devices, or not ours";
    }
    // What udev rules do.
    ASSERT_EQ(chmod(kControlPath, 0666), 0);
    char folder[] = "/tmp/access-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    ASSERT_EQ(chmod(folder, 0755), 0);
  }

  void TearDown() override {
    if (folder_.empty()) return;
    chmod(kControlPath, 0600);
    for (const uint32_t id : made_) {
      const int err = control_.Delete(id);
      EXPECT_TRUE(err == 0 || err == -ENODEV) << "DEL_DEV of " << id << ": " << err;
    }
    EXPECT_EQ(std::system(("rm -rf " + folder_).c_str()), 0);
  }

  // Made by a user; its char device is the user's, as udev would have it.
  uint32_t NewDevice(uid_t owner = kOwner, uint64_t flags = 0) {
    ublksrv_ctrl_dev_info info = InfoOf({.depth = 4, .flags = UBLK_F_UNPRIVILEGED_DEV | flags});
    int err = 0;
    AsUser(owner, owner, [&] {
      Control control;
      err = control.Add(info);
    });
    EXPECT_EQ(err, 0) << "ADD_DEV by an ordinary user failed";
    if (err != 0) return 0;
    made_.push_back(info.dev_id);
    EXPECT_EQ(chown(CharPath(info.dev_id).c_str(), owner, owner), 0);
    return info.dev_id;
  }

  // GET_DEV_INFO2, by a user that gives a path.
  int LookAs(uid_t uid, uint32_t id, const std::string& path) {
    int result = 1;
    AsUser(uid, uid, [&] {
      Control control;
      ublksrv_ctrl_dev_info info = {};
      result = RunWithPath(control, UBLK_U_CMD_GET_DEV_INFO2, id, path, &info, sizeof(info));
      if (result == 0) {
        EXPECT_EQ(info.dev_id, id);
      }
    });
    return result;
  }

  // A user's server with its disk started, while `action` runs as that user.
  void Serve(uint32_t id, Handler handler, const std::function<void(Control&)>& action) {
    AsUser(kOwner, kOwner, [&] {
      const Geometry geometry = {.depth = 4};
      const std::string path = CharPath(id);
      Control control;
      ublk_params params = ParamsOf(geometry);
      ASSERT_EQ(RunWithPath(control, UBLK_U_CMD_SET_PARAMS, id, path, &params, sizeof(params)), 0);
      Server server(id, geometry, std::move(handler));
      ASSERT_EQ(server.error(), 0) << "the owner can't open the char device";
      ASSERT_EQ(RunWithPath(control, UBLK_U_CMD_START_DEV, id, path, nullptr, 0,
                            static_cast<uint64_t>(getpid())),
                0);
      action(control);
      EXPECT_EQ(RunWithPath(control, UBLK_U_CMD_STOP_DEV, id, path), 0);
      server.Close();
    });
  }

  Control control_;
  std::string folder_;
  std::vector<uint32_t> made_;
};

using Access = AccessTest;

TEST_F(Access, AnOwnerMakesServesAndDeletesADisk_R08) {
  SharedMemory ram(Geometry{}.bytes);
  const uint32_t id = NewDevice();
  Serve(id, RamHandler(ram.data()), [&](Control& control) {
    ublksrv_ctrl_dev_info info = {};
    EXPECT_EQ(RunWithPath(control, UBLK_U_CMD_GET_DEV_INFO, id, CharPath(id), &info, sizeof(info)),
              0);
    EXPECT_EQ(info.owner_uid, kOwner);
    EXPECT_EQ(info.state, UBLK_S_DEV_LIVE);
    ublk_params params = {};
    params.len = sizeof(params);
    params.types = UBLK_PARAM_TYPE_BASIC;
    EXPECT_EQ(
        RunWithPath(control, UBLK_U_CMD_GET_PARAMS, id, CharPath(id), &params, sizeof(params)), 0);
    EXPECT_EQ(params.basic.dev_sectors, Geometry{}.bytes / kSectorBytes);
    EXPECT_EQ(RunWithPath(control, UBLK_U_CMD_UPDATE_SIZE, id, CharPath(id), nullptr, 0, 8), 0);
  });
  AsUser(kOwner, kOwner, [&] {
    Control control;
    EXPECT_EQ(RunWithPath(control, UBLK_U_CMD_DEL_DEV, id, CharPath(id)), 0);
  });
  EXPECT_EQ(control_.State(id), -ENODEV);
}

TEST_F(Access, AnOwnerDeletesWithoutWaiting_R08) {
  const uint32_t id = NewDevice();
  AsUser(kOwner, kOwner, [&] {
    Control control;
    EXPECT_EQ(RunWithPath(control, UBLK_U_CMD_DEL_DEV_ASYNC, id, CharPath(id)), 0);
  });
  EXPECT_TRUE(Eventually([&] { return control_.State(id) == -ENODEV; }));
}

TEST_F(Access, ThePathHasToBeThatOfTheCharDevice_R08) {
  const uint32_t id = NewDevice();
  const uint32_t other = NewDevice();
  const std::string good = CharPath(id);
  EXPECT_EQ(LookAs(kOwner, id, good), 0);
  EXPECT_EQ(LookAs(kOwner, id, good + '\0'), 0) << "with its NUL";
  EXPECT_EQ(LookAs(kOwner, id, good + std::string(9, '\0')), 0) << "padded";
  EXPECT_EQ(LookAs(kOwner, id, ""), -EINVAL) << "no path";
  EXPECT_EQ(LookAs(kOwner, id, std::string(1, '\0')), -EINVAL) << "an empty path";
  EXPECT_EQ(LookAs(kOwner, id, "/dev/null"), -EINVAL) << "another driver's";
  EXPECT_EQ(LookAs(kOwner, id, CharPath(other)), -EINVAL) << "another device's";
  EXPECT_EQ(LookAs(kOwner, other, CharPath(other)), 0);
  EXPECT_EQ(LookAs(kOwner, id, "/dev/nothing"), -ENOENT);
  EXPECT_EQ(LookAs(kOwner, id, "/dev"), -EINVAL) << "a folder";
  // What is behind a NUL is not looked at, so it must not be what counts.
  EXPECT_EQ(LookAs(kOwner, id, std::string("/dev/null") + '\0' + good), -EINVAL);
  EXPECT_EQ(LookAs(kOwner, id, good + '\0' + "/dev/null"), 0);

  const std::string fifo = folder_ + "/fifo", file = folder_ + "/file", link = folder_ + "/link";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0666), 0);
  ASSERT_TRUE(WriteLine(file, good));
  ASSERT_EQ(symlink(good.c_str(), link.c_str()), 0);
  EXPECT_EQ(LookAs(kOwner, id, fifo), -EINVAL);
  EXPECT_EQ(LookAs(kOwner, id, file), -EINVAL);
  EXPECT_EQ(LookAs(kOwner, id, link), 0);
  // A block device of the same number is not it.
  struct stat st;
  ASSERT_EQ(stat(good.c_str(), &st), 0);
  const std::string block = folder_ + "/block";
  ASSERT_EQ(mknod(block.c_str(), S_IFBLK | 0666, st.st_rdev), 0);
  EXPECT_EQ(LookAs(kOwner, id, block), -EINVAL);
}

TEST_F(Access, ThePathHasToBeInTheBuffer_R08) {
  const uint32_t id = NewDevice();
  const std::string good = CharPath(id);
  AsUser(kOwner, kOwner, [&] {
    Control control;
    const auto run = [&](uint16_t len, const void* addr, uint16_t path_len) {
      return control.Run(UBLK_U_CMD_GET_DEV_INFO2,
                         {.dev_id = id, .len = len, .addr = addr, .path_len = path_len});
    };
    std::vector<char> buffer(PATH_MAX * 2);
    std::memcpy(buffer.data(), good.data(), good.size());
    EXPECT_EQ(run(PATH_MAX * 2, buffer.data(), PATH_MAX), 0);
    EXPECT_EQ(run(PATH_MAX * 2, buffer.data(), PATH_MAX + 1), -EINVAL) << "longer than any path";
    EXPECT_EQ(run(64, buffer.data(), 65), -EINVAL) << "longer than the buffer";
    EXPECT_EQ(run(80, buffer.data(), 64), -EINVAL) << "no room left for the answer";
    EXPECT_EQ(run(128, nullptr, 64), -EFAULT);
    std::memset(buffer.data(), 'x', PATH_MAX);
    EXPECT_EQ(run(PATH_MAX * 2, buffer.data(), PATH_MAX), -ENAMETOOLONG);
  });
}

TEST_F(Access, StrangersAreRefused_R08) {
  const uint32_t id = NewDevice();
  const std::string path = CharPath(id);
  EXPECT_EQ(LookAs(kStranger, id, path), -EACCES);
  AsUser(kStranger, kStranger, [&] {
    Control control;
    for (const uint32_t op : {UBLK_U_CMD_DEL_DEV, UBLK_U_CMD_DEL_DEV_ASYNC, UBLK_U_CMD_STOP_DEV,
                              UBLK_U_CMD_TRY_STOP_DEV, UBLK_U_CMD_UPDATE_SIZE}) {
      EXPECT_EQ(RunWithPath(control, op, id, path), -EACCES) << "opcode " << _IOC_NR(op);
    }
    EXPECT_EQ(open(path.c_str(), O_RDWR | O_CLOEXEC), -1);
  });
  EXPECT_EQ(control_.State(id), UBLK_S_DEV_DEAD) << "nothing may have changed";
}

TEST_F(Access, ReadingAllowsToLookOnly_R08) {
  const uint32_t id = NewDevice();
  const std::string path = CharPath(id);
  ASSERT_EQ(chmod(path.c_str(), 0604), 0);
  EXPECT_EQ(LookAs(kStranger, id, path), 0);
  AsUser(kStranger, kStranger, [&] {
    Control control;
    EXPECT_EQ(RunWithPath(control, UBLK_U_CMD_DEL_DEV, id, path), -EACCES);
  });
}

TEST_F(Access, PrivilegedDevicesStayRoots_R08) {
  Device device(control_, {});
  ASSERT_EQ(chown(CharPath(device.id()).c_str(), kOwner, kOwner), 0);
  EXPECT_EQ(LookAs(kOwner, device.id(), CharPath(device.id())), -EPERM)
      << "its char device alone gives no right";
}

TEST_F(Access, RootNeedsNoPathButMayGiveOne_R08) {
  const uint32_t id = NewDevice();
  ublksrv_ctrl_dev_info info = {};
  EXPECT_EQ(control_.GetInfo(id, info), 0);
  EXPECT_EQ(info.owner_uid, kOwner);
  info = {};
  EXPECT_EQ(RunWithPath(control_, UBLK_U_CMD_GET_DEV_INFO, id, CharPath(id), &info, sizeof(info)),
            0);
  EXPECT_EQ(info.dev_id, id);
  Device privileged(control_, {});
  EXPECT_EQ(RunWithPath(control_, UBLK_U_CMD_GET_DEV_INFO2, privileged.id(),
                        CharPath(privileged.id()), &info, sizeof(info)),
            0)
      << "GET_DEV_INFO2 has a path for every device";
}

// Where its user decides what lies there, a node says nothing about permissions.
TEST_F(Access, ANodeOnANodevFilesystemIsRefused_R08) {
  const uint32_t id = NewDevice();
  struct stat st;
  ASSERT_EQ(stat(CharPath(id).c_str(), &st), 0);
  for (const unsigned long flags : {0UL, static_cast<unsigned long>(MS_NODEV)}) {
    ASSERT_EQ(mount("none", folder_.c_str(), "tmpfs", flags, "mode=0755"), 0);
    const std::string node = folder_ + "/node";
    ASSERT_EQ(mknod(node.c_str(), S_IFCHR, st.st_rdev), 0);
    ASSERT_EQ(chmod(node.c_str(), 0666), 0);
    EXPECT_EQ(LookAs(kStranger, id, node), flags == 0 ? 0 : -EACCES);
    ASSERT_EQ(umount(folder_.c_str()), 0);
  }
}

TEST_F(Access, OnlyOwnerAndRootOpenTheDisk_R10) {
  SharedMemory ram(Geometry{}.bytes);
  const uint32_t id = NewDevice();
  std::atomic<bool> started = false, stop = false;
  std::thread owner([&] {
    Serve(id, RamHandler(ram.data()), [&](Control&) {
      started = true;
      while (!stop) usleep(1000);
    });
    started = true;
  });
  ASSERT_TRUE(Eventually([&] { return started.load(); }));
  // The node lets everybody in: it is the driver that does not.
  EXPECT_EQ(chmod(DiskPath(id).c_str(), 0666), 0);
  const auto open_errno = [&] {
    const OpenDisk disk(DiskPath(id), O_RDONLY);
    return disk.fd() < 0 ? errno : 0;
  };
  const auto as = [&](uid_t uid, gid_t gid) {
    int result = -1;
    AsUser(uid, gid, [&] { result = open_errno(); });
    return result;
  };
  EXPECT_EQ(as(kOwner, kOwner), 0);
  EXPECT_EQ(as(kStranger, kStranger), EPERM) << "a stranger could be trapped by an evil server";
  EXPECT_EQ(as(kOwner, kStranger), EPERM) << "the owner in another group";
  EXPECT_EQ(open_errno(), 0) << "root knows what it does";
  stop = true;
  owner.join();
}

TEST_F(Access, AnOrdinaryUsersPartitionTableIsNotRead_R10) {
  SharedMemory ram(Geometry{}.bytes);
  std::atomic<int> reads = 0;
  const uint32_t id = NewDevice();
  Serve(
      id,
      [&](const Request& request) -> std::optional<int> {
        ++reads;
        return RamHandler(ram.data())(request);
      },
      [&](Control&) {
        EXPECT_FALSE(Eventually([&] { return reads > 0; }, milliseconds(300)))
            << "a server that is not trusted was asked for a partition table";
      });
}

TEST_F(Access, DangerousFlagsAreRefusedAndRecoveryIsDropped_R06) {
  const uint64_t features = control_.Features();
  const auto add = [&](uint64_t flags, uint64_t& granted) {
    ublksrv_ctrl_dev_info info = InfoOf({.flags = UBLK_F_UNPRIVILEGED_DEV | flags});
    int err = 0;
    AsUser(kOwner, kOwner, [&] { err = Control().Add(info); });
    if (err == 0) made_.push_back(info.dev_id);
    granted = info.flags;
    return err;
  };
  uint64_t granted = 0;
  for (const uint64_t flag : {UBLK_F_USER_COPY, UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_AUTO_BUF_REG}) {
    const int err = add(flag, granted);
    if ((features & flag) != 0) {
      EXPECT_EQ(err, -EINVAL) << "flag " << flag << " would show other people's memory";
    } else {
      EXPECT_EQ(err, 0);
      EXPECT_EQ(granted & flag, 0U) << "no such feature";
    }
  }
  constexpr uint64_t kRecovery =
      UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_QUIESCE;
  EXPECT_EQ(add(kRecovery, granted), 0);
  EXPECT_EQ(granted & kRecovery, 0U) << "an ordinary user's disk must not wait for a server";
  EXPECT_NE(granted & UBLK_F_UNPRIVILEGED_DEV, 0U);
}

class Quota : public AccessTest {
 protected:
  void TearDown() override {
    WriteLine(kQuotaPath, "64");
    AccessTest::TearDown();
  }
  int AddAs(uid_t uid, uint64_t flags) {
    ublksrv_ctrl_dev_info info = InfoOf({.depth = 1, .flags = flags});
    int err = 0;
    AsUser(uid, uid, [&] { err = Control().Add(info); });
    if (err == 0) made_.push_back(info.dev_id);
    return err;
  }
};

TEST_F(Quota, LimitsUnprivilegedDevices_R09) {
  EXPECT_EQ(ReadLine(kQuotaPath), "64");
  ASSERT_TRUE(WriteLine(kQuotaPath, "2"));
  EXPECT_EQ(AddAs(kOwner, UBLK_F_UNPRIVILEGED_DEV), 0);
  EXPECT_EQ(AddAs(0, 0), 0) << "privileged devices do not count";
  EXPECT_EQ(AddAs(kStranger, UBLK_F_UNPRIVILEGED_DEV), 0);
  for (int again = 0; again < 3; ++again) {
    EXPECT_EQ(AddAs(kOwner, UBLK_F_UNPRIVILEGED_DEV), -EACCES) << "the third of two";
  }
  EXPECT_EQ(AddAs(0, 0), 0) << "nor are they limited";
  EXPECT_EQ(control_.Delete(made_[0]), 0);
  EXPECT_EQ(AddAs(kOwner, UBLK_F_UNPRIVILEGED_DEV), 0) << "a deleted device must not count";
}

TEST_F(Quota, DoesNotLimitPrivilegedDevices_R09) {
  for (int i = 0; i < 70; ++i) ASSERT_EQ(AddAs(0, 0), 0) << "device " << i;
}

// A server of an ordinary user must not keep the system waiting: it is killed after 30 s. The
// block layer's knob makes that shorter.
class SlowServer : public AccessTest {
 protected:
  // The server is a process of an ordinary user's; root has made the device.
  void Start(const Geometry& geometry, bool waits_forever = false) {
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    ASSERT_EQ(chown(CharPath(device_->id()).c_str(), kOwner, kOwner), 0);
    server_ = std::make_unique<ServerProcess>([&] {
      if (setresgid(kOwner, kOwner, kOwner) != 0 || setresuid(kOwner, kOwner, kOwner) != 0) {
        _exit(1);
      }
      Server server(device_->id(), device_->geometry(), ValveHandler(valve(), AnswerAll()));
      while (waits_forever) pause();
      server.Close();
    });
    ASSERT_EQ(control_.Start(device_->id(), server_->pid()), 0);
    disk_ = std::make_unique<OpenDisk>(device_->disk());
    ASSERT_EQ(disk_->Read(0), kDone);
    ASSERT_TRUE(WriteLine(DiskAttributePath(device_->id(), "queue/io_timeout"), "300"));
  }
  void TearDown() override {
    disk_.reset();
    server_.reset();
    device_.reset();
    AccessTest::TearDown();
  }
  Valve* valve() { return shared_.as<Valve>(); }

  SharedMemory shared_{4096};
  std::unique_ptr<Device> device_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<OpenDisk> disk_;
};

TEST_F(SlowServer, OfAnOrdinaryUserIsKilled_R53) {
  Start({.depth = 4, .flags = UBLK_F_UNPRIVILEGED_DEV});
  valve()->setting = Valve::kHold;
  const PendingIo io(*disk_, PendingIo::Op::kRead, 0);
  const auto status = server_->Wait();
  ASSERT_TRUE(status.has_value()) << "the server lives, and holds a request";
  EXPECT_TRUE(WIFSIGNALED(*status) && WTERMSIG(*status) == SIGKILL) << "wait status " << *status;
  EXPECT_EQ(io.Result(), -EIO);
}

TEST_F(SlowServer, WhoseThreadDiedAloneHoldsNothingUp_R53) {
  Start({.depth = 4, .flags = UBLK_F_UNPRIVILEGED_DEV}, true);
  valve()->setting = Valve::kDie;
  const PendingIo io(*disk_, PendingIo::Op::kRead, 0);
  EXPECT_EQ(io.Result(), -EIO) << "a request hangs that nobody will answer";
}

TEST_F(SlowServer, OfRootIsLeftAlone_R53) {
  Start({.depth = 4, .flags = UBLK_F_NO_AUTO_PART_SCAN}, true);
  valve()->setting = Valve::kBlock;
  const PendingIo io(*disk_, PendingIo::Op::kRead, 0);
  EXPECT_TRUE(io.Waits(milliseconds(1500))) << "five times the time limit";
  valve()->setting = Valve::kAnswer;
  EXPECT_EQ(io.Result(), kDone) << "a slow server is no dead one";
}

}  // namespace
}  // namespace ublkd::driver_test
