// SPDX-License-Identifier: Apache-2.0
//
// What is written is what is read, on every shape of device.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/vm/engine/fixture.h"

namespace ublkd {
namespace {

constexpr size_t kAlignment = 4096;
constexpr uint64_t kDiskBytes = uint64_t{96} << 20;

struct Shape {
  uint16_t queues;
  uint32_t block_bytes;
};

std::string ShapeName(const testing::TestParamInfo<Shape>& info) {
  return absl::StrCat(info.param.queues, "Queues", info.param.block_bytes, "Blocks");
}

class DataTest : public EngineTest, public testing::WithParamInterface<Shape> {
 protected:
  std::unique_ptr<ublk::Device> Serve(const std::string& path) {
    if (sysconf(_SC_NPROCESSORS_ONLN) < GetParam().queues) return nullptr;
    auto device = ServeFile(path, {.queues = GetParam().queues}, GetParam().block_bytes);
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *std::move(device) : nullptr;
  }
};

INSTANTIATE_TEST_SUITE_P(Shapes, DataTest,
                         testing::Values(Shape{1, 512}, Shape{1, 4096}, Shape{4, 512},
                                         Shape{4, 4096}),
                         ShapeName);

/// A block of memory that O_DIRECT takes.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t bytes, char fill = 0)
      : bytes_(bytes),
        data_(static_cast<char*>(std::aligned_alloc(kAlignment, bytes)), &std::free) {
    std::fill_n(data_.get(), bytes, fill);
  }
  char* get() const { return data_.get(); }
  bool AllAre(char value) const {
    return std::all_of(get(), get() + bytes_, [value](char c) { return c == value; });
  }

