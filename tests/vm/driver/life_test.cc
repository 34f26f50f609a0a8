// SPDX-License-Identifier: Apache-2.0
//
// Stopping, deleting, and nothing left behind.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/module.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

Handler AnswerAll() {
  return [](const Request& request) -> std::optional<int> {
    return static_cast<int>(request.bytes());
  };
}

int CountEntries(const char* folder, const std::string& prefix) {
  int count = 0;
  DIR* dir = opendir(folder);
  if (dir == nullptr) return 0;
  while (const dirent* entry = readdir(dir)) {
    if (std::string(entry->d_name).starts_with(prefix)) ++count;
  }
  closedir(dir);
  return count;
}

int ModuleReferences() {
  int count = -1;
  std::ifstream("/sys/module/ublk_drv/refcnt") >> count;
  return count;
}

TEST(Life, StopAndStartAgain_R17) {
  Control control;
  const Geometry geometry = {.queues = 2};
  Device device(control, geometry);
  for (int round = 0; round < 5; ++round) {
    std::unique_ptr<Server> server;
    ASSERT_TRUE(Eventually([&] {
      server = std::make_unique<Server>(device.id(), device.geometry(), AnswerAll());
      return server->error() == 0;
    })) << "round "
        << round << ": the char device is not free again";
    ASSERT_EQ(control.Start(device.id(), getpid()), 0);
    EXPECT_TRUE(PathExists(device.disk()));
    ASSERT_EQ(control.Stop(device.id()), 0);
    EXPECT_FALSE(PathExists(device.disk()));
    server->Join();  // every command was aborted
    EXPECT_EQ(control.State(device.id()), UBLK_S_DEV_DEAD);
    server->Close();
  }
}

TEST(Life, StopOfAnIdleDeviceIsFine) {
  Control control;
  Device device(control, {});
  EXPECT_EQ(control.Stop(device.id()), 0);
  EXPECT_EQ(control.Stop(device.id()), 0);
  EXPECT_EQ(control.Stop(999999), -ENODEV);
}

