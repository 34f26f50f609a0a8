// SPDX-License-Identifier: Apache-2.0
//
// ZONE_APPEND: the server says where the data went. Users have no call for it, btrfs does it for
// them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/zoned_disk.h"

namespace ublkd::driver_test {
namespace {

constexpr char kMountPoint[] = "/tmp/zoned";

class ZoneAppend : public testing::Test {
 protected:
  void Start(uint64_t bytes, uint64_t zone_bytes) {
    Geometry geometry;
    geometry.flags = UBLK_F_ZONED | UBLK_F_USER_COPY;
    geometry.bytes = bytes;
    geometry.zone_bytes = zone_bytes;
    geometry.block_shift = 12;
    geometry.discard = false;
    zones_ = std::make_unique<ZoneServer>(geometry);
    live_ = std::make_unique<LiveDevice>(geometry, zones_->handler());
    mkdir(kMountPoint, 0700);
  }
  bool Mount(const char* type) {
    mounted_ = mount(live_->device->disk().c_str(), kMountPoint, type, 0, nullptr) == 0;
    return mounted_;
  }
  void Unmount() {
    EXPECT_EQ(umount(kMountPoint), 0) << std::strerror(errno);
    mounted_ = false;
  }
  void TearDown() override {
    if (mounted_) Unmount();
    live_.reset();
  }

  std::unique_ptr<ZoneServer> zones_;
  std::unique_ptr<LiveDevice> live_;
  bool mounted_ = false;
};

TEST_F(ZoneAppend, OfBtrfsIsFoundAgain) {
  if (std::system("modprobe btrfs 2>/dev/null") != 0) GTEST_SKIP() << "no btrfs";
  Start(256 << 20, 4 << 20);
  const std::string make =
      "mkfs.btrfs -q -O zoned -d single -m single " + live_->device->disk() + " >/dev/null";
  ASSERT_EQ(std::system(make.c_str()), 0);
  ASSERT_TRUE(Mount("btrfs")) << std::strerror(errno);

  constexpr size_t kBytes = 3 << 20;
  const PageBuffer data(kBytes);
  FillPattern(data.data(), kBytes, 9);
  const std::string name = std::string(kMountPoint) + "/file";
  const int file = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(file, 0) << std::strerror(errno);
  EXPECT_EQ(WriteAt(file, data.data(), kBytes, 0), int{kBytes});
  EXPECT_EQ(fsync(file), 0) << std::strerror(errno);
  close(file);
  Unmount();
  EXPECT_GT(zones_->shared()->appends, 0) << "btrfs appends its data";

  ASSERT_TRUE(Mount("btrfs")) << std::strerror(errno);
  std::memset(data.data(), 0, kBytes);
  const int again = open(name.c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(ReadAt(again, data.data(), kBytes, 0), int{kBytes});
  EXPECT_TRUE(HoldsPattern(data.data(), kBytes, 9)) << "the file has other data than was written";
  close(again);
}

}  // namespace
}  // namespace ublkd::driver_test
