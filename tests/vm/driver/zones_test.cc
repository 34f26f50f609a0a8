// SPDX-License-Identifier: Apache-2.0
//
// UBLK_F_ZONED: a disk whose zones are its server's.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <future>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/zoned_disk.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kZoneBytes = 1 << 20;
constexpr uint64_t kZoneSectors = kZoneBytes / kSectorBytes;
constexpr size_t kZones = 12;
constexpr uint64_t kZonedFlags = UBLK_F_ZONED | UBLK_F_USER_COPY;
constexpr std::chrono::milliseconds kShort{200};

Geometry ZonedGeometry() {
  Geometry geometry;
  geometry.flags = kZonedFlags;
  geometry.bytes = kZones * kZoneBytes;
  geometry.discard = false;
  geometry.zone_bytes = kZoneBytes;
  geometry.block_shift = 12;
  return geometry;
}

std::string QueueAttribute(uint32_t id, const std::string& name) {
  std::string line;
  std::ifstream file("/sys/block/ublkb" + std::to_string(id) + "/queue/" + name);
  std::getline(file, line);
  return line;
}

// A zoned device and its server, up.
class Zones : public testing::Test {
 protected:
  void Start(const Geometry& geometry = ZonedGeometry()) {
    zones_ = std::make_unique<ZoneServer>(geometry);
    live_ = std::make_unique<LiveDevice>(geometry, zones_->handler());
    ASSERT_EQ(live_->device->info().flags & kZonedFlags, kZonedFlags);
    disk_ = live_->fd;
  }
  void TearDown() override { live_.reset(); }
  // A page written at a sector; 4096 or -errno.
  int Write(uint64_t sector, uint32_t seed) {
    const PageBuffer page(kPage);
    FillPattern(page.data(), kPage, seed);
    return WriteAt(disk_, page.data(), kPage, static_cast<off_t>(sector * kSectorBytes));
  }
  blk_zone Zone(size_t i) {
    const auto zones = ReportZones(disk_, i * kZoneSectors, 1);
    EXPECT_TRUE(zones.has_value() && zones->size() == 1) << "BLKREPORTZONE of zone " << i;
    return zones.has_value() && !zones->empty() ? (*zones)[0] : blk_zone{};
  }

  std::unique_ptr<ZoneServer> zones_;
  std::unique_ptr<LiveDevice> live_;
  int disk_ = -1;
};

TEST_F(Zones, TheDiskShowsWhatTheServerReports) {
  Start();
  uint32_t sectors = 0;
  uint32_t count = 0;
  EXPECT_EQ(ioctl(disk_, BLKGETZONESZ, &sectors), 0);
  EXPECT_EQ(sectors, kZoneSectors);
  EXPECT_EQ(ioctl(disk_, BLKGETNRZONES, &count), 0);
  EXPECT_EQ(count, kZones);
  EXPECT_EQ(QueueAttribute(live_->id(), "zoned"), "host-managed");
  EXPECT_EQ(QueueAttribute(live_->id(), "nr_zones"), std::to_string(kZones));
  EXPECT_EQ(QueueAttribute(live_->id(), "chunk_sectors"), std::to_string(kZoneSectors));
  EXPECT_EQ(QueueAttribute(live_->id(), "zone_append_max_bytes"),
            std::to_string(live_->geometry().max_io_bytes));

  const auto all = ReportZones(disk_, 0, kZones + 5);
  ASSERT_TRUE(all.has_value()) << std::strerror(errno);
  ASSERT_EQ(all->size(), kZones);
  for (size_t i = 0; i < kZones; ++i) {
    EXPECT_EQ(std::memcmp(&(*all)[i], &zones_->zone(i), sizeof(blk_zone)), 0) << "zone " << i;
  }
  const auto some = ReportZones(disk_, 5 * kZoneSectors + 8, 3);
  ASSERT_TRUE(some.has_value() && some->size() == 3) << "a report from the middle of a zone";
  EXPECT_EQ((*some)[0].start, 5 * kZoneSectors);
  const auto end = ReportZones(disk_, (kZones - 1) * kZoneSectors, 8);
  ASSERT_TRUE(end.has_value() && end->size() == 1) << "a report of the last zone";
}

