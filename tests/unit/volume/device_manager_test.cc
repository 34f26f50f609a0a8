// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/device_manager.h"

#include <sys/file.h>

#include <thread>

#include "tests/unit/volume/device_fixture.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class DeviceManagerTest : public DeviceFixture {
 protected:
  DeviceManagerTest() { Start(); }
  std::vector<uint32_t> Ids() {
    std::vector<uint32_t> ids;
    const auto views = devices_->List();
    EXPECT_THAT(views, IsOk());
    if (!views.ok()) return ids;
    for (const DeviceView& view : *views) ids.push_back(view.id);
    return ids;
  }
};

TEST_F(DeviceManagerTest, AnAttachedDeviceShowsEveryDefaultFilledIn) {
  const auto device = devices_->Create(NullDevice(8 * kMiB));
  ASSERT_THAT(device, IsOk());
  EXPECT_EQ(device->id, 0u);
  EXPECT_EQ(device->path, "/dev/ublkb0");
  EXPECT_EQ(device->size_bytes, 8 * kMiB);
  EXPECT_EQ(device->spec.id, 0u);
  EXPECT_EQ(device->spec.queues, 2u);
  EXPECT_EQ(device->spec.depth, 128u);
  EXPECT_EQ(device->spec.max_io_bytes, 512u << 10);
  EXPECT_EQ(device->spec.logical_block_bytes, 512u);
  EXPECT_EQ(device->spec.buffers, ublk::BufferMode::kCopy);
  EXPECT_THAT(device->features, ElementsAre("CMD_IOCTL_ENCODE", "UPDATE_SIZE"));
  EXPECT_THAT(devices_->Get(0), IsOk());
  EXPECT_THAT(devices_->Get(1), Refused(StatusCode::kNotFound, "device 1"));
}

TEST_F(DeviceManagerTest, TheRecordIsThereBeforeTheDriverHearsOfTheDevice) {
  std::string seen;
  factory_.OnCreate([&](uint32_t) { seen = dir_.Read("devices/0.json"); });
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  const auto before = DecodeDeviceRecord(seen);
  ASSERT_THAT(before, IsOk());
  EXPECT_EQ(before->boot_id, kThisBoot);
  EXPECT_EQ(before->server_pid, getpid());
  const auto after = DecodeDeviceRecord(dir_.Read("devices/0.json"));
  ASSERT_THAT(after, IsOk());
  EXPECT_NE(after->flags, 0u) << "what the driver granted is recorded as well";
  ASSERT_THAT(devices_->Delete(0), IsOk());
  EXPECT_THAT(Records(), IsEmpty());
}

TEST_F(DeviceManagerTest, AVolumeIsServedWithItsOwnBlockSize) {
  MakeVolume("a");
  const auto device = devices_->Create(VolumeDevice("p/a"));
  ASSERT_THAT(device, IsOk());
  EXPECT_EQ(device->size_bytes, kMiB);
  EXPECT_EQ(device->spec.logical_block_bytes, 4096u);
  EXPECT_EQ(devices_->AttachedTo("p/a")->device_id, 0u);
  EXPECT_THAT(volumes_->Delete("p/a"), Refused(StatusCode::kFailedPrecondition, "/dev/ublkb0"));
  ASSERT_THAT(devices_->Delete(0), IsOk());
  EXPECT_FALSE(devices_->AttachedTo("p/a").has_value());
  EXPECT_THAT(volumes_->Delete("p/a"), IsOk());
}

TEST_F(DeviceManagerTest, AttachingAgainInTheSameWayReturnsTheSameDevice) {
  MakeVolume("a");
  const std::string file = MakeFile("f");
  for (const DeviceSpec& request : {VolumeDevice("p/a"), FileDevice(file)}) {
    const auto first = devices_->Create(request);
    ASSERT_THAT(first, IsOk());
    const auto again = devices_->Create(request);
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(again->id, first->id);
    DeviceSpec exact = first->spec;
    EXPECT_EQ(devices_->Create(exact)->id, first->id) << "naming what is in effect is the same";
    DeviceSpec other = request;
    other.read_only = true;
    EXPECT_THAT(devices_->Create(other), Refused(StatusCode::kAlreadyExists, "for writing"));
    other = request;
    other.queues = 1;
    EXPECT_THAT(devices_->Create(other), Refused(StatusCode::kAlreadyExists, "another queues"));
    other = request;
    other.threads_per_queue = 2;
    EXPECT_THAT(devices_->Create(other),
                Refused(StatusCode::kAlreadyExists, "another threads_per_queue: it has 1"));
    other = request;
    other.id = 99;
    EXPECT_THAT(devices_->Create(other), Refused(StatusCode::kAlreadyExists, "99"));
  }
  EXPECT_THAT(Ids(), ElementsAre(0, 1));
}

