// SPDX-License-Identifier: Apache-2.0
//
// Partitions: looked for at START_DEV, or when somebody asks.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

class Partitions : public testing::Test {
 protected:
  void Start(uint64_t flags) {
    // A DOS table with one partition: sectors 2048 to 4095.
    std::byte* entry = ram_.data() + 446;
    entry[4] = std::byte{0x83};
    const uint32_t first = 2048, count = 2048;
    std::memcpy(entry + 8, &first, sizeof(first));
    std::memcpy(entry + 12, &count, sizeof(count));
    ram_.data()[510] = std::byte{0x55};
    ram_.data()[511] = std::byte{0xaa};
    device_ = std::make_unique<Device>(control_, Geometry{.flags = flags});
    ASSERT_EQ(device_->error(), 0);
    server_ = std::make_unique<Server>(device_->id(), device_->geometry(),
                                       [this](const Request& request) -> std::optional<int> {
                                         ++requests_;
                                         return RamHandler(ram_.data())(request);
                                       });
    ASSERT_EQ(control_.Start(device_->id(), getpid()), 0) << "START_DEV failed";
  }

  void TearDown() override {
    if (device_ == nullptr) return;
    EXPECT_EQ(control_.Stop(device_->id()), 0);
    server_->Close();
  }

  std::string partition() const { return device_->disk() + "p1"; }

  Control control_;
  SharedMemory ram_{Geometry{}.bytes};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Server> server_;
  std::atomic<int> requests_ = 0;
};

TEST_F(Partitions, AreFoundWithoutAskingTwice_R51) {
  Start(0);
  EXPECT_TRUE(Eventually([&] { return PathExists(partition()); }))
      << "the partition table is read after START_DEV";
}

TEST_F(Partitions, AreLeftAloneUntilSomebodyAsks_R51) {
  if ((control_.Features() & UBLK_F_NO_AUTO_PART_SCAN) == 0) GTEST_SKIP() << "no such feature";
  Start(UBLK_F_NO_AUTO_PART_SCAN);
  {
    const OpenDisk disk(device_->disk());
    ASSERT_GE(disk.fd(), 0);
    EXPECT_FALSE(Eventually([&] { return requests_ > 0; }, std::chrono::milliseconds(200)))
        << "neither start nor open may look for partitions";
    EXPECT_FALSE(PathExists(partition()));
  }
  const OpenDisk disk(device_->disk(), O_RDONLY);
  EXPECT_EQ(ioctl(disk.fd(), BLKRRPART), 0);
  EXPECT_TRUE(PathExists(partition())) << "BLKRRPART must find them";
}

}  // namespace
}  // namespace ublkd::driver_test