 private:
  size_t bytes_;
  std::unique_ptr<char, decltype(&std::free)> data_;
};

TEST_P(DataTest, FioFindsEveryBlockAsItWroteIt) {
  auto device = Serve(MakeFile("disk", kDiskBytes));
  if (device == nullptr) GTEST_SKIP() << "fewer processors than queues";
  EXPECT_EQ(device->options().queues, GetParam().queues);
  EXPECT_TRUE(RunCommand(absl::StrCat(
      "fio --name=verify --filename=", device->block_path(), " --rw=randwrite --bsrange=",
      GetParam().block_bytes, "-256k --blockalign=", GetParam().block_bytes,
      " --direct=1 --ioengine=io_uring --iodepth=32 --numjobs=", GetParam().queues, " --size=",
      kDiskBytes / GetParam().queues, " --offset_increment=", kDiskBytes / GetParam().queues,
      " --verify=crc32c --do_verify=1 --verify_fatal=1 --randrepeat=1 --io_size=16m")));
  EXPECT_TRUE(device->Stop(ublk::StopMode::kIfUnused).ok());
}

TEST_P(DataTest, AFilesystemSurvivesDetachAndAttach) {
  const std::string path = MakeFile("disk", kDiskBytes);
  auto device = Serve(path);
  if (device == nullptr) GTEST_SKIP() << "fewer processors than queues";
  const std::string mount = absl::StrCat(folder_, "/mount");
  ASSERT_TRUE(RunCommand(absl::StrCat("mkdir ", mount, " && mkfs.ext4 -q ", device->block_path(),
                                      " && mount ", device->block_path(), " ", mount)));
  ASSERT_TRUE(
      RunCommand(absl::StrCat("cp -r /usr/bin ", mount, "/tree 2>/dev/null; cd ", mount,
                              " && find . -type f -print0 | xargs -0 sha256sum > ", folder_,
                              "/sums && test -s ", folder_, "/sums && cd / && umount ", mount)));
  ASSERT_TRUE(device->Stop(ublk::StopMode::kIfUnused).ok());
  device.reset();

  device = Serve(path);
  ASSERT_NE(device, nullptr);
  EXPECT_TRUE(RunCommand(
      absl::StrCat("fsck.ext4 -fn ", device->block_path(), " && mount ", device->block_path(), " ",
                   mount, " && cd ", mount, " && sha256sum --quiet -c ", folder_,
                   "/sums; result=$?; cd /; ", "umount ", mount, "; exit $result")));
  EXPECT_TRUE(device->Stop(ublk::StopMode::kIfUnused).ok());
}

TEST_P(DataTest, DiscardsAndZeroesReachTheFile) {
  const std::string path = MakeFile("disk", kDiskBytes);
  auto device = Serve(path);
  if (device == nullptr) GTEST_SKIP() << "fewer processors than queues";
  const UniqueFd disk(open(device->block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(disk.valid());
  constexpr size_t kChunk = 1 << 20;
  const AlignedBytes ones(kChunk, 1);
  for (off_t at = 0; at < 4 * off_t{kChunk}; at += kChunk) {
    ASSERT_EQ(pwrite(disk.get(), ones.get(), kChunk, at), static_cast<ssize_t>(kChunk));
  }
  ASSERT_EQ(fsync(disk.get()), 0);
  struct stat before;
  ASSERT_EQ(stat(path.c_str(), &before), 0);

  uint64_t discard[2] = {0, kChunk};
  EXPECT_EQ(ioctl(disk.get(), BLKDISCARD, discard), 0);
  uint64_t zero[2] = {kChunk, kChunk};
  EXPECT_EQ(ioctl(disk.get(), BLKZEROOUT, zero), 0) << "zeroes that keep their space";
  EXPECT_EQ(fallocate(disk.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * kChunk, kChunk),
            0)
      << "zeroes that give it back";

  const AlignedBytes read(kChunk, 2);
  for (off_t at = 0; at < 4 * off_t{kChunk}; at += kChunk) {
    ASSERT_EQ(pread(disk.get(), read.get(), kChunk, at), static_cast<ssize_t>(kChunk));
    EXPECT_TRUE(read.AllAre(at < 3 * off_t{kChunk} ? 0 : 1)) << "chunk at " << at;
  }
  struct stat after;
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  const auto freed = (before.st_blocks - after.st_blocks) * 512;
  EXPECT_EQ(freed, static_cast<blkcnt_t>(2 * kChunk))
      << "of three ranges two give their space back";
}

TEST_F(EngineTest, NullReadsZeroesAfterWrites) {
  auto device = ServeNull({.queues = 1, .depth = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  const UniqueFd disk(open((*device)->block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(disk.valid());
  const AlignedBytes data(kAlignment, 'x');
  ASSERT_EQ(pwrite(disk.get(), data.get(), kAlignment, 0), static_cast<ssize_t>(kAlignment));
  ASSERT_EQ(pread(disk.get(), data.get(), kAlignment, 0), static_cast<ssize_t>(kAlignment));
  EXPECT_TRUE(data.AllAre(0));
}

TEST_F(EngineTest, ReadOnlyDevicesRefuseWrites) {
  auto device = ServeNull({.queues = 1, .read_only = true});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE((*device)->geometry().read_only);
  const UniqueFd reader(open((*device)->block_path().c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(reader.valid());
  int read_only = 0;
  EXPECT_EQ(ioctl(reader.get(), BLKROGET, &read_only), 0);
  EXPECT_EQ(read_only, 1);
}

TEST_F(EngineTest, TheDiskLooksLikeItsGeometry) {
  auto device = ServeNull({.queues = 1, .max_io_bytes = 128 << 10}, 8 * kMiB, 4096);
  ASSERT_TRUE(device.ok()) << device.status();
  const std::string queue = absl::StrCat("/sys/block/ublkb", (*device)->id(), "/queue/");
  EXPECT_EQ(*ReadFile(queue + "logical_block_size"), "4096\n");
  EXPECT_EQ(*ReadFile(queue + "physical_block_size"), "4096\n");
  EXPECT_EQ(*ReadFile(queue + "max_hw_sectors_kb"), "128\n");
  EXPECT_EQ(*ReadFile(queue + "write_cache"), "write through\n");
  EXPECT_EQ(*ReadFile(absl::StrCat("/sys/block/ublkb", (*device)->id(), "/size")), "16384\n");
}

TEST_F(EngineTest, AFileDeclaresItsCache) {
  auto device = ServeFile(MakeFile("disk", kDiskBytes), {.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  const std::string queue = absl::StrCat("/sys/block/ublkb", (*device)->id(), "/queue/");
  EXPECT_EQ(*ReadFile(queue + "write_cache"), "write back\n");
  EXPECT_EQ(*ReadFile(queue + "fua"), "1\n");
}

TEST_F(EngineTest, AFileOnTmpfsIsServedThroughThePageCache) {
  const std::string path = "/dev/shm/engine-test-disk";
  ASSERT_TRUE(RunCommand(absl::StrCat("truncate -s 32M ", path)));
  {
    auto device = ServeFile(path, {.queues = 1});
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_TRUE(RunCommand(absl::StrCat(
        "fio --name=verify --filename=", (*device)->block_path(),
        " --rw=randwrite --bs=4k --direct=1 --ioengine=io_uring --iodepth=16 --size=16m "
        "--verify=crc32c --do_verify=1 --verify_fatal=1 --io_size=4m")));
  }
  unlink(path.c_str());
}

}  // namespace
}  // namespace ublkd
