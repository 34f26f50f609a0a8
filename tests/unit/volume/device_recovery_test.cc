// SPDX-License-Identifier: Apache-2.0
//
// Disks that outlive their server: left at its end, taken over by the next one.
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "daemon/base/unix_socket.h"
#include "tests/unit/volume/device_fixture.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class DeviceRecoveryTest : public DeviceFixture {
 protected:
  DeviceRecoveryTest() { factory_.OutliveServers(); }

  /// As a server has it that was killed while it served a volume.
  void LeaveDevice(uint32_t id, const std::string& volume_id, pid_t server_in_kernel) {
    LeaveRecord(id, volume_id);
    factory_.AddLeft(id, server_in_kernel);
  }
  DeviceRecord RecordOf(uint32_t id) const {
    return *DecodeDeviceRecord(dir_.Read("devices/" + std::to_string(id) + ".json"));
  }
  bool IsLive(uint32_t id) {
    const auto device = devices_->Get(id);
    return device.ok() && device->state == DeviceState::kLive;
  }
};

TEST_F(DeviceRecoveryTest, WhatIsLeftAtTheEndIsTakenOverAtTheStart) {
  MakeVolume("a");
  Start();
  const auto made = devices_->Create(VolumeDevice("p/a"));
  ASSERT_THAT(made, IsOk());
  factory_.SetInUse(made->id, true);
  for (uint64_t generation = 2; generation < 5; ++generation) {
    devices_->Shutdown(std::chrono::milliseconds(0));
    EXPECT_THAT(factory_.kernel(), UnorderedElementsAre(Pair(made->id, -1)));
    EXPECT_THAT(factory_.forced(), IsEmpty());
    Start();
    ASSERT_TRUE(IsLive(made->id));
    EXPECT_EQ(RecordOf(made->id).generation, generation);
    EXPECT_EQ(RecordOf(made->id).server_pid, getpid());
    const auto again = devices_->Create(VolumeDevice("p/a"));
    ASSERT_THAT(again, IsOk()) << "the caller that did not get its answer asks again";
    EXPECT_EQ(again->id, made->id);
    EXPECT_EQ(again->created_at, made->created_at);
    EXPECT_EQ(devices_->Recoveries().taken_over, 1u);
    EXPECT_EQ(devices_->Recoveries().failed, 0u);
  }
  EXPECT_THAT(factory_.removed(), IsEmpty());
}

TEST_F(DeviceRecoveryTest, DevicesOfAKilledServerAreTakenOver) {
  constexpr int kDevices = 100;
  for (int i = 0; i < kDevices; ++i) {
    const std::string name = "v" + std::to_string(i);
    MakeVolume(name);
    LeaveDevice(static_cast<uint32_t>(i), "p/" + name, i % 2 == 0 ? kDeadServer : -1);
  }
  Start();
  for (uint32_t id = 0; id < kDevices; ++id) EXPECT_TRUE(IsLive(id)) << id;
  EXPECT_EQ(devices_->Recoveries().taken_over, uint64_t{kDevices});
  EXPECT_THAT(factory_.removed(), IsEmpty());
}

TEST_F(DeviceRecoveryTest, WhatCannotBeTakenOverWaitsAndIsTriedAgain) {
  MakeVolume("a");
  LeaveDevice(3, "p/a", -1);
  factory_.FailRecovery(absl::InternalError("the data is somewhere else"));
  Start();
  const auto waiting = devices_->Get(3);
  ASSERT_THAT(waiting, IsOk());
  EXPECT_NE(waiting->state, DeviceState::kLive);
  EXPECT_EQ(waiting->reason, "the data is somewhere else");
  EXPECT_EQ(waiting->size_bytes, FakeDevices::kLeftBytes);
  EXPECT_EQ(waiting->major, 0xf0u);
  EXPECT_EQ(waiting->minor, 3u);
  EXPECT_EQ(devices_->Snapshot().size(), 1u);
  // ABORTED while it is being tried again.
  absl::Status deleted;
  EXPECT_TRUE(Eventually([&] {
    deleted = volumes_->Delete("p/a");
    return !absl::IsAborted(deleted);
  }));
  EXPECT_THAT(deleted, Refused(StatusCode::kFailedPrecondition, "3"))
      << "its users wait for the data";
  EXPECT_TRUE(Eventually([&] {
    return absl::IsUnavailable(devices_->Create(VolumeDevice("p/a")).status());
  })) << "it must not be served twice";
  EXPECT_TRUE(Eventually([&] { return devices_->Recoveries().failed > 2; }));
  EXPECT_EQ(Records().size(), 1u);

  factory_.FailRecovery(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return IsLive(3); }));
  EXPECT_EQ(devices_->Get(3)->reason, "");
}

