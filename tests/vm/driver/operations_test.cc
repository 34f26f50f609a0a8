// SPDX-License-Identifier: Apache-2.0
//
// Which operations and flags reach the server, and in what order.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/served.h"

namespace ublkd::driver_test {
namespace {

TEST(Ops, DiscardAndWriteZeroesReachTheServer_R49) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())));
  std::memset(ram.data(), 0x77, geometry.bytes);

  uint64_t range[2] = {1 << 20, 64 << 10};
  ASSERT_EQ(ioctl(served.fd, BLKDISCARD, range), 0) << "discard refused";
  const auto discard = recorder.Find(UBLK_IO_OP_DISCARD);
  ASSERT_TRUE(discard.has_value()) << "the server saw no DISCARD";
  EXPECT_EQ(discard->sector, range[0] / 512);
  EXPECT_EQ(discard->sectors, range[1] / 512);

  recorder.Take();
  range[0] = 4 << 20;
  ASSERT_EQ(ioctl(served.fd, BLKZEROOUT, range), 0) << "zeroing refused";
  const auto zeroes = recorder.Find(UBLK_IO_OP_WRITE_ZEROES);
  ASSERT_TRUE(zeroes.has_value()) << "the server saw no WRITE_ZEROES";
  EXPECT_NE(zeroes->flags & UBLK_IO_F_NOUNMAP, 0U) << "BLKZEROOUT must not deallocate";
  EXPECT_EQ(ram.data()[4 << 20], std::byte{0});

  recorder.Take();
  ASSERT_EQ(fallocate(served.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 << 20, 64 << 10), 0);
  const auto punched = recorder.Find(UBLK_IO_OP_WRITE_ZEROES);
  ASSERT_TRUE(punched.has_value()) << "the server saw no WRITE_ZEROES for a hole";
  EXPECT_EQ(punched->flags & UBLK_IO_F_NOUNMAP, 0U) << "punching a hole may deallocate";
}

TEST(Ops, FlushIsSentForAVolatileCache_R49) {
  Geometry geometry;
  geometry.attrs = UBLK_ATTR_VOLATILE_CACHE;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())));
  ASSERT_EQ(fsync(served.fd), 0);
  EXPECT_TRUE(recorder.Find(UBLK_IO_OP_FLUSH).has_value()) << "fsync must reach the server";
}

TEST(Ops, NoFlushWithoutAVolatileCache) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())));
  ASSERT_EQ(fsync(served.fd), 0);
  EXPECT_FALSE(recorder.Find(UBLK_IO_OP_FLUSH).has_value())
      << "a device without a volatile cache needs no flush";
}

TEST(Ops, FuaIsForwarded_R54) {
  Geometry geometry;
  geometry.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())), {}, O_RDWR | O_DIRECT | O_DSYNC);
  PageBuffer buffer(4096);
  std::memset(buffer.data(), 1, 4096);
  ASSERT_EQ(pwrite(served.fd, buffer.data(), 4096, 0), 4096);
  const auto write = recorder.Find(UBLK_IO_OP_WRITE);
  ASSERT_TRUE(write.has_value());
  EXPECT_NE(write->flags & UBLK_IO_F_FUA, 0U) << "an O_DSYNC write must carry FUA";
}

