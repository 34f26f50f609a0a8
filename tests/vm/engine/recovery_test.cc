// SPDX-License-Identifier: Apache-2.0
//
// A disk outlives its server: users of the disk wait, and see neither an error nor lost data.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "daemon/target/file.h"
#include "daemon/target/null.h"
#include "daemon/target/target.h"
#include "tests/vm/engine/fixture.h"
#include "tests/vm/engine/verified_load.h"

namespace ublkd {
namespace {

using ublk::Device;
using ublk::DeviceOptions;
using ublk::StopMode;

constexpr size_t kBlockBytes = 4096;

/// A target that cannot be opened.
class BrokenTarget {
 public:
  struct Queue {
    uring::Result Read(const ublk::Request&) { return uring::Result::Ok(); }
    uring::Result Write(const ublk::Request&) { return uring::Result::Ok(); }
  };
  ublk::Geometry geometry() const { return {.size_bytes = 64 << 20}; }
  absl::StatusOr<Queue> OpenQueue(uring::Ring&) { return absl::InternalError("broken"); }
};

class RecoveryTest : public EngineTest {
 protected:
  static constexpr uint32_t kId = 9;
  static constexpr uint64_t kBytes = 64 * kMiB;
  const DeviceOptions kOptions = {.id = kId, .queues = 2, .recoverable = true};

  void SetUp() override {
    EngineTest::SetUp();
    if (!control().features().Has(ublk::Feature::kUserRecoveryReissue)) {
      GTEST_SKIP() << "the driver has no recovery";
    }
    path_ = MakeFile("disk", kBytes);
  }

  absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> OpenTarget() {
    return target::OpenFileTarget({.path = path_, .wait = Device::kRecoverWait});
  }

  absl::StatusOr<std::unique_ptr<Device>> Recover(const DeviceOptions& options) {
    auto target = OpenTarget();
    if (!target.ok()) return target.status();
    return Device::Recover(control(), options, *std::move(target));
  }
  absl::StatusOr<std::unique_ptr<Device>> Recover() { return Recover(kOptions); }

  /// A process that makes the device, or takes it over, and serves it until it is killed.
  pid_t ForkServer(bool recovers) {
    const pid_t child = fork();
    if (child != 0) return child;
    auto control = ublk::Control::Open();
    if (!control.ok()) _exit(1);
    auto target = OpenTarget();
    if (!target.ok()) _exit(2);
    auto device = recovers ? Device::Recover(**control, kOptions, *std::move(target))
                           : Device::Create(**control, kOptions, *std::move(target));
    if (!device.ok()) _exit(3);
    while (true) pause();
  }

  bool IsServedBy(pid_t server) {
    const auto info = control().GetDeviceInfo(kId);
    return info.ok() && info->state == ublk::DeviceState::kLive && info->server_pid == server;
  }

  static std::string HowItEnded(pid_t server) {
    int status = 0;
    if (waitpid(server, &status, WNOHANG) != server) return "runs";
    return absl::StrCat("ended with wait status ", status);
  }

  /// Nobody serves the disk after a failure: its users would wait for ever.
  void EndAfterFailure() {
    if (HasFailure()) (void)control().StopDevice(kId);
  }

