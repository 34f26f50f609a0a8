// SPDX-License-Identifier: Apache-2.0
//
// Targets in trouble, on a real disk: what its users get, and that it works again.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "daemon/target/file_target.h"
#include "tests/support/fault_layer.h"
#include "tests/vm/engine/fixture.h"

namespace ublkd {
namespace {

using target::Faults;
using target::FileTarget;
using ublk::Op;

constexpr size_t kBlockBytes = 4096;
constexpr absl::Duration kLimit = absl::Seconds(20);

class FaultTest : public EngineTest {
 protected:
  /// A disk in a file, with faults in between.
  void Serve(const ublk::DeviceOptions& options) {
    auto backing = target::OpenBackingFile({.path = MakeFile("disk", 16 * kMiB)});
    ASSERT_TRUE(backing.ok()) << backing.status();
    using Faulty = target::FaultLayer<FileTarget>;
    auto target = target::MakeDeviceTarget(Faulty(FileTarget(*std::move(backing)), faults_));
    ASSERT_TRUE(target.ok()) << target.status();
    auto device = ublk::Device::Create(control(), options, *std::move(target));
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }
  void TearDown() override {
    faults_->Clear();
    faults_->Release();
    device_.reset();
    EngineTest::TearDown();
  }

  /// 0 or the errno that a user gets.
  int Write(uint64_t offset_bytes) {
    const UniqueFd disk(open(device_->block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    alignas(kBlockBytes) char block[kBlockBytes] = {'w'};
    const ssize_t done = pwrite(disk.get(), block, sizeof(block), static_cast<off_t>(offset_bytes));
    return done == static_cast<ssize_t>(sizeof(block)) ? 0 : errno;
  }
  ublk::OpStats Writes() { return device_->Stats().Total(Op::kWrite); }

  std::shared_ptr<Faults> faults_ = std::make_shared<Faults>();
  std::unique_ptr<ublk::Device> device_;
};

TEST_F(FaultTest, UsersGetErrnosOfADiskAndTheCountersWhatItWas) {
  ASSERT_NO_FATAL_FAILURE(Serve({.queues = 1}));
  const std::vector<std::pair<int, int>> seen = {
      {EIO, EIO},    {ENOSPC, ENOSPC}, {EDQUOT, ENOSPC}, {ETIMEDOUT, ETIMEDOUT},
      {EINVAL, EIO}, {EAGAIN, EIO},    {ENOMEM, EIO},    {EBUSY, EIO}};
  uint64_t errors = 0;
  for (const auto& [of_target, of_user] : seen) {
    faults_->Clear();
    faults_->Add({.op = Op::kWrite, .times = 1, .error_number = of_target});
    EXPECT_EQ(Write(0), of_user) << "the target's errno is " << of_target;
    EXPECT_EQ(Writes().errors, ++errors);
    EXPECT_EQ(Writes().last_errno, of_target);
    EXPECT_EQ(Write(0), 0) << "once only";
  }
  EXPECT_EQ(Writes().errors, errors);
  EXPECT_TRUE(device_->live());
}

TEST_F(FaultTest, ShortTransfersAreInvisible) {
  ASSERT_NO_FATAL_FAILURE(Serve({.queues = 1}));
  faults_->Add({.every = 2, .piece_bytes = 512});
  EXPECT_TRUE(RunCommand("fio --name=pieces --filename=" + device_->block_path() +
                         " --rw=randwrite --bs=4k --size=1m --direct=1 --ioengine=io_uring "
                         "--iodepth=8 --verify=crc32c --verify_fatal=1"));
  EXPECT_GT(faults_->met(), 100u);
}

TEST_F(FaultTest, ARequestThatHangsHoldsUpNoOther) {
  ASSERT_NO_FATAL_FAILURE(Serve({.queues = 1}));
  faults_->Add({.op = Op::kWrite, .end_bytes = kBlockBytes, .hang = true});
  int result = -1;
  std::thread user([&] { result = Write(0); });
  ASSERT_TRUE(Eventually(kLimit, [&] { return faults_->hanging() == 1; }));
  for (int i = 1; i < 50; ++i) ASSERT_EQ(Write(static_cast<uint64_t>(i) * kBlockBytes), 0);
  const uint64_t oldest_ns = device_->Stats().oldest_request_ns();
  EXPECT_GT(oldest_ns, 0u);
  EXPECT_TRUE(
      Eventually(kLimit, [&] { return device_->Stats().oldest_request_ns() > 2 * oldest_ns; }));
  EXPECT_EQ(Writes().in_flight, 1u);
  faults_->Clear();
  faults_->Release();
  user.join();
  EXPECT_EQ(result, 0);
  EXPECT_EQ(device_->Stats().oldest_request_ns(), 0u);
}

TEST_F(FaultTest, LeavingIsBoundedWhileARequestHangs) {
  if (!control().features().Has(ublk::Feature::kUserRecoveryReissue)) {
    GTEST_SKIP() << "the driver cannot leave devices";
  }
  ASSERT_NO_FATAL_FAILURE(Serve({.queues = 1, .recoverable = true}));
  faults_->Add({.op = Op::kWrite, .hang = true});
  int result = -1;
  std::thread user([&] { result = Write(0); });
  ASSERT_TRUE(Eventually(kLimit, [&] { return faults_->hanging() == 1; }));
  const absl::Status left = device_->Leave(absl::Now());
  EXPECT_TRUE(absl::IsDeadlineExceeded(left)) << left;
  faults_->Clear();
  faults_->Release();
  EXPECT_TRUE(device_->Leave().ok());
  user.join();
  EXPECT_EQ(result, 0) << "what was held is answered";
  const absl::Status deleted =
      control().DeleteDevice(device_->id(), ublk::DeleteMode::kWait, 10'000);
  EXPECT_TRUE(deleted.ok()) << deleted;
}

}  // namespace
}  // namespace ublkd