TEST_F(Zones, WritesGoToTheWritePointer) {
  Start();
  for (uint32_t i = 0; i < 5; ++i) {
    ASSERT_EQ(Write(kZoneSectors + i * 8, i), 4096);
    EXPECT_EQ(Zone(1).wp, kZoneSectors + (i + 1) * 8) << "after write " << i;
  }
  EXPECT_EQ(Zone(1).cond, BLK_ZONE_COND_IMP_OPEN);
  EXPECT_EQ(Zone(0).cond, BLK_ZONE_COND_EMPTY);
  const PageBuffer page(kPage);
  for (uint32_t i = 0; i < 5; ++i) {
    ASSERT_EQ(ReadAt(disk_, page.data(), kPage, off_t(kZoneBytes + i * kPage)), 4096);
    EXPECT_TRUE(HoldsPattern(page.data(), kPage, i)) << "page " << i;
  }
  EXPECT_EQ(Write(2 * kZoneSectors + 64, 1), -EIO) << "not at the write pointer";
  // Kernels that keep count of write pointers want to be told where this one is now.
  EXPECT_EQ(Zone(2).wp, 2 * kZoneSectors);
  EXPECT_EQ(Write(2 * kZoneSectors, 1), 4096) << "the zone must stay usable after that";
}

TEST_F(Zones, AWholeZoneIsWrittenInOrderAndIsFull) {
  Start();
  const PageBuffer buffer(kZoneBytes);
  FillPattern(buffer.data(), kZoneBytes, 5);
  // More than a request, and by io_uring, several at a time.
  Ring ring(8, 0);
  constexpr size_t kPart = kZoneBytes / 4;
  for (size_t i = 0; i < 4; ++i) {
    io_uring_prep_write(io_uring_get_sqe(ring.get()), disk_, buffer.data() + i * kPart, kPart,
                        3 * kZoneBytes + i * kPart);
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(ring.Finish(), int{kPart});
  EXPECT_EQ(Zone(3).cond, BLK_ZONE_COND_FULL);
  EXPECT_EQ(std::memcmp(zones_->data() + 3 * kZoneBytes, buffer.data(), kZoneBytes), 0);
  EXPECT_EQ(Zone(4).cond, BLK_ZONE_COND_EMPTY);
}

TEST_F(Zones, AreResetOneByOneAndAllAtOnce) {
  Start();
  for (const uint64_t i : {1, 2, 3}) ASSERT_EQ(Write(i * kZoneSectors, 1), 4096);
  ASSERT_EQ(ManageZones(disk_, BLKRESETZONE, kZoneSectors, 2 * kZoneSectors), 0);
  EXPECT_EQ(Zone(1).cond, BLK_ZONE_COND_EMPTY);
  EXPECT_EQ(Zone(2).wp, 2 * kZoneSectors);
  EXPECT_EQ(Zone(3).wp, 3 * kZoneSectors + 8) << "only two zones were to be reset";
  EXPECT_EQ(zones_->shared()->resets_of_all, 0);
  EXPECT_EQ(Write(kZoneSectors, 2), 4096) << "a reset zone is written from its start";

  ASSERT_EQ(ManageZones(disk_, BLKRESETZONE, 0, kZones * kZoneSectors), 0);
  EXPECT_EQ(zones_->shared()->resets_of_all, 1) << "one request resets the whole disk";
  for (size_t i = 0; i < kZones; ++i) EXPECT_EQ(Zone(i).cond, BLK_ZONE_COND_EMPTY) << i;
  EXPECT_EQ(Write(3 * kZoneSectors, 3), 4096);
}

TEST_F(Zones, AreOpenedClosedAndFinished) {
  Start();
  ASSERT_EQ(ManageZones(disk_, BLKOPENZONE, 4 * kZoneSectors, kZoneSectors), 0);
  EXPECT_EQ(Zone(4).cond, BLK_ZONE_COND_EXP_OPEN);
  ASSERT_EQ(Write(4 * kZoneSectors, 1), 4096);
  ASSERT_EQ(ManageZones(disk_, BLKCLOSEZONE, 4 * kZoneSectors, kZoneSectors), 0);
  EXPECT_EQ(Zone(4).cond, BLK_ZONE_COND_CLOSED);
  ASSERT_EQ(ManageZones(disk_, BLKFINISHZONE, 4 * kZoneSectors, kZoneSectors), 0);
  EXPECT_EQ(Zone(4).cond, BLK_ZONE_COND_FULL);
  EXPECT_EQ(ManageZones(disk_, BLKOPENZONE, 4 * kZoneSectors + 8, kZoneSectors), -EINVAL)
      << "not the start of a zone";
}

TEST_F(Zones, AReportMayTakeManyRequests) {
  Geometry geometry = ZonedGeometry();
  geometry.max_io_bytes = kPage;
  geometry.zone_bytes = 64 << 10;
  geometry.bytes = 200 * geometry.zone_bytes;
  Start(geometry);
  EXPECT_EQ(zones_->shared()->reports, 4) << "START_DEV reads 200 zones, 64 a page";
  EXPECT_LE(zones_->shared()->most_zones, kPage / sizeof(blk_zone))
      << "no more zones in a request than fit";
  const auto all = ReportZones(disk_, 0, 500);
  ASSERT_TRUE(all.has_value()) << std::strerror(errno);
  ASSERT_EQ(all->size(), 200U);
  for (size_t i = 0; i < 200; ++i) {
    EXPECT_EQ((*all)[i].start, i * geometry.zone_bytes / kSectorBytes) << "zone " << i;
  }
  const auto some = ReportZones(disk_, 0, 65);
  ASSERT_TRUE(some.has_value());
  EXPECT_EQ(some->size(), 65U) << "one zone more than a request holds";
}

TEST_F(Zones, TheLastMayBeSmaller) {
  Geometry geometry = ZonedGeometry();
  geometry.bytes = 3 * kZoneBytes + (256 << 10);
  zones_ = std::make_unique<ZoneServer>(geometry);
  live_ = std::make_unique<LiveDevice>(geometry, zones_->handler());
  disk_ = live_->fd;
  const auto all = ReportZones(disk_, 0, 8);
  ASSERT_TRUE(all.has_value()) << std::strerror(errno);
  ASSERT_EQ(all->size(), 4U);
  EXPECT_EQ((*all)[3].len, 512U);
}

TEST_F(Zones, AReportThatFailsIsToldToItsCaller) {
  Start();
  zones_->shared()->report = ZoneServer::Report::kFail;
  EXPECT_FALSE(ReportZones(disk_, 0, 4).has_value());
  EXPECT_EQ(errno, EIO);
  zones_->shared()->report = ZoneServer::Report::kAnswer;
  EXPECT_TRUE(ReportZones(disk_, 0, 4).has_value()) << "and the next one is fine";
}

TEST_F(Zones, PlainDisksHaveNone_R52) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  std::atomic<int> strange = 0;
  LiveDevice live(geometry, [&](const Request& request) -> std::optional<int> {
    if (request.op() >= UBLK_IO_OP_ZONE_OPEN) ++strange;
    return RamHandler(ram.data())(request);
  });
  EXPECT_FALSE(ReportZones(live.fd, 0, 4).has_value());
  EXPECT_LT(ManageZones(live.fd, BLKRESETZONE, 0, 2048), 0);
  EXPECT_LT(ManageZones(live.fd, BLKOPENZONE, 0, 2048), 0);
  EXPECT_EQ(strange, 0) << "the server of a plain disk got a request for zones";
}

