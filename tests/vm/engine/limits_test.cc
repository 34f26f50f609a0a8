// SPDX-License-Identifier: Apache-2.0
//
// A disk with limits does no more than they allow, and they keep nobody from ending it.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "daemon/target/null.h"
#include "daemon/target/throttle.h"
#include "tests/vm/engine/fixture.h"

namespace ublkd {
namespace {

using target::IoLimits;
using ublk::Device;
using ublk::Op;
using ublk::StopMode;

constexpr size_t kReadBytes = 64 << 10;
/// Far longer than anything takes here, far shorter than what the limits would make of it.
constexpr absl::Duration kBound = absl::Seconds(30);
/// A read of kReadBytes takes 16 s.
constexpr IoLimits kCrawl = {.bytes_per_second = 4096, .burst_bytes = 4096};

/// Threads that read the disk, each one request after the other.
class Readers {
 public:
  /// To open a disk waits for whoever looks for partitions on it: done before it is slow.
  Readers(const std::string& disk, int threads)
      : threads_(threads), disk_(open(disk.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)) {}
  void Start(int reads_each, size_t bytes) {
    for (std::thread& thread : threads_) {
      thread = std::thread([this, reads_each, bytes] { Run(reads_each, bytes); });
    }
  }
  ~Readers() { Join(); }
  /// Closes the disk as well.
  void Join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
    disk_.Reset();
  }
  int done() const { return done_; }
  int errors() const { return errors_; }

 private:
  void Run(int reads, size_t bytes) {
    const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(4096, bytes),
                                                             &std::free);
    for (int i = 0; i < reads; ++i) {
      if (pread(disk_.get(), memory.get(), bytes, 0) != static_cast<ssize_t>(bytes)) ++errors_;
      ++done_;
    }
  }

  std::atomic<int> done_ = 0;
  std::atomic<int> errors_ = 0;
  std::vector<std::thread> threads_;
  UniqueFd disk_;
};

class LimitsTest : public EngineTest {
 protected:
  absl::StatusOr<std::unique_ptr<ublk::DeviceTarget>> OpenTarget(const IoLimits& limits) {
    throttle_ = std::make_shared<target::Throttle>(limits);
    return target::MakeNullTarget(64 * kMiB, 512, throttle_);
  }
  std::unique_ptr<Device> Serve(const ublk::DeviceOptions& options, const IoLimits& limits = {}) {
    auto target = OpenTarget(limits);
    EXPECT_TRUE(target.ok()) << target.status();
    auto device = Device::Create(control(), options, *std::move(target));
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *std::move(device) : nullptr;
  }
  /// That many reads, and maybe one of who looks for partitions, were taken and not answered.
  static bool Holds(const Device& device, int reads) {
    return Eventually(kBound, [&] {
      return device.Stats().Total(Op::kRead).in_flight >= static_cast<uint64_t>(reads);
    });
  }

  std::shared_ptr<target::Throttle> throttle_;
};

