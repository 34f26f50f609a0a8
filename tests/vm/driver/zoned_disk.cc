// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/driver/zoned_disk.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/user_copy.h"

namespace ublkd::driver_test {

ZoneServer::ZoneServer(const Geometry& geometry)
    : disk_sectors_(geometry.bytes / kSectorBytes),
      zone_sectors_(geometry.zone_bytes / kSectorBytes),
      count_((disk_sectors_ + zone_sectors_ - 1) / zone_sectors_),
      data_(geometry.bytes),
      zones_memory_(count_ * sizeof(blk_zone)),
      shared_memory_(sizeof(Shared)),
      zones_(zones_memory_.as<blk_zone>()),
      shared_(new (shared_memory_.data()) Shared) {
  for (size_t i = 0; i < count_; ++i) {
    zones_[i] = {};
    zones_[i].start = i * zone_sectors_;
    zones_[i].len = std::min<uint64_t>(zone_sectors_, disk_sectors_ - zones_[i].start);
    zones_[i].capacity = zones_[i].len;
    zones_[i].wp = zones_[i].start;
    zones_[i].type = BLK_ZONE_TYPE_SEQWRITE_REQ;
    zones_[i].cond = BLK_ZONE_COND_EMPTY;
  }
}

int ZoneServer::OnReport(const Request& request) {
  const size_t first = request.desc->start_sector / zone_sectors_;
  const size_t count = std::min<size_t>(request.desc->nr_zones, count_ - first);
  ++shared_->reports;
  shared_->most_zones = std::max(shared_->most_zones.load(), request.desc->nr_zones);
  std::vector<blk_zone> answer(zones_ + first, zones_ + first + count);
  if (shared_->report == Report::kDistort) {
    for (blk_zone& zone : answer) distort(zone);
  }
  const size_t bytes = answer.size() * sizeof(blk_zone);
  return WriteAt(request.fd, answer.data(), bytes, UserCopyAt(request.queue, request.tag));
}

int ZoneServer::OnWrite(const Request& request) {
  blk_zone& zone = ZoneAt(request.desc->start_sector);
  const bool append = request.op() == UBLK_IO_OP_ZONE_APPEND;
  if (append && request.desc->start_sector != zone.start) return -EINVAL;
  if (!append && request.desc->start_sector != zone.wp) return -EIO;
  if (zone.wp + request.desc->nr_sectors > zone.start + zone.len) return -EIO;
  std::byte* place = data_.data() + zone.wp * kSectorBytes;
  const int n = ReadAt(request.fd, place, request.bytes(), UserCopyAt(request.queue, request.tag));
  if (n != static_cast<int>(request.bytes())) return n < 0 ? n : -EIO;
  if (append) {
    *request.commit_at = zone.wp;
    ++shared_->appends;
  }
  zone.wp += request.desc->nr_sectors;
  if (zone.cond != BLK_ZONE_COND_EXP_OPEN) zone.cond = BLK_ZONE_COND_IMP_OPEN;
  if (zone.wp == zone.start + zone.len) zone.cond = BLK_ZONE_COND_FULL;
  return n;
}

int ZoneServer::OnRead(const Request& request) {
  return WriteAt(request.fd, data_.data() + request.offset(), request.bytes(),
                 UserCopyAt(request.queue, request.tag));
}

int ZoneServer::OnManage(uint8_t op, uint64_t at) {
  blk_zone& zone = ZoneAt(at);
  switch (op) {
    case UBLK_IO_OP_ZONE_OPEN:
      zone.cond = BLK_ZONE_COND_EXP_OPEN;
      return 0;
    case UBLK_IO_OP_ZONE_CLOSE:
      zone.cond = zone.wp == zone.start ? BLK_ZONE_COND_EMPTY : BLK_ZONE_COND_CLOSED;
      return 0;
    case UBLK_IO_OP_ZONE_FINISH:
      zone.cond = BLK_ZONE_COND_FULL;
      zone.wp = zone.start + zone.len;
      return 0;
    case UBLK_IO_OP_ZONE_RESET:
      zone.cond = BLK_ZONE_COND_EMPTY;
      zone.wp = zone.start;
      std::memset(data_.data() + zone.start * kSectorBytes, 0, zone.len * kSectorBytes);
      return 0;
    default:
      return -EOPNOTSUPP;
  }
}

Handler ZoneServer::handler() {
  return [this](const Request& request) -> std::optional<int> {
    const std::lock_guard lock(mutex_);
    switch (request.op()) {
      case UBLK_IO_OP_REPORT_ZONES:
        if (shared_->report == Report::kFail) return -EIO;
        if (shared_->report != Report::kKeep) return OnReport(request);
        ++shared_->reports;
        return std::nullopt;
      case UBLK_IO_OP_READ:
        return OnRead(request);
      case UBLK_IO_OP_WRITE:
      case UBLK_IO_OP_ZONE_APPEND:
        return OnWrite(request);
      case UBLK_IO_OP_ZONE_RESET_ALL:
        ++shared_->resets_of_all;
        for (uint64_t at = 0; at < disk_sectors_; at += zone_sectors_) {
          OnManage(UBLK_IO_OP_ZONE_RESET, at);
        }
        return 0;
      case UBLK_IO_OP_FLUSH:
        return 0;
      default:
        return OnManage(request.op(), request.desc->start_sector);
    }
  };
}

std::optional<std::vector<blk_zone>> ReportZones(int disk, uint64_t sector, size_t count) {
  std::vector<std::byte> memory(sizeof(blk_zone_report) + count * sizeof(blk_zone));
  auto* report = reinterpret_cast<blk_zone_report*>(memory.data());
  report->sector = sector;
  report->nr_zones = static_cast<uint32_t>(count);
  if (ioctl(disk, BLKREPORTZONE, report) != 0) return std::nullopt;
  return std::vector<blk_zone>(report->zones, report->zones + report->nr_zones);
}

int ManageZones(int disk, unsigned long request, uint64_t sector, uint64_t sectors) {
  blk_zone_range range = {.sector = sector, .nr_sectors = sectors};
  return ioctl(disk, request, &range) == 0 ? 0 : -errno;
}

}  // namespace ublkd::driver_test
