// SPDX-License-Identifier: Apache-2.0
//
// Our counters are those of the kernel.
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/vm/engine/fixture.h"

namespace ublkd {
namespace {

using ublk::Op;

/// The fields of a disk's line in /proc/diskstats that we have, too.
struct DiskStats {
  uint64_t reads = 0;
  uint64_t read_bytes = 0;
  uint64_t writes = 0;
  uint64_t write_bytes = 0;
  uint64_t discards = 0;
  uint64_t discard_bytes = 0;
  uint64_t flushes = 0;

  static DiskStats Of(uint32_t id) {
    // Kernel documentation, admin-guide/iostats.rst: ios, merges, sectors, ticks for each kind.
    std::istringstream text(*ReadFile(absl::StrCat("/sys/block/ublkb", id, "/stat")));
    std::array<uint64_t, 17> field = {};
    for (uint64_t& value : field) text >> value;
    constexpr uint64_t kSector = 512;
    return {.reads = field[0],
            .read_bytes = field[2] * kSector,
            .writes = field[4],
            .write_bytes = field[6] * kSector,
            .discards = field[11],
            .discard_bytes = field[13] * kSector,
            .flushes = field[15]};
  }
};

/// What the kernel and we have counted must agree; `empty_writes` are the flushes that were asked
/// for, each of which the kernel books as a write of nothing, too.
void ExpectEqual(const DiskStats& kernel, const ublk::DeviceStats& ours, uint64_t empty_writes) {
  const ublk::OpStats zeroes = ours.Total(Op::kWriteZeroes);
  EXPECT_EQ(ours.Total(Op::kRead).ios, kernel.reads);
  EXPECT_EQ(ours.Total(Op::kRead).bytes, kernel.read_bytes);
  EXPECT_EQ(ours.Total(Op::kWrite).ios + zeroes.ios + empty_writes, kernel.writes);
  EXPECT_EQ(ours.Total(Op::kWrite).bytes + zeroes.bytes, kernel.write_bytes);
  EXPECT_EQ(ours.Total(Op::kDiscard).ios, kernel.discards);
  EXPECT_EQ(ours.Total(Op::kDiscard).bytes, kernel.discard_bytes);
  EXPECT_EQ(ours.Total(Op::kFlush).ios, kernel.flushes);
  for (const Op op : ublk::kAllOps) {
    const ublk::OpStats total = ours.Total(op);
    uint64_t in_buckets = 0;
    for (const uint64_t count : total.latency_buckets) in_buckets += count;
    EXPECT_EQ(in_buckets, total.ios) << "every " << ublk::OpName(op) << " is in one bucket";
    EXPECT_EQ(total.errors, 0u);
    EXPECT_EQ(total.in_flight, 0u);
  }
}

TEST_F(EngineTest, CountersEqualDiskstats) {
  auto device = ServeFile(MakeFile("disk", 64 * kMiB), {.queues = 2});
  ASSERT_TRUE(device.ok()) << device.status();
  const std::string path = (*device)->block_path();
  ASSERT_TRUE(RunCommand(
      absl::StrCat("fio --name=mix --filename=", path,
                   " --rw=randrw --bsrange=512-64k --blockalign=512 --direct=1 --ioengine=io_uring "
                   "--iodepth=16 --io_size=8m --size=64m && blkdiscard -o 1M -l 4M ",
                   path, " && blkdiscard -z -o 8M -l 1M ", path)));
  const DiskStats kernel = DiskStats::Of((*device)->id());
  // What was closed after writing was flushed, one at a time.
  ExpectEqual(kernel, (*device)->Stats(), kernel.flushes);
  EXPECT_GT(kernel.reads, 0u);
  EXPECT_GT(kernel.writes, 0u);
  EXPECT_GT(kernel.discards, 0u);

  constexpr uint64_t kFlushes = 5;
  for (uint64_t i = 0; i < kFlushes; ++i) ASSERT_TRUE(RunCommand("sync " + path));
  const DiskStats after = DiskStats::Of((*device)->id());
  EXPECT_EQ(after.flushes - kernel.flushes, kFlushes);
  ExpectEqual(after, (*device)->Stats(), after.flushes);
}

TEST_F(EngineTest, EachQueueCountsItsOwn) {
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2) GTEST_SKIP() << "needs two processors";
  auto device = ServeNull({.queues = 2});
  ASSERT_TRUE(device.ok()) << device.status();
  const auto cpus = control().QueueAffinity((*device)->id(), 1);
  ASSERT_TRUE(cpus.ok()) << cpus.status();
  int cpu = 0;
  while (!CPU_ISSET(cpu, &*cpus)) ++cpu;
  const uint64_t before = (*device)->Stats().queues[1][Op::kRead].ios;
  ASSERT_TRUE(RunCommand(absl::StrCat("taskset -c ", cpu, " dd if=", (*device)->block_path(),
                                      " of=/dev/null bs=4k count=100 iflag=direct")));
  const ublk::DeviceStats stats = (*device)->Stats();
  ASSERT_EQ(stats.queues.size(), 2u);
  EXPECT_EQ(stats.queues[1][Op::kRead].ios - before, 100u)
      << "processor " << cpu << " is one of queue 1";
}

}  // namespace
}  // namespace ublkd