TEST_F(LimitsTest, NeverMoreThanTheLimitAndItsBurst) {
  struct Case {
    IoLimits limits;
    size_t read_bytes;
    int reads;
  };
  const Case cases[] = {
      {{.iops = 200, .burst_ios = 20}, 4096, 400},
      {{.bytes_per_second = kMiB, .burst_bytes = 2 * kReadBytes}, kReadBytes, 40},
      {{.iops = 100, .burst_ios = 10, .bytes_per_second = kMiB, .burst_bytes = 4096}, 8192, 200},
  };
  for (const Case& limited : cases) {
    const IoLimits& limits = limited.limits;
    const absl::Time begin = absl::Now();
    const auto device = Serve({.queues = 2}, limits);
    ASSERT_NE(device, nullptr);
    constexpr int kThreads = 8;
    const auto check = [&] {
      const ublk::OpStats reads = device->Stats().Total(Op::kRead);
      const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
      if (limits.iops != 0) {
        ASSERT_LE(static_cast<double>(reads.ios), static_cast<double>(limits.burst_ios) +
                                                      static_cast<double>(limits.iops) * seconds);
      }
      if (limits.bytes_per_second != 0) {
        ASSERT_LE(static_cast<double>(reads.bytes),
                  static_cast<double>(limits.burst_bytes) +
                      static_cast<double>(limits.bytes_per_second) * seconds);
      }
    };
    Readers readers(device->block_path(), kThreads);
    readers.Start(limited.reads / kThreads, limited.read_bytes);
    while (readers.done() < limited.reads) {
      ASSERT_NO_FATAL_FAILURE(check());
      ASSERT_LT(absl::Now() - begin, 4 * kBound) << readers.done() << " of " << limited.reads;
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(readers.errors(), 0);
    readers.Join();
    const ublk::OpStats reads = device->Stats().Total(Op::kRead);
    EXPECT_GT(reads.throttled_ios, 0u);
    EXPECT_LE(reads.throttled_ios, reads.ios);
    EXPECT_GT(reads.throttled_ns, reads.latency_sum_ns) << "latency is what the target takes";
    EXPECT_TRUE(device->Stop(StopMode::kIfUnused).ok());
  }
}

TEST_F(LimitsTest, WhoWaitsGoesOnWhenTheLimitIsRaised) {
  const auto device = Serve({.queues = 2});
  ASSERT_NE(device, nullptr);
  for (const IoLimits& raised :
       {IoLimits{.bytes_per_second = 64 * kMiB, .burst_bytes = kMiB}, {}}) {
    constexpr int kThreads = 16;
    Readers readers(device->block_path(), kThreads);
    throttle_->Set(kCrawl);
    readers.Start(1, kReadBytes);
    ASSERT_TRUE(Holds(*device, kThreads));
    EXPECT_EQ(readers.done(), 0);
    throttle_->Set(raised);
    EXPECT_TRUE(Eventually(kBound, [&] { return readers.done() == kThreads; }));
    EXPECT_EQ(readers.errors(), 0);
  }
  EXPECT_TRUE(device->Stop(StopMode::kIfUnused).ok());
}

TEST_F(LimitsTest, ADeviceThatIsStoppedDoesNotWaitForItsLimit) {
  const auto device = Serve({.queues = 2});
  ASSERT_NE(device, nullptr);
  UniqueFd writer(open(device->block_path().c_str(), O_RDWR | O_CLOEXEC));
  constexpr int kThreads = 16;
  Readers readers(device->block_path(), kThreads);
  throttle_->Set(kCrawl);
  // Lies in the page cache: the end of the disk writes it.
  const std::vector<char> dirty(4 * kMiB, 'd');
  // Not where it is read, which would write it at once.
  ASSERT_EQ(pwrite(writer.get(), dirty.data(), dirty.size(), 32 * kMiB),
            static_cast<ssize_t>(dirty.size()));
  readers.Start(1, kReadBytes);
  ASSERT_TRUE(Holds(*device, kThreads));
  EXPECT_TRUE(absl::IsFailedPrecondition(device->Stop(StopMode::kIfUnused)));
  EXPECT_EQ(readers.done(), 0) << "a refused stop leaves the limit as it is";

  const absl::Time begin = absl::Now();
  const absl::Status stopped = device->Stop(StopMode::kForce);
  EXPECT_TRUE(stopped.ok() || absl::IsDeadlineExceeded(stopped)) << stopped;
  EXPECT_LT(absl::Now() - begin, kBound);
  readers.Join();
  EXPECT_EQ(readers.errors(), 0) << "what was held was answered";
  const uint32_t id = device->id();
  writer.Reset();
  EXPECT_TRUE(Eventually(absl::Seconds(10),
                         [&] { return absl::IsNotFound(control().GetDeviceInfo(id).status()); }));
}

TEST_F(LimitsTest, ADeviceThatIsLeftDoesNotWaitForItsLimit) {
  if (!control().features().Has(ublk::Feature::kUserRecoveryReissue)) {
    GTEST_SKIP() << "the driver has no recovery";
  }
  auto device = Serve({.queues = 2, .recoverable = true});
  ASSERT_NE(device, nullptr);
  const uint32_t id = device->id();
  const absl::Cleanup end = [&] {
    if (HasFailure()) (void)control().StopDevice(id);
  };
  constexpr int kThreads = 16;
  constexpr int kReads = 3;
  Readers readers(device->block_path(), kThreads);
  throttle_->Set(kCrawl);
  readers.Start(kReads, kReadBytes);
  ASSERT_TRUE(Holds(*device, kThreads));
  const absl::Time begin = absl::Now();
  const absl::Status left = device->Leave();
  ASSERT_TRUE(left.ok()) << left;
  EXPECT_LT(absl::Now() - begin, kBound);
  EXPECT_TRUE(Eventually(kBound, [&] { return readers.done() >= kThreads; }))
      << "what was held was answered";

  auto target = OpenTarget(kCrawl);
  ASSERT_TRUE(target.ok()) << target.status();
  auto next = Device::Recover(control(), {.id = id}, *std::move(target));
  ASSERT_TRUE(next.ok()) << next.status();
  ASSERT_TRUE(Holds(**next, kThreads)) << "the limits of the next server hold";
  throttle_->Set({});
  readers.Join();
  EXPECT_EQ(readers.done(), kThreads * kReads);
  EXPECT_EQ(readers.errors(), 0);
  EXPECT_TRUE((*next)->Stop(StopMode::kIfUnused).ok());
}

}  // namespace
}  // namespace ublkd
