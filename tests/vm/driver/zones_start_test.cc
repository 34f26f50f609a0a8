// SPDX-License-Identifier: Apache-2.0
//
// START_DEV of a zoned device waits for its server to report the zones. That may fail, or not come.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/zoned_disk.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kZonedFlags = UBLK_F_ZONED | UBLK_F_USER_COPY;
constexpr std::chrono::milliseconds kShort{200};
// What is promised is one second; an emulated, shared machine gets some slack.
constexpr std::chrono::milliseconds kNoticeLimit{5000};
using Report = ZoneServer::Report;

Geometry ZonedGeometry(uint64_t more_flags = 0) {
  Geometry geometry;
  geometry.flags = kZonedFlags | more_flags;
  geometry.bytes = 8 << 20;
  geometry.discard = false;
  geometry.zone_bytes = 1 << 20;
  return geometry;
}

// A device that is not started yet.
class ZonedStart : public testing::Test {
 protected:
  void Make(uint64_t more_flags = 0) {
    const Geometry geometry = ZonedGeometry(more_flags);
    zones_ = std::make_unique<ZoneServer>(geometry);
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
  }
  void ServeHere() { server_ = NextServer(id(), device_->geometry(), zones_->handler()); }
  void ServeInAProcess() {
    shared().served = false;
    process_ = std::make_unique<ServerProcess>([&] {
      const auto server = NextServer(id(), device_->geometry(), zones_->handler());
      shared().served = true;
      server->Close();
    });
    ASSERT_TRUE(Eventually([&] { return shared().served.load(); }));
  }
  // START_DEV that waits for a report which the server keeps.
  void StartAndWait(pid_t server) {
    shared().report = Report::kKeep;
    control_.Send(UBLK_U_CMD_START_DEV, {.dev_id = id(), .data = static_cast<uint64_t>(server)});
    ASSERT_TRUE(Eventually([&] { return shared().reports == 1; })) << "no report was asked for";
  }
  // The whole life of the device once more.
  void ExpectStartable() {
    shared().report = Report::kAnswer;
    ServeInAProcess();
    EXPECT_EQ(control_.Start(id(), process_->pid()), 0) << "the device can't be started again";
    const int fd = open(device_->disk().c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_GE(fd, 0);
    EXPECT_TRUE(ReportZones(fd, 0, 8).has_value());
    close(fd);
    EXPECT_EQ(control_.Stop(id()), 0);
    EXPECT_TRUE(process_->Wait().has_value()) << "the server does not end";
  }
  uint32_t id() const { return device_->id(); }
  ZoneServer::Shared& shared() { return *zones_->shared(); }

  Control control_;
  Control other_;
  std::unique_ptr<ZoneServer> zones_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<ServerProcess> process_;
};

TEST_F(ZonedStart, FailsWithTheReportAndCanBeRepeated) {
  Make();
  ServeHere();
  for (int round = 0; round < 3; ++round) {
    shared().report = Report::kFail;
    EXPECT_LT(control_.Start(id(), getpid()), 0) << "round " << round;
    EXPECT_FALSE(PathExists(device_->disk()));
    EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
  }
  ASSERT_EQ(control_.Stop(id()), 0);
  server_->Close();
  ExpectStartable();
}

// The kernel's own structures follow from what the server says.
TEST_F(ZonedStart, FailsWhenTheReportIsNonsense) {
  using Distort = std::function<void(blk_zone&)>;
  const std::pair<const char*, Distort> cases[] = {
      {"no zones", [](blk_zone& z) { z = {}; }},
      {"zones of no type", [](blk_zone& z) { z.type = 0x77; }},
      {"zones twice as long", [](blk_zone& z) { z.len *= 2; }},
      {"zones half as long", [](blk_zone& z) { z.len /= 2; }},
      {"a gap", [](blk_zone& z) { z.start += z.start == 0 ? 0 : 8; }},
      {"zones beyond the disk", [](blk_zone& z) { z.start += uint64_t{1} << 40; }},
      {"one huge zone and many small ones",
       [](blk_zone& z) {
         z.type = BLK_ZONE_TYPE_CONVENTIONAL;
         z.cond = BLK_ZONE_COND_NOT_WP;
         const uint64_t i = z.start / 2048;
         z.start = i == 0 ? 0 : 8191 + i;
         z.len = i == 0 ? 8192 : 1;
       }},
  };
  Make();
  for (const auto& [what, distort] : cases) {
    zones_->distort = distort;
    shared().report = Report::kDistort;
    ServeHere();
    EXPECT_LT(control_.Start(id(), getpid()), 0) << what;
    EXPECT_EQ(control_.Stop(id()), 0);
    server_->Close();
  }
  ExpectStartable();
}

TEST_F(ZonedStart, EndsWithItsServer_R64) {
  Make();
  ServeInAProcess();
  StartAndWait(process_->pid());
  EXPECT_EQ(control_.Finish(kShort), std::nullopt) << "it waits for the report";
  process_->Kill();
  const auto result = control_.Finish(kNoticeLimit);
  ASSERT_TRUE(result.has_value()) << "START_DEV hangs though its server is dead";
  EXPECT_LT(*result, 0);
  EXPECT_FALSE(PathExists(device_->disk()));
  ExpectStartable();
}

TEST_F(ZonedStart, EndsWithItsServerThoughTheNextOneGetsItsRequests_R64_R67) {
  Make(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE);
  ServeInAProcess();
  StartAndWait(process_->pid());
  process_->Kill();
  const auto result = control_.Finish(kNoticeLimit);
  ASSERT_TRUE(result.has_value()) << "START_DEV hangs though its server is dead";
  EXPECT_LT(*result, 0) << "there is no disk yet that a next server could take over";
  EXPECT_EQ(control_.State(id()), UBLK_S_DEV_DEAD);
  ExpectStartable();
}

TEST_F(ZonedStart, IsRefusedWhileAnotherWaits_R16) {
  Make();
  ServeHere();
  StartAndWait(getpid());
  EXPECT_EQ(other_.Start(id(), getpid()), -EBUSY);
  server_->InThread(0, [](QueueServer& q) { q.Commit(q.kept()[0], -EIO); });
  EXPECT_LT(control_.Finish(kNoticeLimit).value_or(1), 0);
  EXPECT_EQ(control_.Stop(id()), 0);
  server_->Close();
  ExpectStartable();
}

TEST_F(ZonedStart, StopMeanwhileEndsIt_R16_R17) {
  Make();
  ServeHere();
  StartAndWait(getpid());
  EXPECT_EQ(other_.Stop(id()), 0) << "there is no disk to wait for";
  EXPECT_EQ(control_.Finish(kShort), std::nullopt) << "the server still has the request";
  server_->InThread(
      0, [](QueueServer& q) { q.Commit(q.kept()[0], static_cast<int>(8 * sizeof(blk_zone))); });
  EXPECT_LT(control_.Finish(kNoticeLimit).value_or(1), 0) << "the device was to be stopped";
  EXPECT_FALSE(PathExists(device_->disk()));
  server_->Close();
  ExpectStartable();
}

// Whoever sends START_DEV need not be the server.
TEST_F(ZonedStart, CanBeKilledWhileItWaitsAndThenThereIsNoDisk_R16) {
  Make();
  ServeHere();
  shared().report = Report::kKeep;
  ServerProcess client([&] { Control().Start(id(), getppid()); });
  ASSERT_TRUE(Eventually([&] { return shared().reports == 1; })) << "no report was asked for";
  kill(client.pid(), SIGKILL);
  EXPECT_TRUE(client.Wait().has_value()) << "the client can't be killed";
  server_->InThread(
      0, [](QueueServer& q) { q.Commit(q.kept()[0], static_cast<int>(8 * sizeof(blk_zone))); });
  shared().report = Report::kFail;
  ASSERT_TRUE(Eventually([&] { return control_.Start(id(), getpid()) != -EBUSY; }))
      << "the first start does not end";
  EXPECT_FALSE(PathExists(device_->disk())) << "a disk that nobody asked for any more";
  EXPECT_EQ(control_.Stop(id()), 0);
  server_->Close();
  ExpectStartable();
}

TEST_F(ZonedStart, DeleteMeanwhileEndsIt_R19) {
  Make();
  ServeInAProcess();
  StartAndWait(process_->pid());
  other_.Send(UBLK_U_CMD_DEL_DEV, {.dev_id = id()});
  EXPECT_EQ(other_.Finish(kShort), std::nullopt) << "the server still has the device";
  process_->Kill();
  EXPECT_LT(control_.Finish(kNoticeLimit).value_or(1), 0);
  EXPECT_EQ(other_.Finish(kNoticeLimit), 0);
  device_->Forget();
}

TEST_F(ZonedStart, ADeadServerFailsAReportOfTheDisk_R60) {
  Make();
  ServeInAProcess();
  ASSERT_EQ(control_.Start(id(), process_->pid()), 0);
  const int fd = open(device_->disk().c_str(), O_RDWR | O_CLOEXEC);
  const int before = shared().reports;
  shared().report = Report::kKeep;
  std::atomic<int> error = 0;
  std::thread user([&] { error = ReportZones(fd, 0, 8).has_value() ? 0 : errno; });
  EXPECT_TRUE(Eventually([&] { return shared().reports > before; }));
  process_->Kill();
  user.join();
  EXPECT_EQ(error, EIO);
  close(fd);
  EXPECT_EQ(device_->Delete(), 0);
}

}  // namespace
}  // namespace ublkd::driver_test
