// SPDX-License-Identifier: Apache-2.0
//
// Devices grow while they are served.
#include <gtest/gtest.h>

#include "tests/unit/volume/device_fixture.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;

class DeviceResizeTest : public DeviceFixture {
 protected:
  DeviceResizeTest() { factory_.OutliveServers(); }
  uint32_t Attach(const DeviceSpec& spec) {
    const auto made = devices_->Create(spec);
    EXPECT_THAT(made, IsOk());
    return made.ok() ? made->id : kMaxDeviceId;
  }
  uint64_t DiskBytes(uint32_t id) { return (*factory_.Find(id))->geometry.size_bytes; }
};

TEST_F(DeviceResizeTest, ADiskGrowsWithItsVolume) {
  MakeVolume("a");
  Start();
  const uint32_t id = Attach(VolumeDevice("p/a"));
  factory_.SetInUse(id, true);
  ASSERT_THAT(volumes_->Resize("p/a", 2 * kMiB), IsOk());
  EXPECT_EQ(DiskBytes(id), 2 * kMiB);
  EXPECT_EQ(devices_->Get(id)->size_bytes, 2 * kMiB);
  EXPECT_EQ(devices_->Snapshot().front().view.size_bytes, 2 * kMiB);
  EXPECT_EQ(volumes_->AttachedTo("p/a")->disk_bytes, 2 * kMiB);
  const auto again = devices_->Create(VolumeDevice("p/a"));
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->size_bytes, 2 * kMiB);
}

TEST_F(DeviceResizeTest, ADiskWhoseDriverCannotGrowsWhenItIsAttachedAgain) {
  MakeVolume("a");
  factory_.ForbidResize();
  Start();
  const uint32_t id = Attach(VolumeDevice("p/a"));
  ASSERT_THAT(volumes_->Resize("p/a", 2 * kMiB), IsOk()) << "the volume has grown";
  EXPECT_EQ(volumes_->AttachedTo("p/a")->disk_bytes, kMiB) << "and its disk has not";
  EXPECT_EQ(devices_->Get(id)->size_bytes, kMiB);
  ASSERT_THAT(devices_->Delete(id), IsOk());
  EXPECT_EQ(devices_->Get(Attach(VolumeDevice("p/a")))->size_bytes, 2 * kMiB);
}

TEST_F(DeviceResizeTest, AServerThatWasKilledBeforeTheDiskHasGrownIsFollowedByOneThatGrowsIt) {
  MakeVolume("a");
  ASSERT_THAT(volumes_->Resize("p/a", 2 * kMiB), IsOk());
  LeaveRecord(3);
  factory_.AddLeft(3);
  Start();
  ASSERT_TRUE(Eventually([&] { return devices_->Get(3)->state == DeviceState::kLive; }));
  EXPECT_EQ(devices_->Get(3)->size_bytes, kMiB) << "the disk is what it was";
  ASSERT_THAT(volumes_->Resize("p/a", 2 * kMiB), IsOk()) << "the caller asks again";
  EXPECT_EQ(DiskBytes(3), 2 * kMiB);
}

TEST_F(DeviceResizeTest, AVolumeWhoseDeviceWaitsGrowsAndTheDiskFollows) {
  MakeVolume("a");
  LeaveRecord(3);
  factory_.AddLeft(3);
  factory_.FailRecovery(absl::InternalError("the data is somewhere else"));
  Start();
  absl::Status status;
  // ABORTED while it is being tried again.
  ASSERT_TRUE(Eventually([&] {
    status = volumes_->Resize("p/a", 2 * kMiB).status();
    return !absl::IsAborted(status);
  }));
  EXPECT_THAT(status, Refused(StatusCode::kUnavailable, "the data is somewhere else"));
  EXPECT_EQ(volumes_->Describe("p/a")->size_bytes, 2 * kMiB);
  factory_.FailRecovery(absl::OkStatus());
  ASSERT_TRUE(Eventually([&] { return volumes_->Resize("p/a", 2 * kMiB).ok(); }));
  EXPECT_EQ(DiskBytes(3), 2 * kMiB);
}

TEST_F(DeviceResizeTest, TheDeviceOfAVolumeIsNotResizedAlone) {
  MakeVolume("a");
  Start();
  const uint32_t id = Attach(VolumeDevice("p/a"));
  EXPECT_THAT(devices_->Resize(id, 2 * kMiB),
              Refused(StatusCode::kFailedPrecondition, "volume p/a; resize the volume"));
  EXPECT_EQ(DiskBytes(id), kMiB);
  EXPECT_THAT(devices_->Delete(id), IsOk());
}

