// SPDX-License-Identifier: Apache-2.0
//
// What the device manager does with a driver that is missing and with the devices of a server that
// was killed.
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "tests/unit/volume/device_fixture.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

using DeviceHousekeepingTest = DeviceFixture;

TEST_F(DeviceHousekeepingTest, WithoutADriverEveryCallSaysSoAndItIsPickedUp) {
  factory_.SetState(absl::UnavailableError("no driver: it is not loaded; load it"));
  Start();
  for (const absl::Status& status :
       {devices_->Create(NullDevice()).status(), devices_->Delete(0), devices_->Get(0).status(),
        devices_->List().status(), devices_->Readiness()}) {
    EXPECT_THAT(status, Refused(StatusCode::kUnavailable, "load it"));
  }
  EXPECT_THAT(devices_->Started(), IsOk()) << "volumes are served without a driver";
  EXPECT_TRUE(devices_->Driver().features.empty());
  factory_.SetState(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return devices_->Readiness().ok(); }));
  EXPECT_EQ(devices_->Driver().version, "1.2.3");
  EXPECT_THAT(devices_->Create(NullDevice()), IsOk());
}

TEST_F(DeviceHousekeepingTest, ADriverThatIsUnloadedAndLoadedAgainIsNoticed) {
  Start();
  ASSERT_THAT(devices_->Readiness(), IsOk());
  factory_.SetState(absl::UnavailableError("no driver: it is not loaded; load it"));
  EXPECT_THAT(devices_->Create(NullDevice()), Refused(StatusCode::kUnavailable, "driver"));
  factory_.SetState(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return devices_->Create(NullDevice()).ok(); }));
}

TEST_F(DeviceHousekeepingTest, WithoutPermissionTheReasonIsPassedOn) {
  factory_.SetState(absl::PermissionDeniedError("control device: not allowed; run as root"));
  Start();
  EXPECT_THAT(devices_->Create(NullDevice()), Refused(StatusCode::kPermissionDenied, "root"));
}

TEST_F(DeviceHousekeepingTest, TheDeviceOfAKilledServerIsRemoved) {
  for (const pid_t server : {pid_t{-1}, kDeadServer, getpid()}) {
    LeaveRecord(4);
    factory_.AddForeign(4, server);
    Start();
    EXPECT_THAT(factory_.kernel(), IsEmpty()) << "server " << server;
    EXPECT_THAT(Records(), IsEmpty());
  }
  EXPECT_THAT(factory_.removed(), ElementsAre(4, 4, 4));
}

TEST_F(DeviceHousekeepingTest, WhatOthersMadeIsLeftAlone) {
  LeaveRecord(1);
  factory_.AddForeign(1, getppid());
  factory_.AddForeign(2, -1);
  factory_.AddForeign(3, getppid());
  Start();
  EXPECT_THAT(factory_.removed(), IsEmpty());
  EXPECT_EQ(factory_.kernel().size(), 3u);
  EXPECT_THAT(Records(), IsEmpty()) << "the id of the lost device belongs to somebody else now";

  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  EXPECT_EQ(devices_->List()->size(), 1u);
  const auto all = devices_->List(/*all=*/true);
  ASSERT_THAT(all, IsOk());
  ASSERT_EQ(all->size(), 4u);
  EXPECT_FALSE((*all)[0].foreign);
  EXPECT_EQ((*all)[0].server_pid, getpid());
  EXPECT_TRUE((*all)[1].foreign);
  EXPECT_EQ((*all)[1].server_pid, getppid());
  EXPECT_EQ((*all)[1].path, "/dev/ublkb1");
  EXPECT_EQ((*all)[2].state, DeviceState::kQuiesced);
  EXPECT_EQ((*all)[2].server_pid, 0);
  EXPECT_EQ(devices_->Get(2).status().code(), StatusCode::kNotFound);
}

TEST_F(DeviceHousekeepingTest, RecordsOfAnEarlierBootAndOfGoneDevicesAreForgotten) {
  LeaveRecord(1, "p/a", "boot-1");
  factory_.AddForeign(1, -1);
  LeaveRecord(2);
  dir_.Write("devices/7.json.new", "torn");
  Start();
  EXPECT_THAT(Records(), UnorderedElementsAre("7.json.new"));
  EXPECT_THAT(factory_.removed(), IsEmpty());
}

TEST_F(DeviceHousekeepingTest, ARecordFromTheFutureIsLeftUntouchedAndItsIdIsNotUsed) {
  const std::string future = absl::StrReplaceAll(EncodeDeviceRecord(LeaveRecord(0)),
                                                 {{"\"version\": 2", "\"version\": 9"}});
  dir_.Write("devices/0.json", future);
  dir_.Write("devices/1.json", "garbage");
  factory_.AddForeign(0, -1);
  Start();
  EXPECT_EQ(devices_->Create(NullDevice())->id, 2u);
  DeviceSpec request = NullDevice();
  request.id = 1;
  EXPECT_THAT(devices_->Create(request), Refused(StatusCode::kAlreadyExists, "1.json"));
  EXPECT_EQ(dir_.Read("devices/0.json"), future);
  EXPECT_EQ(dir_.Read("devices/1.json"), "garbage");
  EXPECT_EQ(factory_.kernel().count(0), 1u);
}

