// SPDX-License-Identifier: Apache-2.0
//
// A disk grows under its users, and never shrinks.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "daemon/target/file.h"
#include "tests/vm/engine/fixture.h"
#include "tests/vm/engine/verified_load.h"

namespace ublkd {
namespace {

using ublk::Device;
using ublk::DeviceOptions;
using ublk::StopMode;

uint64_t BytesOf(const UniqueFd& disk) {
  uint64_t bytes = 0;
  EXPECT_EQ(ioctl(disk.get(), BLKGETSIZE64, &bytes), 0);
  return bytes;
}

uint64_t BytesOf(const std::string& disk) {
  return BytesOf(UniqueFd(open(disk.c_str(), O_RDONLY | O_CLOEXEC)));
}

class ResizeTest : public EngineTest {
 protected:
  static constexpr uint64_t kBytes = 64 * kMiB;

  void SetUp() override {
    EngineTest::SetUp();
    if (!control().features().Has(ublk::Feature::kUpdateSize)) {
      GTEST_SKIP() << "the driver cannot resize disks";
    }
    path_ = MakeFile("disk", kBytes);
  }
  void GrowFile(uint64_t size_bytes) {
    ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(size_bytes)), 0);
  }

  std::string path_;
};

TEST_F(ResizeTest, AGrowingDiskLosesNothing) {
  constexpr int kSteps = 12;
  constexpr uint64_t kStepBytes = 8 * kMiB;
  auto device = ServeFile(path_);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE((*device)->features().Has(ublk::Feature::kUpdateSize));
  const std::string disk = (*device)->block_path();
  const UniqueFd user(open(disk.c_str(), O_RDONLY | O_CLOEXEC));
  VerifiedLoad load(disk, kBytes, 4);
  uint64_t size_bytes = kBytes;
  for (int step = 0; step < kSteps; ++step) {
    const int before = load.done();
    GrowFile(size_bytes + kStepBytes);
    const absl::Status grown = (*device)->Resize(size_bytes + kStepBytes);
    ASSERT_TRUE(grown.ok()) << grown;
    const uint64_t was_bytes = size_bytes;
    size_bytes += kStepBytes;
    EXPECT_EQ(BytesOf(user), size_bytes) << "whoever has it open sees it at once";
    EXPECT_EQ(BytesOf(disk), size_bytes);
    EXPECT_EQ((*device)->geometry().size_bytes, size_bytes);
    VerifiedLoad in_the_new_part(disk, kStepBytes, 1, was_bytes);
    EXPECT_TRUE(
        Eventually(absl::Seconds(20),
                   [&] { return load.done() > before + 50 && in_the_new_part.done() > 20; }))
        << "step " << step;
    in_the_new_part.Finish();
    EXPECT_EQ(in_the_new_part.errors(), 0);
    EXPECT_EQ(in_the_new_part.wrong(), 0);
  }
  load.Finish();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0) << "blocks that are not as written";
}

TEST_F(ResizeTest, WhatIsRefusedChangesNothing) {
  auto device = ServeFile(path_, {.queues = 1}, 4096);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE((*device)->Resize(kBytes).ok()) << "the size that it has";
  for (const uint64_t size_bytes :
       {uint64_t{0}, kBytes - 4096, kBytes + 512, uint64_t{1} << 63, ~uint64_t{0}}) {
    const absl::Status status = (*device)->Resize(size_bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << size_bytes << ": " << status;
  }
  const absl::Status more = (*device)->Resize(2 * kBytes);
  EXPECT_TRUE(absl::IsFailedPrecondition(more)) << more;
  EXPECT_TRUE(absl::StrContains(more.message(), "enlarge that first")) << more;
  EXPECT_EQ(BytesOf((*device)->block_path()), kBytes);
  EXPECT_EQ((*device)->geometry().size_bytes, kBytes);
  ASSERT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition((*device)->Resize(kBytes)));
  EXPECT_TRUE(absl::IsFailedPrecondition((*device)->AvailableBytes().status()));
}

TEST_F(ResizeTest, NullGrowsToAnySize) {
  auto device = ServeNull({.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  ASSERT_TRUE((*device)->Resize(uint64_t{1} << 50).ok());
  EXPECT_EQ(BytesOf((*device)->block_path()), uint64_t{1} << 50);
}

TEST_F(ResizeTest, AfterARecoveryTheDisksSizeCounts) {
  if (!control().features().Has(ublk::Feature::kUserRecoveryReissue)) {
    GTEST_SKIP() << "the driver has no recovery";
  }
  const DeviceOptions options = {.id = 9, .queues = 2, .recoverable = true};
  auto device = ServeFile(path_, options);
  ASSERT_TRUE(device.ok()) << device.status();
  VerifiedLoad load((*device)->block_path(), kBytes, 4);
  for (uint64_t size_bytes = kBytes; size_bytes < 4 * kBytes; size_bytes += kBytes) {
    const int before = load.done();
    // As a server has it that was killed when the file had grown and the disk had not.
    GrowFile(size_bytes + kBytes);
    ASSERT_TRUE((*device)->Leave().ok());
    EXPECT_TRUE(absl::IsFailedPrecondition((*device)->Resize(size_bytes + kBytes)))
        << "it is another's now";
    auto target = target::OpenFileTarget({.path = path_, .wait = Device::kRecoverWait});
    ASSERT_TRUE(target.ok()) << target.status();
    device = Device::Recover(control(), options, *std::move(target));
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ((*device)->geometry().size_bytes, size_bytes);
    EXPECT_EQ(BytesOf((*device)->block_path()), size_bytes);
    const absl::Status grown = (*device)->Resize(size_bytes + kBytes);
    ASSERT_TRUE(grown.ok()) << grown;
    EXPECT_EQ(BytesOf((*device)->block_path()), size_bytes + kBytes);
    EXPECT_TRUE(Eventually(absl::Seconds(20), [&] { return load.done() > before + 50; }));
  }
  load.Finish();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0) << "blocks that are not as written";
}

TEST_F(ResizeTest, ManyThreadsGrowReadAndStop) {
  for (int round = 0; round < 10; ++round) {
    auto device = ServeNull({.queues = 1});
    ASSERT_TRUE(device.ok()) << device.status();
    std::atomic<int> odd = 0;
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        for (uint64_t step = 1; step <= 20; ++step) {
          const absl::Status status = (*device)->Resize(kBytes + (4 * step + i) * kMiB);
          // Another thread was faster, or it is stopped.
          if (!status.ok() && !absl::IsInvalidArgument(status) &&
              !absl::IsFailedPrecondition(status)) {
            ++odd;
          }
          if ((*device)->geometry().size_bytes < kBytes) ++odd;
        }
      });
    }
    if (round % 2 == 0) {
      EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(odd, 0);
    if (round % 2 == 0) continue;
    EXPECT_EQ((*device)->geometry().size_bytes, kBytes + 83 * kMiB) << "the largest wins";
    EXPECT_EQ(BytesOf((*device)->block_path()), kBytes + 83 * kMiB);
  }
}

TEST_F(EngineTest, WithoutTheFeatureADiskKeepsItsSize) {
  if (control().features().Has(ublk::Feature::kUpdateSize)) {
    GTEST_SKIP() << "the driver has the feature";
  }
  auto device = ServeNull({.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE((*device)->Resize(64 * kMiB).ok()) << "the size that it has";
  const absl::Status status = (*device)->Resize(128 * kMiB);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "UPDATE_SIZE")) << status;
  EXPECT_EQ(BytesOf((*device)->block_path()), 64 * kMiB);
}

}  // namespace
}  // namespace ublkd