TEST_F(DeviceResizeTest, NullGrowsToAnySizeAndItsRecordWithIt) {
  Start();
  const uint32_t id = Attach(NullDevice());
  const auto grown = devices_->Resize(id, 1024 * kMiB);
  ASSERT_THAT(grown, IsOk());
  EXPECT_EQ(grown->size_bytes, 1024 * kMiB);
  EXPECT_EQ(std::get<NullSpec>(grown->spec.target).size_bytes, 1024 * kMiB);
  EXPECT_THAT(devices_->Resize(id, 1024 * kMiB), IsOk());
  EXPECT_THAT(devices_->Resize(id, kMiB), Refused(StatusCode::kInvalidArgument, "shrink"));
  EXPECT_THAT(devices_->Resize(id, 0), Refused(StatusCode::kInvalidArgument, "size_bytes"));
  devices_->Shutdown(std::chrono::milliseconds(0));
  Start();
  ASSERT_EQ(devices_->Get(id)->state, DeviceState::kLive);
  EXPECT_EQ(devices_->Get(id)->size_bytes, 1024 * kMiB);
}

TEST_F(DeviceResizeTest, NullThatHasGrownBeforeItsRecordIsTakenOver) {
  DeviceRecord record;
  record.spec = NullDevice();
  record.spec.id = 3;
  record.boot_id = kThisBoot;
  record.server_pid = kDeadServer;
  dir_.Write("devices/3.json", EncodeDeviceRecord(record));
  factory_.AddLeft(3);
  factory_.SetDiskBytes(3, 4 * kMiB);
  Start();
  ASSERT_TRUE(Eventually([&] { return devices_->Get(3)->state == DeviceState::kLive; }));
  EXPECT_EQ(devices_->Get(3)->size_bytes, 4 * kMiB);
  const auto kept = DecodeDeviceRecord(dir_.Read("devices/3.json"));
  ASSERT_THAT(kept, IsOk());
  EXPECT_EQ(std::get<NullSpec>(kept->spec.target).size_bytes, 4 * kMiB);
}

TEST_F(DeviceResizeTest, AFileDeviceGrowsToWhatTheFileHasNow) {
  const std::string path = MakeFile("disk");
  Start();
  const uint32_t id = Attach(FileDevice(path));
  ASSERT_THAT(devices_->Resize(id, 0), IsOk()) << "nothing to do";
  EXPECT_THAT(devices_->Resize(id, 2 * kMiB), Refused(StatusCode::kFailedPrecondition, "as much"));
  std::filesystem::resize_file(path, 4 * kMiB);
  EXPECT_EQ(devices_->Resize(id, 2 * kMiB)->size_bytes, 2 * kMiB);
  EXPECT_EQ(devices_->Resize(id, 0)->size_bytes, 4 * kMiB);
  std::filesystem::resize_file(path, kMiB);
  EXPECT_THAT(devices_->Resize(id, 0), Refused(StatusCode::kFailedPrecondition, "shrunk"));
  EXPECT_EQ(DiskBytes(id), 4 * kMiB);
}

TEST_F(DeviceResizeTest, WhatIsNotServedHereIsRefused) {
  Start();
  EXPECT_THAT(devices_->Resize(3, kMiB), Refused(StatusCode::kNotFound, "device 3"));
  factory_.AddForeign(4, 1);
  EXPECT_THAT(devices_->Resize(4, kMiB), Refused(StatusCode::kFailedPrecondition, "process 1"));
}

TEST_F(DeviceResizeTest, OneCallAtATimeForADevice) {
  Start();
  const uint32_t id = Attach(NullDevice());
  absl::Status deleted;
  absl::Status resized;
  factory_.OnResize([&] {
    deleted = devices_->Delete(id);
    resized = devices_->Resize(id, 8 * kMiB).status();
  });
  EXPECT_THAT(devices_->Resize(id, 2 * kMiB), IsOk());
  EXPECT_THAT(deleted, Refused(StatusCode::kAborted, "busy"));
  EXPECT_THAT(resized, Refused(StatusCode::kAborted, "busy"));
  EXPECT_THAT(devices_->Delete(id), IsOk());
  EXPECT_TRUE(Records().empty());
}

TEST_F(DeviceResizeTest, ADeviceThatIsLeftMeanwhileStaysThere) {
  Start();
  const uint32_t id = Attach(NullDevice());
  factory_.OnResize([&] { devices_->Shutdown(std::chrono::milliseconds(0)); });
  (void)devices_->Resize(id, 2 * kMiB);
  EXPECT_EQ(factory_.kernel().at(id), -1) << "it waits for the next server";
  Start();
  EXPECT_EQ(devices_->Get(id)->state, DeviceState::kLive);
}

}  // namespace
}  // namespace ublkd::volume