TEST(Life, DeleteWaitsForAnOpenDisk_R19) {
  Control control;
  Device device(control, {});
  Server server(device.id(), device.geometry(), AnswerAll());
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  const int fd = open(device.disk().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  control.Send(UBLK_U_CMD_DEL_DEV, {.dev_id = device.id()});
  server.Close();
  EXPECT_EQ(control.Finish(std::chrono::milliseconds(300)), std::nullopt)
      << "the id is in use as long as the disk is open";
  EXPECT_FALSE(PathExists(device.disk()));
  close(fd);
  EXPECT_EQ(control.Finish(std::chrono::seconds(10)), 0);
  device.Forget();
}

TEST(Life, DeleteAsyncDoesNotWait_R19) {
  Control control;
  Device device(control, {});
  Server server(device.id(), device.geometry(), AnswerAll());
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  const int fd = open(device.disk().c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_EQ(control.DeleteAsync(device.id()), 0);
  device.Forget();
  server.Close();
  close(fd);
  EXPECT_TRUE(Eventually([&] { return control.State(device.id()) == -ENODEV; }));
  EXPECT_TRUE(Eventually([&] {
    ublksrv_ctrl_dev_info info = InfoOf({}, device.id());
    return control.Add(info) == 0;
  })) << "the id must become free";
  EXPECT_EQ(control.Delete(device.id()), 0);
}

TEST(Life, DeleteWaitsForAMapping_R19) {
  Control control;
  Device device(control, {});
  const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  void* map = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(map, MAP_FAILED);
  close(fd);
  control.Send(UBLK_U_CMD_DEL_DEV, {.dev_id = device.id()});
  EXPECT_EQ(control.Finish(std::chrono::milliseconds(300)), std::nullopt);
  munmap(map, 4096);
  EXPECT_EQ(control.Finish(std::chrono::seconds(10)), 0);
  device.Forget();
}

TEST(Life, AnInterruptedDeleteCanBeRepeated_R19) {
  Control control;
  Device device(control, {});
  const uint32_t id = device.id();
  const int fd = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ServerProcess deleter([id] {
    Control inner;
    inner.Delete(id);
  });
  ASSERT_TRUE(Eventually([&] { return !PathExists(CharPath(id)); }));
  deleter.Kill();
  control.Send(UBLK_U_CMD_DEL_DEV, {.dev_id = id});
  EXPECT_EQ(control.Finish(std::chrono::milliseconds(200)), std::nullopt);
  close(fd);
  EXPECT_EQ(control.Finish(std::chrono::seconds(10)), 0);
  device.Forget();
}

TEST(Life, HundredRoundsLeaveNothing_R20) {
  const int nodes = CountEntries("/dev", "ublk");
  const int classes = CountEntries("/sys/class/ublk-char", "ublkc");
  {
    Control control;
    for (int round = 0; round < 100; ++round) {
      Device device(control, {.queues = 2, .depth = 8});
      ASSERT_EQ(device.error(), 0) << "round " << round;
      Server server(device.id(), device.geometry(), AnswerAll());
      ASSERT_EQ(control.Start(device.id(), getpid()), 0) << "round " << round;
      ASSERT_EQ(control.Stop(device.id()), 0);
      server.Close();
      ASSERT_EQ(device.Delete(), 0) << "round " << round;
    }
  }
  EXPECT_EQ(CountEntries("/dev", "ublk"), nodes);
  EXPECT_EQ(CountEntries("/sys/class/ublk-char", "ublkc"), classes);
  EXPECT_TRUE(Eventually([] { return ModuleReferences() == 0; }))
      << "module references: " << ModuleReferences();
}

TEST(Module, IsKeptByAnOpenCharDeviceAndUnloadsWithIdleDevices_R73) {
  uint32_t id;
  {
    Control control;
    ublksrv_ctrl_dev_info info = InfoOf({});
    ASSERT_EQ(control.Add(info), 0);
    id = info.dev_id;
  }
  ASSERT_TRUE(Eventually([] { return ModuleReferences() == 0; }));
  const int fd = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_NE(UnloadDriver(), 0) << "the char device is open";
  close(fd);
  EXPECT_TRUE(Eventually([] { return UnloadDriver() == 0; }))
      << "an idle device must not keep the module";
  EXPECT_FALSE(PathExists("/dev/ublk-control"));
  EXPECT_FALSE(PathExists(CharPath(id)));
  ASSERT_TRUE(LoadDriver());
}

// GTEST_REPEAT=10 makes it two hundred times.
TEST(Module, GoesAndComesBackAfterALoad_R73) {
  for (int round = 0; round < 20; ++round) {
    {
      const Geometry geometry = {.queues = 2};
      Control control;
      Device device(control, geometry);
      const SharedMemory ram(geometry.bytes);
      ServerProcess server(device.id(), device.geometry(), RamHandler(ram.data()));
      ASSERT_EQ(control.Start(device.id(), server.pid()), 0);
      VerifiedLoad load(device.disk(), 2);
      ASSERT_TRUE(Eventually([&] { return load.done() > 50; }));
      if (round % 2 == 0) {
        load.Finish();
        EXPECT_EQ(load.errors(), 0);
      } else {
        server.Kill();
      }
      load.Finish();
      EXPECT_EQ(load.wrong(), 0);
      EXPECT_EQ(device.Delete(), 0);
    }
    ASSERT_TRUE(Eventually([] { return UnloadDriver() == 0; })) << "round " << round;
    ASSERT_TRUE(LoadDriver());
  }
}

// What `make install` and DKMS do.
TEST(Module, TakesThePlaceOfTheKernelsOwnAndGivesItBack) {
  const char* ours = std::getenv("UBLK_DRV_KO");
  if (ours == nullptr) GTEST_SKIP() << "the module is not ours";
  utsname kernel = {};
  ASSERT_EQ(uname(&kernel), 0);
  const std::string updates = std::string("/lib/modules/") + kernel.release + "/updates";
  const auto run = [](const std::string& command) { return std::system(command.c_str()); };
  const auto unload = [] { return Eventually([] { return UnloadDriver() == 0; }); };
  ASSERT_TRUE(unload());
  const bool has_own = run("modprobe -q ublk_drv") == 0;
  if (has_own) {
    EXPECT_FALSE(DriverIsOurs());
    ASSERT_TRUE(unload());
  }

  ASSERT_EQ(run("mkdir -p " + updates + " && cp " + ours + " " + updates + " && depmod"), 0);
  EXPECT_EQ(run("modprobe ublk_drv"), 0);
  EXPECT_TRUE(DriverIsOurs()) << "the kernel's own driver goes first";
  ASSERT_TRUE(unload());
  ASSERT_EQ(run("rm -r " + updates + " && depmod"), 0);
  EXPECT_EQ(run("modprobe -q ublk_drv") == 0, has_own);
  if (has_own) {
    EXPECT_FALSE(DriverIsOurs());
    ASSERT_TRUE(unload());
  }
  ASSERT_TRUE(LoadDriver());
}

}  // namespace
}  // namespace ublkd::driver_test
