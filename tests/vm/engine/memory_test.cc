// SPDX-License-Identifier: Apache-2.0
//
// What a burst of requests has taken is given back when it is over, and no data with it.
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/vm/engine/fixture.h"
#include "tests/vm/engine/verified_load.h"

namespace ublkd {
namespace {

using ublk::BufferMode;
using ublk::Device;
using ublk::StopMode;

constexpr uint64_t kDiskBytes = uint64_t{64} << 20;

class MemoryTest : public EngineTest {
 protected:
  std::unique_ptr<Device> Serve(ublk::DeviceOptions options) {
    options.buffers = BufferMode::kCopy;
    auto device = ServeFile(MakeFile("disk", kDiskBytes), options);
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *std::move(device) : nullptr;
  }

  static size_t ResidentBytes() {
    size_t total_pages = 0;
    size_t resident_pages = 0;
    std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;
    return resident_pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  }

  static testing::AssertionResult Burst(const Device& device) {
    return RunCommand(absl::StrCat(
        "fio --name=burst --filename=", device.block_path(),
        " --rw=randwrite --bs=256k --direct=1 --ioengine=io_uring --iodepth=64 --size=64m "
        "--randrepeat=1 --verify=crc32c --do_verify=1 --verify_fatal=1"));
  }
};

TEST_F(MemoryTest, ABurstIsGivenBack) {
  const auto device = Serve({.queues = 1, .depth = 64, .max_io_bytes = 256 << 10});
  ASSERT_NE(device, nullptr);
  for (int round = 0; round < 2; ++round) {
    const size_t before_bytes = ResidentBytes();
    ASSERT_TRUE(Burst(*device)) << "round " << round;
    ASSERT_GT(ResidentBytes(), before_bytes + 8 * kMiB) << "64 requests of 256 KiB at a time";
    device->GiveMemoryBack();
    EXPECT_TRUE(Eventually(absl::Seconds(30),
                           [before_bytes] { return ResidentBytes() < before_bytes + kMiB; }))
        << ResidentBytes() - before_bytes << " bytes more than before, round " << round;
  }
  EXPECT_TRUE(device->Stop(StopMode::kIfUnused).ok());
  device->GiveMemoryBack();
}

TEST_F(MemoryTest, NoDataIsGivenBackUnderLoad) {
  // One request at a time for each queue, so that there are moments without any.
  const auto device = Serve({.queues = 2, .depth = 8});
  ASSERT_NE(device, nullptr);
  std::atomic<bool> stop = false;
  std::thread asking([&] {
    while (!stop) {
      device->GiveMemoryBack();
      absl::SleepFor(absl::Microseconds(100));
    }
  });
  // Larger than what is kept of a buffer.
  VerifiedLoad load(device->block_path(), kDiskBytes, 2, 0, 16 << 10);
  EXPECT_TRUE(Eventually(absl::Seconds(60), [&load] { return load.done() > 5000; }));
  load.Finish();
  stop = true;
  asking.join();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0) << "of " << load.done();
  EXPECT_TRUE(device->Stop(StopMode::kIfUnused).ok());
}

}  // namespace
}  // namespace ublkd