TEST_F(DeviceHousekeepingTest, CallsAreUnavailableUntilLeftoversAreGone) {
  LeaveRecord(4);
  factory_.AddForeign(4, -1);
  factory_.HoldRemove(true);
  Start(/*wait=*/false);
  factory_.WaitUntilHeld();
  EXPECT_THAT(devices_->Create(NullDevice()), Refused(StatusCode::kUnavailable, "starting"));
  EXPECT_THAT(devices_->Delete(4), Refused(StatusCode::kUnavailable, "starting"));
  EXPECT_THAT(devices_->Started(), Refused(StatusCode::kUnavailable, "starting"));
  factory_.HoldRemove(false);
  devices_->WaitForFirstLook();
  EXPECT_THAT(devices_->Create(NullDevice()), IsOk());
}

TEST_F(DeviceHousekeepingTest, TwoServersDoNotShareTheirRecords) {
  Start();
  EXPECT_THAT(DeviceRecords::Open(dir_.File("devices")),
              Refused(StatusCode::kFailedPrecondition, "another ublkd"));
}

DeviceRecord Sample(DeviceSpec spec) {
  DeviceRecord record;
  record.spec = std::move(spec);
  record.spec.id = 12;
  record.spec.queues = 3;
  record.spec.depth = 64;
  record.spec.max_io_bytes = 1 << 20;
  record.spec.logical_block_bytes = 4096;
  record.spec.read_only = true;
  record.flags = 0xffff'ffff'ffff'fffeu;
  record.boot_id = "b";
  record.server_pid = 77;
  record.generation = 5;
  record.created_at = absl::FromUnixMicros(1'700'000'000'123'456);
  return record;
}

TEST(DeviceRecord, ComesBackAsItWasWritten) {
  for (const DeviceSpec& spec : {NullDevice(123), FileDevice("/a \"b\""), VolumeDevice("p/a")}) {
    const std::string written = EncodeDeviceRecord(Sample(spec));
    const auto read = DecodeDeviceRecord(written);
    ASSERT_THAT(read, IsOk());
    EXPECT_EQ(EncodeDeviceRecord(*read), written);
    EXPECT_EQ(DescribeTarget(read->spec), DescribeTarget(spec));
    EXPECT_EQ(read->flags, 0xffff'ffff'ffff'fffeu);
    EXPECT_EQ(read->spec.id, 12u);
    EXPECT_TRUE(read->spec.read_only);
  }
}

TEST(DeviceRecord, LimitsComeBack) {
  DeviceRecord record = Sample(FileDevice("/x"));
  record.spec.limits = {
      .iops = 1, .burst_ios = 2, .bytes_per_second = uint64_t{1} << 40, .burst_bytes = 4096};
  const std::string written = EncodeDeviceRecord(record);
  EXPECT_THAT(written, HasSubstr("\"version\": 3")) << "an older ublkd must not drop the limits";
  const auto read = DecodeDeviceRecord(written);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->spec.limits, record.spec.limits);
  EXPECT_EQ(EncodeDeviceRecord(*read), written);
  record.spec.limits = target::IoLimits();
  EXPECT_THAT(EncodeDeviceRecord(record), HasSubstr("\"version\": 2"))
      << "an older ublkd may serve a device without limits";
  EXPECT_THAT(DecodeDeviceRecord(absl::StrReplaceAll(written, {{"\"burst_ios\": 2,", ""}})),
              Refused(StatusCode::kDataLoss, "burst_ios"));
}

TEST(DeviceRecord, Version2IsReadAsUnlimited) {
  const auto read = DecodeDeviceRecord(R"({
    "format": "ublkd-device", "version": 2, "id": 0,
    "spec": {"target": {"type": "volume", "volume_id": "fast/a"}, "queues": 1, "depth": 128,
             "max_io_bytes": 524288, "logical_block_bytes": 512, "read_only": false},
    "flags": 64, "boot_id": "b", "server_pid": 1, "generation": 1,
    "created_at": "2026-01-31T12:00:00+00:00"})");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(DescribeTarget(read->spec), "volume fast/a");
  EXPECT_EQ(read->spec.limits, target::IoLimits());
  EXPECT_EQ(read->spec.threads_per_queue, 1u);
}

TEST(DeviceRecord, OnlyWhatAnOlderUblkdCannotServeHasANewVersion) {
  DeviceRecord record = Sample(VolumeDevice("p/a"));
  record.spec.buffers = ublk::BufferMode::kCopy;
  EXPECT_THAT(EncodeDeviceRecord(record), testing::HasSubstr("\"version\": 2"));
  record.spec.buffers = ublk::BufferMode::kZeroCopy;
  const std::string written = EncodeDeviceRecord(record);
  EXPECT_THAT(written, testing::HasSubstr("\"version\": 3"));
  const auto read = DecodeDeviceRecord(written);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->spec.buffers, ublk::BufferMode::kZeroCopy);
  EXPECT_THAT(DecodeDeviceRecord(absl::StrReplaceAll(written, {{"zero-copy", "no-copy"}})),
              Refused(StatusCode::kDataLoss, "no-copy"));
}

TEST(DeviceRecord, DamageIsRefusedAndNeverCrashes) {
  const std::string good = EncodeDeviceRecord(Sample(FileDevice("/x")));
  for (size_t length = 0; length + 2 < good.size(); ++length) {
    EXPECT_FALSE(DecodeDeviceRecord(good.substr(0, length)).ok()) << "cut after " << length;
  }
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x15);
    (void)DecodeDeviceRecord(bad);
  }
  EXPECT_THAT(DecodeDeviceRecord(absl::StrReplaceAll(good, {{"\"version\": 2", "\"version\": 4"}})),
              Refused(StatusCode::kFailedPrecondition, "newer"));
}

}  // namespace
}  // namespace ublkd::volume