TEST_F(DeviceManagerTest, OneFileUnderTwoNamesIsOneTarget) {
  const std::string file = MakeFile("f");
  std::filesystem::create_symlink(file, dir_.File("files/link"));
  ASSERT_THAT(devices_->Create(FileDevice(file)), IsOk());
  const auto again = devices_->Create(FileDevice(dir_.File("files/link")));
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->id, 0u);
}

TEST_F(DeviceManagerTest, TheLowestFreeIdIsTaken) {
  factory_.AddForeign(1, getppid());
  factory_.AddForeign(2, getppid());
  factory_.Hide(2);
  for (int i = 0; i < 3; ++i) ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  EXPECT_THAT(Ids(), ElementsAre(0, 3, 4)) << "1 is foreign, 2 turned out to be when it was used";
  ASSERT_THAT(devices_->Delete(0), IsOk());
  EXPECT_EQ(devices_->Create(NullDevice())->id, 0u);
  EXPECT_THAT(Records(), UnorderedElementsAre("0.json", "3.json", "4.json"));
}

TEST_F(DeviceManagerTest, ABusyIdIsRefused) {
  factory_.AddForeign(5, getppid());
  DeviceSpec request = NullDevice();
  request.id = 5;
  EXPECT_THAT(devices_->Create(request), Refused(StatusCode::kAlreadyExists, "id 5"));
  factory_.Hide(5);
  EXPECT_THAT(devices_->Create(request), Refused(StatusCode::kAlreadyExists, "id 5"));
  request.id = 6;
  ASSERT_THAT(devices_->Create(request), IsOk());
  EXPECT_THAT(devices_->Create(request), Refused(StatusCode::kAlreadyExists, "id 6"));
  EXPECT_THAT(Records(), UnorderedElementsAre("6.json"));
}