TEST_F(DeviceRecoveryTest, DataThatDoesNotAnswerHoldsUpNobodyElse) {
  for (const char* name : {"a", "b", "c"}) MakeVolume(name);
  LeaveDevice(0, "p/a", -1);
  LeaveDevice(1, "p/b", -1);
  factory_.HoldRecovery(0, true);
  recovery_limit_ = std::chrono::milliseconds(50);
  Start();
  EXPECT_TRUE(Eventually([&] { return IsLive(1); }));
  EXPECT_THAT(devices_->Create(VolumeDevice("p/c")), IsOk()) << "calls are served";
  const auto view = devices_->Get(0);
  ASSERT_THAT(view, IsOk());
  EXPECT_EQ(view->state, DeviceState::kRecovering);
  EXPECT_THAT(view->reason, ::testing::HasSubstr("does not answer"));
  EXPECT_THAT(devices_->Delete(0), Refused(StatusCode::kAborted, "busy"));

  // It answers with an error, is tried again, and answers.
  factory_.FailRecovery(absl::FailedPreconditionError("the file is shorter"));
  factory_.HoldRecovery(0, false);
  EXPECT_TRUE(Eventually([&] { return devices_->Get(0)->reason == "the file is shorter"; }));
  factory_.FailRecovery(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return IsLive(0); }));
  EXPECT_EQ(devices_->Get(0)->reason, "");
}

TEST_F(DeviceRecoveryTest, WhatWaitsIsDetachedUnlessItIsInUse) {
  MakeVolume("a");
  LeaveDevice(3, "p/a", -1);
  factory_.FailRecovery(absl::InternalError("the data is somewhere else"));
  factory_.SetInUse(3, true);
  Start();
  absl::Status deleted;
  const auto has_its_turn = [&] {
    deleted = devices_->Delete(3);
    return !absl::IsAborted(deleted);
  };
  ASSERT_TRUE(Eventually(has_its_turn));
  EXPECT_THAT(deleted, Refused(StatusCode::kFailedPrecondition, "in use"));
  EXPECT_EQ(factory_.kernel().size(), 1u);
  factory_.SetInUse(3, false);
  ASSERT_TRUE(Eventually(has_its_turn));
  EXPECT_THAT(deleted, IsOk());
  EXPECT_THAT(factory_.kernel(), IsEmpty());
  EXPECT_THAT(Records(), IsEmpty());
  EXPECT_THAT(volumes_->Delete("p/a"), IsOk());
}

TEST_F(DeviceRecoveryTest, ADeviceWhoseVolumeIsGoneWaits) {
  LeaveDevice(3, "p/a", -1);
  Start();
  ASSERT_THAT(devices_->Get(3), IsOk());
  EXPECT_THAT(devices_->Get(3)->reason, ::testing::HasSubstr("p/a"));
  VolumeRequest request;
  request.name = "a";
  request.size_bytes = kMiB;
  // ABORTED while the device is being tried again.
  EXPECT_TRUE(Eventually([&] { return volumes_->Create("p", request).ok(); }));
  EXPECT_TRUE(Eventually([&] { return IsLive(3); }));
}

