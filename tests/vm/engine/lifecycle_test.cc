// SPDX-License-Identifier: Apache-2.0
//
// Devices come and go without a trace, and not under anybody's feet.
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "daemon/target/file.h"
#include "daemon/target/null.h"
#include "daemon/target/target.h"
#include "tests/vm/driver/control.h"
#include "tests/vm/engine/fixture.h"

namespace ublkd {
namespace {

using ublk::StopMode;

TEST_F(EngineTest, AHundredRoundsLeaveNothing) {
  const std::string path = MakeFile("disk", 8 * kMiB);
  for (int round = 0; round < 100; ++round) {
    auto device = round % 2 == 0 ? ServeNull({.id = 7}) : ServeFile(path, {.id = 7, .queues = 1});
    ASSERT_TRUE(device.ok()) << "round " << round << ": " << device.status();
    EXPECT_EQ((*device)->id(), 7u);
    EXPECT_EQ((*device)->block_path(), "/dev/ublkb7");
    ASSERT_TRUE((*device)->Stop(StopMode::kIfUnused).ok()) << "round " << round;
  }
}

TEST_F(EngineTest, AnOpenDiskIsNotStopped) {
  auto device = ServeNull({.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  {
    const UniqueFd user(open((*device)->block_path().c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(user.valid());
    const absl::Status status = (*device)->Stop(StopMode::kIfUnused);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_TRUE((*device)->live());
    char byte[512];
    EXPECT_EQ(read(user.get(), byte, sizeof(byte)), 512) << "and goes on serving";
  }
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
  EXPECT_FALSE((*device)->live());
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok()) << "stopping again is fine";
}

TEST_F(EngineTest, AMountedDiskIsNotStopped) {
  auto device = ServeFile(MakeFile("disk", 64 * kMiB), {.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  const std::string mount = absl::StrCat(folder_, "/mount");
  ASSERT_TRUE(RunCommand(absl::StrCat("mkdir ", mount, " && mkfs.ext4 -q ", (*device)->block_path(),
                                      " && mount ", (*device)->block_path(), " ", mount)));
  const absl::Status status = (*device)->Stop(StopMode::kIfUnused);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(RunCommand(absl::StrCat("touch ", mount, "/file && sync && umount ", mount)));
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
}

TEST_F(EngineTest, AnOpenDiskThatSomebodyQuiescedIsNotStopped) {
  auto device = ServeNull({.queues = 1,
                           .recoverable = true,
                           .extra_features = ublk::Features().With(ublk::Feature::kQuiesce)});
  ASSERT_TRUE(device.ok()) << device.status();
  // Else the scan waits for the next server, and on the kernel's own driver Stop for the scan.
  ASSERT_TRUE(driver_test::PartitionScanHasEnded((*device)->block_path()));
  {
    const UniqueFd user(open((*device)->block_path().c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(user.valid());
    ASSERT_EQ(driver_test::Control().Quiesce((*device)->id()), 0);
    ASSERT_TRUE(Eventually(absl::Seconds(20), [&] { return !(*device)->live(); }));
    const absl::Status status = (*device)->Stop(StopMode::kIfUnused);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_TRUE(control().GetDeviceInfo((*device)->id()).ok()) << "it can still be taken over";
  }
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
}

TEST_F(EngineTest, ForceStopsUnderAnOpenDisk) {
  auto device = ServeNull({.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  const uint32_t id = (*device)->id();
  UniqueFd user(open((*device)->block_path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(user.valid());
  const absl::Status status = (*device)->Stop(StopMode::kForce);
  EXPECT_TRUE(status.ok() || absl::IsDeadlineExceeded(status)) << status;
  EXPECT_FALSE((*device)->live());
  alignas(4096) char block[4096];
  EXPECT_LE(read(user.get(), block, sizeof(block)), 0) << "the disk is gone for its user";
  user.Reset();
  EXPECT_TRUE(Eventually(absl::Seconds(10), [&] {
    return absl::IsNotFound(control().GetDeviceInfo(id).status());
  })) << "the id is free when the last user is gone";
}

TEST_F(EngineTest, ADeviceDeletedFromOutsideEnds) {
  std::atomic<int> told = 0;
  auto device = ServeNull({.on_unexpected_end = [&told] { ++told; }});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE((*device)->live());
  const absl::Time start = absl::Now();
  EXPECT_TRUE(control().DeleteDevice((*device)->id(), ublk::DeleteMode::kWait, 10'000).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(5)) << "the server lets go at once";
  EXPECT_TRUE(Eventually(absl::Seconds(5), [&] { return told == 1; }));
  EXPECT_FALSE((*device)->live());
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok()) << "what is gone is stopped";
  device->reset();
  EXPECT_EQ(told, 1);
}

TEST_F(EngineTest, AnIdInUseIsRefused) {
  auto first = ServeNull({.id = 3, .queues = 1});
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = ServeNull({.id = 3, .queues = 1});
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_TRUE((*first)->live());
}

TEST_F(EngineTest, BadOptionsChangeNothing) {
  struct Case {
    const char* what;
    ublk::DeviceOptions options;
  };
  const Case cases[] = {
      {"queues", {.queues = 4096}},
      {"depth", {.queues = 1, .depth = 4097}},
      {"largest request", {.queues = 1, .max_io_bytes = 1000}},
      {"largest request", {.queues = 1, .max_io_bytes = 64 << 20}},
      {"threads per queue", {.queues = 1, .depth = 2, .threads_per_queue = 3}},
  };
  for (const Case& bad : cases) {
    const absl::Status status = ServeNull(bad.options).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad.what << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), bad.what)) << status;
  }
  const absl::Status size = ServeNull({}, 1000, 512).status();
  EXPECT_TRUE(absl::IsInvalidArgument(size)) << size;
  const absl::Status feature =
      ServeNull({.extra_features = ublk::Features(uint64_t{1} << 60)}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(feature)) << feature;
}

TEST_F(EngineTest, DepthsFromOneToTheLargestWork) {
  for (const uint16_t depth : {1, 3, 128, 4096}) {
    auto device =
        ServeNull({.queues = 1, .depth = depth, .max_io_bytes = 64 << 10}, 64 * kMiB, 512);
    ASSERT_TRUE(device.ok()) << "depth " << depth << ": " << device.status();
    EXPECT_EQ((*device)->options().depth, depth);
    EXPECT_TRUE(RunCommand(absl::StrCat("dd if=/dev/zero of=", (*device)->block_path(),
                                        " bs=1M count=8 oflag=direct")));
  }
}

TEST_F(EngineTest, ThreadsMayShareAQueue) {
  if (!control().features().Has(ublk::Feature::kPerIoDaemon)) {
    const absl::Status status = ServeNull({.queues = 1, .threads_per_queue = 2}).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    GTEST_SKIP() << "the driver has no PER_IO_DAEMON; it was refused in words";
  }
  auto device = ServeFile(MakeFile("disk", 64 * kMiB), {.queues = 1, .threads_per_queue = 3});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(RunCommand(absl::StrCat("fio --name=verify --filename=", (*device)->block_path(),
                                      " --rw=randwrite --bs=4k --direct=1 --ioengine=io_uring "
                                      "--iodepth=32 --size=16m --verify=crc32c --do_verify=1 "
                                      "--verify_fatal=1 --io_size=4m")));
  EXPECT_EQ((*device)->Stats().queues.size(), 1u);
}

/// A target whose second queue thread cannot be opened.
class HalfBrokenTarget {
 public:
  struct Queue {
    uring::Result Read(const ublk::Request&) { return uring::Result::Ok(); }
    uring::Result Write(const ublk::Request&) { return uring::Result::Ok(); }
  };
  explicit HalfBrokenTarget(std::atomic<int>& opened) : opened_(&opened) {}
  ublk::Geometry geometry() const { return {.size_bytes = 1 << 20}; }
  absl::StatusOr<Queue> OpenQueue(uring::Ring&) {
    if (++*opened_ == 2) return absl::DataLossError("this queue is broken");
    return Queue();
  }

 private:
  std::atomic<int>* opened_;
};

TEST_F(EngineTest, AFailureHalfWayIsUndone) {
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2) GTEST_SKIP() << "needs two processors";
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> opened = 0;
    auto target = target::MakeDeviceTarget(HalfBrokenTarget(opened));
    ASSERT_TRUE(target.ok()) << target.status();
    const absl::Status status =
        ublk::Device::Create(control(), {.id = 5, .queues = 2}, *std::move(target)).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_TRUE(absl::IsNotFound(control().GetDeviceInfo(5).status())) << "the id is free again";
  }
}

}  // namespace
}  // namespace ublkd