TEST_F(DeviceManagerTest, EachBadInputHasItsOwnSentenceAndChangesNothing) {
  MakeVolume("a");
  ASSERT_THAT(volumes_->Get("p/a"), IsOk());
  const std::string good = MakeFile("good");
  const std::string locked = MakeFile("locked");
  const UniqueFd holder(open(locked.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  const std::string read_only = MakeFile("read-only");
  ASSERT_EQ(chmod(read_only.c_str(), 0400), 0);
  std::filesystem::create_directory(dir_.File("files/folder"));
  const auto with = [&](auto change) {
    DeviceSpec spec = FileDevice(good);
    change(spec);
    return spec;
  };
  const struct {
    DeviceSpec spec;
    StatusCode code;
    std::string words;
  } cases[] = {
      {FileDevice(dir_.File("files/none")), StatusCode::kNotFound, "files/none"},
      {FileDevice(dir_.File("files/folder")), StatusCode::kFailedPrecondition, "files/folder"},
      {FileDevice(MakeFile("empty", 0)), StatusCode::kFailedPrecondition, "files/empty"},
      {FileDevice(read_only), StatusCode::kFailedPrecondition, "read-only"},
      {FileDevice(MakeFile("odd", kMiB + 1)), StatusCode::kInvalidArgument, "files/odd"},
      {FileDevice(locked), StatusCode::kAlreadyExists, "files/locked"},
      {FileDevice("relative/path"), StatusCode::kInvalidArgument, "spec.file.path"},
      {FileDevice(""), StatusCode::kInvalidArgument, "spec.file.path"},
      {FileDevice(dir_.path() + "/files/../x"), StatusCode::kInvalidArgument, "spec.file.path"},
      {FileDevice("/" + std::string(5000, 'x')), StatusCode::kInvalidArgument, "spec.file.path"},
      {FileDevice(std::string("/a\0b", 4)), StatusCode::kInvalidArgument, "spec.file.path"},
      {FileDevice(dir_.File("pool/a.img")), StatusCode::kInvalidArgument, "belongs to pool p"},
      {FileDevice("/dev/null"), StatusCode::kFailedPrecondition, "/dev/null"},
      {VolumeDevice("p/none"), StatusCode::kNotFound, "p/none"},
      {VolumeDevice("q/a"), StatusCode::kNotFound, "pool q"},
      {VolumeDevice("../a"), StatusCode::kInvalidArgument, "spec.volume.volume_id"},
      {VolumeDevice(""), StatusCode::kInvalidArgument, "spec.volume.volume_id"},
      {NullDevice(0), StatusCode::kInvalidArgument, "spec.null.size_bytes"},
      {NullDevice(1000), StatusCode::kInvalidArgument, "spec.null.size_bytes"},
      {with([](DeviceSpec& spec) { spec.queues = kCpus + 1; }), StatusCode::kInvalidArgument,
       "spec.queues: 5 is out of range; give 1 to 4"},
      {with([](DeviceSpec& spec) { spec.depth = 4097; }), StatusCode::kInvalidArgument,
       "spec.depth: 4097 is out of range; give 1 to 4096"},
      {with([](DeviceSpec& spec) { spec.depth = 1u << 20; }), StatusCode::kInvalidArgument,
       "spec.depth"},
      {with([](DeviceSpec& spec) { spec.threads_per_queue = 17; }), StatusCode::kInvalidArgument,
       "spec.threads_per_queue: 17 is out of range; give 1 to 16"},
      {with([](DeviceSpec& spec) {
         spec.depth = 2;
         spec.threads_per_queue = 3;
       }),
       StatusCode::kInvalidArgument, "spec.threads_per_queue: 3 is out of range; give 1 to 2"},
      {with([](DeviceSpec& spec) { spec.max_io_bytes = 5000; }), StatusCode::kInvalidArgument,
       "spec.max_io_bytes"},
      {with([](DeviceSpec& spec) { spec.logical_block_bytes = 1024; }),
       StatusCode::kInvalidArgument, "spec.logical_block_bytes"},
      {with([](DeviceSpec& spec) { spec.id = 1u << 20; }), StatusCode::kInvalidArgument, "spec.id"},
      {[] {
         DeviceSpec spec = VolumeDevice("p/a");
         spec.logical_block_bytes = 512;
         return spec;
       }(),
       StatusCode::kInvalidArgument, "was made with 4096"},
  };
  const size_t descriptors = OpenDescriptors();
  for (const auto& bad : cases) {
    const auto result = devices_->Create(bad.spec);
    EXPECT_THAT(result, Refused(bad.code, bad.words)) << DescribeTarget(bad.spec);
  }
  EXPECT_EQ(OpenDescriptors(), descriptors);
  EXPECT_THAT(Records(), IsEmpty());
  EXPECT_THAT(factory_.kernel(), IsEmpty());
}

TEST_F(DeviceManagerTest, AFailureOfTheDriverLeavesNothing) {
  const size_t descriptors = OpenDescriptors();
  factory_.FailNextCreate(absl::ResourceExhaustedError("the driver takes no more devices"));
  EXPECT_THAT(devices_->Create(FileDevice(MakeFile("f"))),
              Refused(StatusCode::kResourceExhausted, "no more devices"));
  EXPECT_THAT(Ids(), IsEmpty());
  EXPECT_THAT(Records(), IsEmpty());
  EXPECT_EQ(OpenDescriptors(), descriptors);
  EXPECT_THAT(devices_->Create(FileDevice(dir_.File("files/f"))), IsOk()) << "its lock is free";
}

TEST_F(DeviceManagerTest, ADeviceInUseIsNotDeleted) {
  MakeVolume("a");
  ASSERT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
  factory_.SetInUse(0, true);
  EXPECT_THAT(devices_->Delete(0), Refused(StatusCode::kFailedPrecondition, "in use"));
  EXPECT_THAT(devices_->Get(0), IsOk()) << "it goes on serving";
  EXPECT_EQ(devices_->Create(VolumeDevice("p/a"))->id, 0u);
  factory_.SetInUse(0, false);
  EXPECT_THAT(devices_->Delete(0), IsOk());
  EXPECT_THAT(devices_->Delete(0), IsOk()) << "what is not there is deleted";
}

TEST_F(DeviceManagerTest, ADeviceOfAnotherServerIsLeftAlone) {
  factory_.AddForeign(3, getppid());
  EXPECT_THAT(devices_->Delete(3), Refused(StatusCode::kFailedPrecondition, "not made by this"));
  EXPECT_THAT(devices_->Get(3), Refused(StatusCode::kNotFound, ""));
  EXPECT_EQ(factory_.kernel().count(3), 1u);
}

TEST_F(DeviceManagerTest, CallsForTheSameThingAreAbortedAndOthersGoOn) {
  MakeVolume("a");
  MakeVolume("b");
  ASSERT_THAT(devices_->Create(VolumeDevice("p/b")), IsOk());
  factory_.HoldCreate(true);
  DeviceSpec request = VolumeDevice("p/a");
  request.id = 7;
  std::thread hung([&] { EXPECT_THAT(devices_->Create(request), IsOk()); });
  factory_.WaitUntilHeld();

  EXPECT_THAT(devices_->Create(VolumeDevice("p/a")), Refused(StatusCode::kAborted, "p/a"));
  EXPECT_THAT(volumes_->Delete("p/a"), Refused(StatusCode::kAborted, "p/a"));
  EXPECT_THAT(devices_->Delete(7), Refused(StatusCode::kAborted, "device 7"));
  EXPECT_THAT(devices_->SetLimits(7, {}), Refused(StatusCode::kAborted, "device 7"));
  DeviceSpec same_id = NullDevice();
  same_id.id = 7;
  EXPECT_THAT(devices_->Create(same_id), Refused(StatusCode::kAborted, "device 7"));

  EXPECT_THAT(devices_->Delete(0), IsOk());
  EXPECT_THAT(volumes_->Delete("p/b"), IsOk());
  EXPECT_THAT(devices_->List(), IsOk());
  EXPECT_TRUE(devices_->Snapshot().empty());
  factory_.HoldCreate(false);
  hung.join();
  EXPECT_THAT(Ids(), ElementsAre(7));
}

TEST_F(DeviceManagerTest, LimitsAreFilledInRecordedAndChanged) {
  MakeVolume("a");
  DeviceSpec request = VolumeDevice("p/a");
  request.limits = {.iops = 1000};
  const auto made = devices_->Create(request);
  ASSERT_THAT(made, IsOk());
  const target::IoLimits first = {.iops = 1000, .burst_ios = 100};
  EXPECT_EQ(made->spec.limits, first);
  EXPECT_EQ(DecodeDeviceRecord(dir_.Read("devices/0.json"))->spec.limits, first);

  EXPECT_THAT(devices_->Create(request), IsOk()) << "the same";
  EXPECT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk()) << "no wish";
  DeviceSpec other = request;
  other.limits->bytes_per_second = kMiB;
  EXPECT_THAT(devices_->Create(other),
              Refused(StatusCode::kAlreadyExists, "1000 IOPS (burst 100)"));
  other.limits = target::IoLimits();
  EXPECT_THAT(devices_->Create(other), Refused(StatusCode::kAlreadyExists, "asked for was none"));

  const auto changed = devices_->SetLimits(0, {.bytes_per_second = 10 * kMiB});
  ASSERT_THAT(changed, IsOk());
  const target::IoLimits second = {.bytes_per_second = 10 * kMiB, .burst_bytes = kMiB};
  EXPECT_EQ(changed->spec.limits, second);
  EXPECT_EQ(changed->state, DeviceState::kLive);
  EXPECT_EQ(devices_->Get(0)->spec.limits, second);
  EXPECT_EQ(DecodeDeviceRecord(dir_.Read("devices/0.json"))->spec.limits, second);
  EXPECT_THAT(devices_->Create(request), Refused(StatusCode::kAlreadyExists, "other limits"));
  ASSERT_THAT(devices_->SetLimits(0, {}), IsOk());
  EXPECT_EQ(devices_->Get(0)->spec.limits, target::IoLimits());
  EXPECT_THAT(devices_->Delete(0), IsOk());
}

TEST_F(DeviceManagerTest, BadLimitsAreRefusedInWords) {
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  const struct {
    target::IoLimits limits;
    std::string words;
  } cases[] = {
      {{.burst_ios = 5}, "limits.burst_ios: 5 is a burst of no limit"},
      {{.burst_bytes = 4096}, "limits.burst_bytes: 4096 is a burst of no limit"},
      {{.iops = uint64_t{1} << 31}, "limits.iops: 2147483648 is out of range"},
      {{.iops = 1, .burst_ios = UINT64_MAX}, "limits.burst_ios"},
      {{.bytes_per_second = 1000}, "limits.bytes_per_second: 1000 is too little"},
      {{.bytes_per_second = UINT64_MAX}, "limits.bytes_per_second"},
      {{.bytes_per_second = kMiB, .burst_bytes = 512}, "limits.burst_bytes: 512 is out of range"},
      {{.bytes_per_second = kMiB, .burst_bytes = UINT64_MAX}, "limits.burst_bytes"},
  };
  const auto before = Records();
  for (const auto& bad : cases) {
    EXPECT_THAT(devices_->SetLimits(0, bad.limits),
                Refused(StatusCode::kInvalidArgument, bad.words));
    DeviceSpec request = NullDevice();
    request.limits = bad.limits;
    EXPECT_THAT(devices_->Create(request),
                Refused(StatusCode::kInvalidArgument, "spec." + bad.words));
  }
  EXPECT_EQ(devices_->Get(0)->spec.limits, target::IoLimits());
  EXPECT_EQ(Records(), before);
  DeviceSpec small = NullDevice();
  small.max_io_bytes = 4096;
  small.limits = {.bytes_per_second = 1000};
  EXPECT_THAT(devices_->Create(small), IsOk()) << "small requests may be slow ones";
}

TEST_F(DeviceManagerTest, LimitsOfWhatIsNotOursAreLeftAlone) {
  factory_.AddForeign(3, getppid());
  EXPECT_THAT(devices_->SetLimits(3, {}),
              Refused(StatusCode::kFailedPrecondition, "change it there"));
  EXPECT_THAT(devices_->SetLimits(4, {}), Refused(StatusCode::kNotFound, "device 4"));
  MakeVolume("a");
  ASSERT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
  const auto lease = volumes_->Lock("p/a");
  ASSERT_THAT(lease, IsOk());
  EXPECT_THAT(devices_->SetLimits(0, {}), Refused(StatusCode::kAborted, "p/a"));
}

TEST_F(DeviceManagerTest, ManyThreadsSetLimitsOneAfterTheOther) {
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  std::vector<std::thread> threads;
  for (uint64_t i = 1; i <= 4; ++i) {
    threads.emplace_back([this, i] {
      for (int round = 0; round < 25; ++round) {
        const auto changed = devices_->SetLimits(0, {.iops = i});
        if (changed.ok()) {
          EXPECT_EQ(changed->spec.limits->iops, i);
        } else {
          EXPECT_THAT(changed, Refused(StatusCode::kAborted, "device 0"));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(DecodeDeviceRecord(dir_.Read("devices/0.json"))->spec.limits,
            devices_->Get(0)->spec.limits);
}

TEST_F(DeviceManagerTest, ADeviceThatWasRemovedFromOutsideIsForgotten) {
  MakeVolume("a");
  ASSERT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
  factory_.DeleteFromOutside(0);
  EXPECT_TRUE(Eventually([&] { return Ids().empty() && Records().empty(); }));
  EXPECT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
}

TEST_F(DeviceManagerTest, AHundredRoundsLeaveNothing) {
  MakeVolume("a");
  const size_t descriptors = OpenDescriptors();
  for (int round = 0; round < 100; ++round) {
    const auto device = devices_->Create(VolumeDevice("p/a"));
    ASSERT_THAT(device, IsOk());
    ASSERT_EQ(device->id, 0u);
    ASSERT_THAT(devices_->Delete(0), IsOk());
  }
  // Threads beside may have one open at any moment.
  EXPECT_TRUE(Eventually([&] { return OpenDescriptors() <= descriptors; }));
  EXPECT_THAT(Records(), IsEmpty());
  EXPECT_THAT(factory_.kernel(), IsEmpty());
}

TEST_F(DeviceManagerTest, ManyThreadsGetDevicesOfTheirOwn) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 25; ++round) {
        const auto device = devices_->Create(NullDevice());
        ASSERT_THAT(device, IsOk());
        (void)devices_->Snapshot();
        ASSERT_THAT(devices_->Delete(device->id), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(factory_.kernel(), IsEmpty());
  EXPECT_THAT(Records(), IsEmpty());
}

TEST_F(DeviceManagerTest, ShutdownStopsAllAndForcesThoseInUse) {
  for (int i = 0; i < 12; ++i) ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  factory_.SetInUse(3, true);
  devices_->Shutdown(std::chrono::milliseconds(1));
  EXPECT_THAT(factory_.kernel(), IsEmpty());
  EXPECT_THAT(factory_.forced(), ElementsAre(3));
  EXPECT_THAT(Records(), IsEmpty());
  EXPECT_THAT(devices_->Create(NullDevice()), Refused(StatusCode::kUnavailable, "stopping"));
}

TEST_F(DeviceManagerTest, ADeviceThatIsLetGoInTimeIsNotForced) {
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  factory_.SetInUse(0, true);
  std::thread user([&] { factory_.SetInUse(0, false); });
  devices_->Shutdown(std::chrono::seconds(20));
  user.join();
  EXPECT_THAT(factory_.kernel(), IsEmpty());
  EXPECT_THAT(factory_.forced(), IsEmpty());
}

}  // namespace
}  // namespace ublkd::volume