TEST_F(DeviceRecoveryTest, WhatADeviceOfANewerUblkdServesIsServedByNoOther) {
  MakeVolume("a");
  MakeVolume("b");
  for (const auto& [id, volume] : {std::pair(3u, "p/a"), std::pair(4u, "p/b")}) {
    LeaveRecord(id, volume);
    const std::string path = "devices/" + std::to_string(id) + ".json";
    dir_.Write(path, absl::StrReplaceAll(dir_.Read(path), {{"\"version\": 2", "\"version\": 99"}}));
  }
  // The other one is gone, and only its record is left.
  factory_.AddLeft(3);
  Start();
  EXPECT_THAT(devices_->Create(VolumeDevice("p/a")),
              Refused(StatusCode::kFailedPrecondition, "/dev/ublkb3"));
  EXPECT_THAT(devices_->Get(3), Refused(StatusCode::kFailedPrecondition, "devices/3.json"));
  EXPECT_THAT(volumes_->Delete("p/a"), Refused(StatusCode::kFailedPrecondition, "ublkb3"));
  EXPECT_THAT(devices_->Create(VolumeDevice("p/b")), IsOk());
}

TEST_F(DeviceRecoveryTest, ADeviceThatIsRemovedWhileItWaitsIsForgotten) {
  MakeVolume("a");
  LeaveDevice(3, "p/a", -1);
  factory_.FailRecovery(absl::InternalError("the data is somewhere else"));
  Start();
  ASSERT_THAT(devices_->Get(3), IsOk());
  ASSERT_THAT(factory_.Remove(3, ublk::StopMode::kForce), IsOk());
  EXPECT_TRUE(Eventually([&] { return absl::IsNotFound(devices_->Get(3).status()); }));
  EXPECT_THAT(Records(), IsEmpty());
  EXPECT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
}

TEST_F(DeviceRecoveryTest, ADeviceThatSomebodyQuiescedIsTakenOver) {
  MakeVolume("a");
  Start();
  const auto made = devices_->Create(VolumeDevice("p/a"));
  ASSERT_THAT(made, IsOk());
  factory_.QuiesceFromOutside(made->id);
  EXPECT_TRUE(Eventually([&] { return devices_->Recoveries().taken_over == 1; }));
  EXPECT_TRUE(IsLive(made->id));
  EXPECT_EQ(RecordOf(made->id).generation, 2u);
}

TEST_F(DeviceRecoveryTest, LimitsOutliveTheServer) {
  MakeVolume("a");
  Start();
  DeviceSpec request = VolumeDevice("p/a");
  request.limits = {.iops = 1000, .burst_ios = 7};
  ASSERT_THAT(devices_->Create(request), IsOk());
  const target::IoLimits changed = {.iops = 2000, .burst_ios = 7};
  ASSERT_THAT(devices_->SetLimits(0, changed), IsOk());
  devices_->Shutdown(std::chrono::milliseconds(0));
  Start();
  ASSERT_TRUE(IsLive(0));
  EXPECT_EQ(devices_->Get(0)->spec.limits, changed);
  EXPECT_EQ(RecordOf(0).spec.limits, changed);
}

TEST_F(DeviceRecoveryTest, LimitsOfADeviceThatWaitsAreForItsNextServer) {
  MakeVolume("a");
  LeaveDevice(3, "p/a", -1);
  factory_.FailRecovery(absl::InternalError("the data is somewhere else"));
  Start();
  const target::IoLimits limits = {.iops = 2000, .burst_ios = 7};
  // ABORTED while it is being tried again.
  ASSERT_TRUE(Eventually([&] { return devices_->SetLimits(3, limits).ok(); }));
  EXPECT_EQ(RecordOf(3).spec.limits, limits);
  const uint64_t failed = devices_->Recoveries().failed;
  EXPECT_TRUE(Eventually([&] { return devices_->Recoveries().failed > failed + 1; }))
      << "it is still tried again";
  factory_.FailRecovery(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] { return IsLive(3); }));
  EXPECT_EQ(devices_->Get(3)->spec.limits, limits);
}

TEST_F(DeviceRecoveryTest, DevicesAreStoppedAtTheEndIfThatIsWanted) {
  leave_devices_ = false;
  Start();
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  devices_->Shutdown(std::chrono::milliseconds(0));
  EXPECT_THAT(factory_.kernel(), IsEmpty());
  EXPECT_THAT(Records(), IsEmpty());
}