TEST(ZonedParams, MakeSenseOrAreRefused_R11) {
  Control control;
  ublksrv_ctrl_dev_info info = InfoOf(ZonedGeometry());
  ASSERT_EQ(control.Add(info), 0);
  const auto set = [&](const std::function<void(ublk_params&)>& change) {
    ublk_params params = ParamsOf(ZonedGeometry());
    change(params);
    return control.SetParams(info.dev_id, params);
  };
  EXPECT_EQ(set([](auto& p) { p.basic.chunk_sectors = 3000; }), -EINVAL) << "no power of two";
  EXPECT_EQ(set([](auto& p) { p.basic.chunk_sectors = 0; }), -EINVAL) << "no size of a zone";
  EXPECT_EQ(set([](auto& p) { p.zoned.max_zone_append_sectors = 0; }), -EINVAL) << "no appends";
  EXPECT_EQ(set([](auto& p) { p.types &= ~uint32_t{UBLK_PARAM_TYPE_ZONED}; }), -EINVAL)
      << "a zoned device without parameters of zones";
  EXPECT_EQ(set([](auto& p) { p.zoned.max_open_zones = kZones + 1; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.zoned.max_active_zones = kZones + 1; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) {
              p.zoned.max_open_zones = 4;
              p.zoned.max_active_zones = 6;
            }),
            0);
  ublk_params got = {};
  ASSERT_EQ(control.GetParams(info.dev_id, got), 0);
  EXPECT_EQ(got.zoned.max_open_zones, 4U);
  EXPECT_NE(got.types & UBLK_PARAM_TYPE_ZONED, 0U);
  EXPECT_EQ(control.Delete(info.dev_id), 0);
}

TEST(ZonedParams, NeedAZonedDevice_R11) {
  Control control;
  Device device(control, {});
  ublk_params params = ParamsOf({});
  params.basic.chunk_sectors = kZoneSectors;
  EXPECT_EQ(control.SetParams(device.id(), params), 0) << "a chunk is not a zone";
  params.types |= UBLK_PARAM_TYPE_ZONED;
  params.zoned.max_zone_append_sectors = 8;
  EXPECT_EQ(control.SetParams(device.id(), params), -EINVAL);
}

TEST(ZonedParams, AZonedDeviceNeedsAWayForReports_R06) {
  Control control;
  ublksrv_ctrl_dev_info info = InfoOf({.flags = UBLK_F_ZONED});
  EXPECT_EQ(control.Add(info), -EINVAL) << "without USER_COPY or SUPPORT_ZERO_COPY";
}

}  // namespace
}  // namespace ublkd::driver_test