  std::string path_;
};

TEST_F(RecoveryTest, KilledServersLoseNothing) {
  pid_t server = ForkServer(false);
  ASSERT_TRUE(Eventually(absl::Seconds(20), [&] { return IsServedBy(server); }));
  ASSERT_TRUE(Eventually(absl::Seconds(5), [] { return access("/dev/ublkb9", F_OK) == 0; }));
  VerifiedLoad load("/dev/ublkb9", kBytes, 8);
  const absl::Cleanup end = [this] { EndAfterFailure(); };
  std::mt19937 random(1);
  for (int round = 0; round < 15; ++round) {
    absl::SleepFor(absl::Milliseconds(random() % 200));
    kill(server, SIGKILL);
    server = ForkServer(true);
    ASSERT_TRUE(Eventually(absl::Seconds(20), [&] { return IsServedBy(server); }))
        << "round " << round << ", the new server " << HowItEnded(server);
    const int before = load.done();
    EXPECT_TRUE(Eventually(absl::Seconds(20), [&] { return load.done() > before + 20; }))
        << "the users go on, round " << round;
  }
  load.Finish();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0) << "blocks that are not as written";
  kill(server, SIGKILL);
  while (wait(nullptr) > 0) continue;
  EXPECT_TRUE(control().DeleteDevice(kId, ublk::DeleteMode::kWait, 10'000).ok());
}

TEST_F(RecoveryTest, LeavingUnderLoadLosesNothing) {
  auto device = ServeFile(path_, kOptions);
  ASSERT_TRUE(device.ok()) << device.status();
  VerifiedLoad load((*device)->block_path(), kBytes, 8);
  const absl::Cleanup end = [this] { EndAfterFailure(); };
  for (int round = 0; round < 15; ++round) {
    const int before = load.done();
    ASSERT_TRUE(Eventually(absl::Seconds(20), [&] { return load.done() > before + 50; })) << round;
    const absl::Status left = (*device)->Leave();
    ASSERT_TRUE(left.ok()) << left;
    EXPECT_FALSE((*device)->live());
    EXPECT_TRUE((*device)->Leave().ok()) << "leaving again is fine";
    EXPECT_TRUE((*device)->Stop(StopMode::kForce).ok()) << "it is not ours to stop any more";
    device = Recover();
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_TRUE((*device)->live());
  }
  load.Finish();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0) << "blocks that are not as written";
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
}

TEST_F(RecoveryTest, ARecoveredDeviceIsWhatItWas) {
  DeviceOptions options = kOptions;
  options.depth = 32;
  options.max_io_bytes = 128 << 10;
  auto device = ServeFile(path_, options);
  ASSERT_TRUE(device.ok()) << device.status();
  const unsigned minor = (*device)->minor();
  ASSERT_TRUE((*device)->Leave().ok());
  device = Recover({.id = kId});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->options().queues, 2);
  EXPECT_EQ((*device)->options().depth, 32);
  EXPECT_EQ((*device)->options().max_io_bytes, 128u << 10);
  EXPECT_EQ((*device)->geometry().size_bytes, kBytes);
  EXPECT_EQ((*device)->minor(), minor);
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
}

TEST_F(RecoveryTest, WhatCannotBeTakenOverIsLeftAsItIs) {
  EXPECT_TRUE(absl::IsNotFound(Recover().status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Recover({}).status()));
  {
    auto mortal = ServeFile(path_, {.id = kId, .queues = 1});
    ASSERT_TRUE(mortal.ok()) << mortal.status();
    EXPECT_TRUE(absl::IsFailedPrecondition((*mortal)->Leave())) << "it can't outlive its server";
    EXPECT_TRUE((*mortal)->live());
  }
  auto device = ServeFile(path_, kOptions);
  ASSERT_TRUE(device.ok()) << device.status();
  auto target = target::MakeNullTarget(kBytes, 512);
  ASSERT_TRUE(target.ok());
  const absl::Status served = Device::Recover(control(), kOptions, *std::move(target)).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(served)) << served;
  EXPECT_TRUE((*device)->live()) << "a server that lives is not disturbed";
  ASSERT_TRUE((*device)->Leave().ok());

  auto small = target::MakeNullTarget(kBytes / 2, 512);
  ASSERT_TRUE(small.ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(Device::Recover(control(), kOptions, *std::move(small)).status()))
      << "half of the disk is not there";
  auto broken = target::MakeDeviceTarget(BrokenTarget());
  ASSERT_TRUE(broken.ok());
  EXPECT_FALSE(Device::Recover(control(), kOptions, *std::move(broken)).ok());

  std::atomic<ssize_t> got = 0;
  std::thread user([&] {
    const UniqueFd disk(open("/dev/ublkb9", O_RDONLY | O_DIRECT | O_CLOEXEC));
    alignas(kBlockBytes) char block[kBlockBytes];
    got = pread(disk.get(), block, sizeof(block), 0);
  });
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(got, 0) << "users wait";
  device = Recover();
  ASSERT_TRUE(device.ok()) << device.status();
  user.join();
  EXPECT_EQ(got, static_cast<ssize_t>(kBlockBytes));
  EXPECT_TRUE((*device)->Stop(StopMode::kIfUnused).ok());
}

}  // namespace
}  // namespace ublkd