TEST(Ops, HintsOfTheirUsersAreForwarded_R54) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  Recorder recorder;
  Served served(geometry, recorder.Wrap(RamHandler(ram.data())), {}, O_RDWR);
  const std::string disk = served.device.disk();
  const auto flags = [&](uint8_t op) {
    uint32_t all = 0;
    for (const Seen& seen : recorder.Take())
      if (seen.op == op) all |= seen.flags;
    return all;
  };

  constexpr uint32_t kFailFast =
      UBLK_IO_F_FAILFAST_DEV | UBLK_IO_F_FAILFAST_TRANSPORT | UBLK_IO_F_FAILFAST_DRIVER;
  // A page may be read ahead and not be there in the end.
  recorder.Take();
  ASSERT_EQ(posix_fadvise(served.fd, 8 << 20, 64 << 10, POSIX_FADV_WILLNEED), 0);
  uint32_t seen = 0;
  EXPECT_TRUE(Eventually([&] { return ((seen |= flags(UBLK_IO_OP_READ)) & kFailFast) != 0; }));
  EXPECT_EQ(seen & kFailFast, kFailFast) << "of what is only read ahead";

  ASSERT_EQ(std::system(("mke2fs -q -t ext2 " + disk + " 4096").c_str()), 0);
  const char* folder = "/tmp/meta";
  mkdir(folder, 0700);
  recorder.Take();
  // Without the pages that mke2fs has left.
  ASSERT_EQ(ioctl(served.fd, BLKFLSBUF, 0), 0);
  ASSERT_EQ(mount(disk.c_str(), folder, "ext4", 0, nullptr), 0) << std::strerror(errno);
  close(open((std::string(folder) + "/file").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  ASSERT_EQ(umount(folder), 0);
  EXPECT_NE(flags(UBLK_IO_OP_READ) & UBLK_IO_F_META, 0U) << "of what ext4 reads of its own";

  ASSERT_EQ(std::system(("mkswap " + disk + " >/dev/null 2>&1").c_str()), 0);
  recorder.Take();
  ASSERT_EQ(swapon(disk.c_str(), 0), 0) << std::strerror(errno);
  constexpr size_t kBytes = 256 << 10;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  seen = 0;
  EXPECT_TRUE(Eventually([&] {
    std::memset(memory, 1, kBytes);
    madvise(memory, kBytes, MADV_PAGEOUT);
    return ((seen |= flags(UBLK_IO_OP_WRITE)) & UBLK_IO_F_SWAP) != 0;
  })) << "of pages that are swapped out";
  munmap(memory, kBytes);
  ASSERT_EQ(swapoff(disk.c_str()), 0);
}

TEST(Ops, AttributesShowInSysfs) {
  Geometry geometry;
  geometry.attrs = UBLK_ATTR_READ_ONLY | UBLK_ATTR_ROTATIONAL | UBLK_ATTR_VOLATILE_CACHE;
  geometry.block_shift = 12;
  SharedMemory ram(geometry.bytes);
  Served served(geometry, RamHandler(ram.data()), {}, O_RDONLY);
  const std::string queue = "/sys/block/ublkb" + std::to_string(served.device.id()) + "/";
  const auto read_sysfs = [&](const std::string& name) {
    char text[64] = {};
    const int fd = open((queue + name).c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    return std::string(text, n > 0 ? size_t(n) - 1 : 0);
  };
  EXPECT_EQ(read_sysfs("ro"), "1");
  EXPECT_EQ(read_sysfs("queue/rotational"), "1");
  EXPECT_EQ(read_sysfs("queue/write_cache"), "write back");
  EXPECT_EQ(read_sysfs("queue/logical_block_size"), "4096");
  EXPECT_EQ(read_sysfs("queue/max_hw_sectors_kb"), "512");
  EXPECT_EQ(read_sysfs("size"), std::to_string(geometry.bytes / 512));
  const int writer = open(served.device.disk().c_str(), O_RDWR | O_CLOEXEC);
  if (writer >= 0) {
    EXPECT_EQ(pwrite(writer, "x", 1, 0), -1) << "a read-only disk must not be written";
    close(writer);
  }
}

// One submitter, one queue: the server gets requests in the order of submission.
TEST(Order, RequestsArriveAsSubmitted_R45) {
  const Geometry geometry = {.queues = 1, .depth = 64};
  Recorder recorder;
  Served served(geometry, recorder.Wrap([](const Request& request) -> std::optional<int> {
    return static_cast<int>(request.bytes());
  }));
  // The partition scan may still read: it ends before its requests are looked at.
  Ring ring(64, 0);
  ASSERT_EQ(ring.error(), 0);
  PageBuffer buffer(4096 * 32);
  std::vector<uint64_t> expected;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 32; ++i) {
      // Not adjacent, so that nothing is merged.
      const uint64_t sector = static_cast<uint64_t>((round * 32 + i) * 2 + 100) * 8;
      io_uring_sqe* sqe = io_uring_get_sqe(ring.get());
      io_uring_prep_write(sqe, served.fd, buffer.data() + 4096 * i, 4096, sector * 512);
      expected.push_back(sector);
    }
    ASSERT_EQ(io_uring_submit(ring.get()), 32);
    for (int i = 0; i < 32; ++i) {
      ASSERT_EQ(ring.Finish(), 4096);
    }
  }
  std::vector<uint64_t> arrived;
  for (const Seen& seen : recorder.Take())
    if (seen.op == UBLK_IO_OP_WRITE) arrived.push_back(seen.sector);
  EXPECT_EQ(arrived, expected) << "requests of one queue arrived in another order";
}

TEST(Order, DescriptorsStayAsTheyAreUntilTheCommit_R46) {
  constexpr uint16_t kHeld = 7;
  const Geometry geometry = {
      .depth = kHeld + 1, .flags = UBLK_F_NO_AUTO_PART_SCAN, .discard = false};
  // By place on the disk, since who comes first gets which tag is open.
  std::vector<std::pair<uint16_t, ublksrv_io_desc>> held;
  std::atomic<int> wrong = 0;
  std::atomic<bool> hold = true;
  Served served(geometry, [&](const Request& request) -> std::optional<int> {
    const uint64_t block = request.offset() / 4096;
    const bool right = request.bytes() == 4096 && request.op() == UBLK_IO_OP_WRITE &&
                       std::all_of(request.buffer, request.buffer + 4096,
                                   [&](std::byte b) { return b == static_cast<std::byte>(block); });
    if (!right) ++wrong;
    if (!hold || block >= kHeld) return 4096;
    held.emplace_back(request.tag, *request.desc);
    return std::nullopt;
  });
  const auto write = [&](uint64_t block) {
    const PageBuffer buffer(4096);
    std::memset(buffer.data(), static_cast<int>(block & 0xff), 4096);
    return pwrite(served.fd, buffer.data(), 4096, static_cast<off_t>(block * 4096)) == 4096;
  };
  std::vector<std::thread> writers;
  std::atomic<int> failed = 0;
  for (uint64_t block = 0; block < kHeld; ++block) {
    writers.emplace_back([&, block] { failed += write(block) ? 0 : 1; });
  }
  const auto in_server = [&](const std::function<void(QueueServer&)>& action) {
    served.server->InThread(0, action);
  };
  EXPECT_TRUE(Eventually([&] {
    bool all = false;
    in_server([&](QueueServer&) { all = held.size() == kHeld; });
    return all;
  }));
  for (uint64_t round = 0; round < 100; ++round) EXPECT_TRUE(write(100 + round));
  hold = false;
  in_server([&](QueueServer& q) {
    for (const auto& [tag, desc] : held) {
      EXPECT_EQ(std::memcmp(&q.Desc(tag), &desc, sizeof(desc)), 0) << "tag " << tag;
      q.Commit(tag, 4096);
    }
  });
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(wrong, 0) << "a server was told before descriptor and data were there";
}

}  // namespace
}  // namespace ublkd::driver_test
