// SPDX-License-Identifier: Apache-2.0
//
// A zoned disk in memory, as the server of one and as its users see it.
#ifndef UBLKD_TESTS_VM_DRIVER_ZONED_DISK_H_
#define UBLKD_TESTS_VM_DRIVER_ZONED_DISK_H_

#include <linux/blkzoned.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {

// Serves zones that must be written in order, of a device with UBLK_F_USER_COPY. Lies in memory
// that is shared with the server.
class ZoneServer {
 public:
  explicit ZoneServer(const Geometry& geometry);

  Handler handler();
  const blk_zone& zone(size_t i) const { return zones_[i]; }
  const std::byte* data() const { return data_.data(); }

  // Set by a test: what to do with REPORT_ZONES instead of answering.
  enum class Report { kAnswer, kFail, kKeep, kDistort };
  struct Shared {
    std::atomic<Report> report = Report::kAnswer;
    std::atomic<bool> served = false;  // by another process
    std::atomic<int> reports = 0;
    std::atomic<uint32_t> most_zones = 0;  // that one report asked for
    std::atomic<int> resets_of_all = 0;
    std::atomic<int> appends = 0;
  };
  Shared* shared() { return shared_; }
  // Of Report::kDistort: what a report says of a zone.
  std::function<void(blk_zone&)> distort;

 private:
  int OnReport(const Request& request);
  int OnWrite(const Request& request);
  int OnRead(const Request& request);
  // `at` is any sector of the zone.
  int OnManage(uint8_t op, uint64_t at);
  blk_zone& ZoneAt(uint64_t sector) { return zones_[sector / zone_sectors_]; }

  const uint64_t disk_sectors_;
  const uint64_t zone_sectors_;
  const size_t count_;
  SharedMemory data_;
  SharedMemory zones_memory_;
  SharedMemory shared_memory_;
  blk_zone* const zones_;
  Shared* const shared_;
  // Of the server's threads.
  std::mutex mutex_;
};

// What BLKREPORTZONE tells of `count` zones from a sector on, or nothing, with errno.
std::optional<std::vector<blk_zone>> ReportZones(int disk, uint64_t sector, size_t count);

// BLKRESETZONE and its like; 0 or -errno.
int ManageZones(int disk, unsigned long request, uint64_t sector, uint64_t sectors);

}  // namespace ublkd::driver_test

#endif  // UBLKD_TESTS_VM_DRIVER_ZONED_DISK_H_