TEST_F(DeviceRecoveryTest, HowLongUsersWaitIsTheDevicesOrTheServersChoice) {
  fail_after_seconds_ = 300;
  Start();
  DeviceSpec own = NullDevice();
  own.fail_after_seconds = 0;
  ASSERT_THAT(devices_->Create(own), IsOk());
  const auto plain = devices_->Create(NullDevice());
  ASSERT_THAT(plain, IsOk());
  EXPECT_EQ(plain->spec.fail_after_seconds, 300u);
  EXPECT_EQ(RecordOf(0).fail_after_seconds, 0u);
  EXPECT_EQ(RecordOf(1).fail_after_seconds, 300u);
  // The next server may have another default.
  fail_after_seconds_ = 60;
  Start();
  EXPECT_EQ(RecordOf(0).fail_after_seconds, 0u);
  EXPECT_EQ(RecordOf(1).fail_after_seconds, 60u);
  EXPECT_EQ(devices_->Get(1)->spec.fail_after_seconds, 60u);
}

TEST_F(DeviceRecoveryTest, ThreadsOfAQueueOutliveTheServer) {
  Start();
  DeviceSpec spec = NullDevice();
  spec.threads_per_queue = 3;
  ASSERT_THAT(devices_->Create(spec), IsOk());
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  Start();
  EXPECT_EQ(devices_->Get(0)->spec.threads_per_queue, 3u);
  EXPECT_EQ(devices_->Get(1)->spec.threads_per_queue, 1u);
}

TEST_F(DeviceRecoveryTest, AttachingAgainWithAnotherFailAfterIsRefused) {
  MakeVolume("a");
  Start();
  DeviceSpec spec = VolumeDevice("p/a");
  spec.fail_after_seconds = 5;
  ASSERT_THAT(devices_->Create(spec), IsOk());
  EXPECT_THAT(devices_->Create(spec), IsOk());
  EXPECT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
  spec.fail_after_seconds = 0;
  EXPECT_THAT(devices_->Create(spec), Refused(StatusCode::kAlreadyExists, "fail_after"));
}

// It serves the device, and is no stranger who has taken its id.
TEST_F(DeviceRecoveryTest, WhatAGuardDoesNotLetGoOfIsNotForgotten) {
  MakeVolume("a");
  LeaveDevice(3, "p/a", getppid());
  const auto deaf = ListenOnUnixSocket(dir_.File("guard"));
  ASSERT_THAT(deaf, IsOk());
  GuardLink link(dir_.File("guard"));
  link.Start();
  ASSERT_TRUE(Eventually([&link] { return link.state() == GuardLink::State::kAsked; }));
  guard_ = &link;
  factory_.FailRecovery(absl::FailedPreconditionError("it is still served"));
  Start();
  EXPECT_EQ(devices_->Get(3)->reason, "it is still served");
  factory_.FailRecovery(absl::OkStatus());
  EXPECT_TRUE(Eventually([this] { return IsLive(3); }));
  devices_.reset();
}

// A guard that was killed, or has hung up, may serve for a moment still.
TEST_F(DeviceRecoveryTest, ADeviceWithOurCookieIsWaitedForWhoeverServesIt) {
  Start();
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  devices_->Shutdown(std::chrono::milliseconds(0));
  factory_.AddLeft(0, getppid());
  factory_.FailRecovery(absl::FailedPreconditionError("it is still served"));
  Start();
  EXPECT_EQ(devices_->Get(0)->reason, "it is still served");
  factory_.FailRecovery(absl::OkStatus());
  EXPECT_TRUE(Eventually([this] { return IsLive(0); }));
}

TEST_F(DeviceRecoveryTest, ADeviceWithAnotherCookieIsNotOursWhateverItLooksLike) {
  Start();
  for (int i = 0; i < 2; ++i) ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  devices_->Shutdown(std::chrono::milliseconds(0));
  factory_.SetCookie(0, 0);
  factory_.SetCookie(1, 1);
  Start();
  EXPECT_THAT(Records(), IsEmpty());
  EXPECT_THAT(factory_.kernel(), UnorderedElementsAre(Pair(0, -1), Pair(1, -1)));
  EXPECT_THAT(factory_.removed(), IsEmpty());
}

TEST_F(DeviceRecoveryTest, WhoWaitsIsServedByNobodyWhateverNumberIsLeft) {
  MakeVolume("a");
  LeaveDevice(3, "p/a", getppid());
  factory_.Quiesce(3);
  Start();
  EXPECT_TRUE(IsLive(3));
}

}  // namespace
}  // namespace ublkd::volume
