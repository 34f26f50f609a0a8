// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/disk_users.h"

#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tests/vm/driver/control.h"
#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/zoned_disk.h"

namespace ublkd::driver_fuzz {

using driver_test::kPage;
using driver_test::kSectorBytes;
using driver_test::OpenDisk;
using driver_test::PageBuffer;
using driver_test::Ring;

namespace {

constexpr size_t kMostBytes = 256 << 10;
constexpr unsigned kDeep = 32;  // I/Os at a time

class User {
 public:
  User(Context& context, const OpenDisk& disk, bool direct)
      : context_(context),
        dice_(context.dice),
        disk_(disk.fd()),
        bytes_(std::max<uint64_t>(disk.bytes(), kPage)),
        direct_(direct),
        buffer_(kMostBytes) {}

  void DoSomething() {
    switch (dice_.Below(16)) {
      case 0:
        ManyAtOnce();
        break;
      case 1:
        MapIt();
        break;
      case 2:
        Erase(dice_.OneIn(2) ? BLKDISCARD : BLKZEROOUT);
        break;
      case 3:
        Count(Kind::kDiskControl, fsync(disk_));
        break;
      case 4:
        Partitions();
        break;
      case 5:
        Zones();
        break;
      default:
        One();
        break;
    }
  }

 private:
  bool Count(Kind kind, ssize_t result) {
    context_.board.tally.Count(kind, result >= 0);
    return result >= 0;
  }

  size_t Size() {
    const size_t unit = direct_ && !dice_.OneIn(8) ? kPage : kSectorBytes;
    const size_t most = dice_.OneIn(8) ? kMostBytes : 4 * kPage;
    return unit * (1 + dice_.Below(most / unit));
  }

  // Direct I/O that hits blocks; any of these disks has pages as a multiple.
  off_t Place() { return static_cast<off_t>(dice_.Below(bytes_ / kPage) * kPage); }

  // Also memory that the server may have registered.
  std::byte* Data(size_t bytes) {
    if (dice_.OneIn(3) && bytes <= kSharedBytes) {
      return context_.shared + dice_.Below((kSharedBytes - bytes) / kPage + 1) * kPage;
    }
    return buffer_.data();
  }

  void One() {
    const size_t bytes = Size();
    iovec part = {.iov_base = Data(bytes), .iov_len = bytes};
    const int flags = dice_.Of<int>({0, 0, 0, RWF_NOWAIT, RWF_HIPRI, RWF_DSYNC});
    if (dice_.OneIn(2)) {
      Count(Kind::kRead, preadv2(disk_, &part, 1, Place(), flags));
    } else {
      Count(Kind::kWrite, pwritev2(disk_, &part, 1, Place(), flags & ~RWF_HIPRI));
    }
  }

  void ManyAtOnce() {
    Ring ring(kDeep, 0);
    if (ring.error() != 0) return;
    for (unsigned i = 0; i < kDeep; ++i) {
      io_uring_sqe* sqe = io_uring_get_sqe(ring.get());
      const size_t bytes = Size();
      const bool reads = dice_.OneIn(2);
      const auto length = static_cast<unsigned>(bytes);
      const auto at = static_cast<uint64_t>(Place());
      if (reads) {
        io_uring_prep_read(sqe, disk_, Data(bytes), length, at);
      } else {
        io_uring_prep_write(sqe, disk_, Data(bytes), length, at);
      }
      sqe->user_data = static_cast<uint64_t>(reads ? Kind::kRead : Kind::kWrite);
    }
    io_uring_submit(ring.get());
    // Some rings are left with their I/O.
    const uint64_t awaited = dice_.OneIn(4) ? dice_.Below(kDeep) : kDeep;
    for (uint64_t i = 0; i < awaited; ++i) {
      io_uring_cqe* cqe = nullptr;
      if (io_uring_wait_cqe(ring.get(), &cqe) != 0) return;
      Count(static_cast<Kind>(cqe->user_data), cqe->res);
      io_uring_cqe_seen(ring.get(), cqe);
    }
  }

  // A disk that fails or ends kills us when we look.
  void MapIt() {
    const off_t at = Place();
    void* map = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, disk_, at);
    if (!Count(Kind::kDiskControl, map == MAP_FAILED ? -1 : 0)) return;
    auto* bytes = static_cast<volatile unsigned char*>(map);
    if (dice_.OneIn(2)) {
      bytes[0] = static_cast<unsigned char>(bytes[1] + 1);
      Count(Kind::kWrite, msync(map, kPage, dice_.OneIn(2) ? MS_SYNC : MS_ASYNC));
    } else {
      static_cast<void>(bytes[0]);
      Count(Kind::kRead, 0);
    }
    munmap(map, kPage);
  }

  void Erase(unsigned long request) {
    uint64_t range[2] = {static_cast<uint64_t>(Place()), Size()};
    Count(Kind::kDiskControl, ioctl(disk_, request, range));
  }

  void Partitions() {
    if (dice_.OneIn(2)) {
      Count(Kind::kDiskControl, ioctl(disk_, dice_.OneIn(2) ? BLKRRPART : BLKFLSBUF, 0));
      return;
    }
    blkpg_partition part = {};
    constexpr long long kUnit = kPage;
    part.start = kUnit * static_cast<long long>(dice_.Below(4));
    part.length = kUnit * static_cast<long long>(1 + dice_.Below(8));
    part.pno = static_cast<int>(1 + dice_.Below(3));
    blkpg_ioctl_arg arg = {.op = dice_.Of<int>({BLKPG_ADD_PARTITION, BLKPG_DEL_PARTITION}),
                           .flags = 0,
                           .datalen = sizeof(part),
                           .data = &part};
    Count(Kind::kDiskControl, ioctl(disk_, BLKPG, &arg));
  }

  void Zones() {
    uint32_t sectors = 0;
    if (ioctl(disk_, BLKGETZONESZ, &sectors) != 0 || sectors == 0) return;
    const uint64_t zone = dice_.Below(bytes_ / kSectorBytes / sectors + 1) * sectors;
    if (dice_.OneIn(2)) {
      Count(Kind::kDiskControl, driver_test::ReportZones(disk_, zone, 8).has_value() ? 0 : -1);
      return;
    }
    const auto request =
        dice_.Of<unsigned long>({BLKRESETZONE, BLKOPENZONE, BLKCLOSEZONE, BLKFINISHZONE});
    Count(Kind::kDiskControl, driver_test::ManageZones(disk_, request, zone, sectors));
    // Where a zone was just reset, a write fits.
    if (request == BLKRESETZONE) {
      Count(Kind::kWrite,
            pwrite(disk_, buffer_.data(), kPage, static_cast<off_t>(zone * kSectorBytes)));
    }
  }

  Context& context_;
  Dice& dice_;
  const int disk_;
  const uint64_t bytes_;
  const bool direct_;
  PageBuffer buffer_;
};

}  // namespace

void RunDiskUser(Context& context) {
  Dice& dice = context.dice;
  for (;;) {
    const std::string path = driver_test::DiskPath(static_cast<uint32_t>(dice.Below(kIds)));
    const bool direct = !dice.OneIn(3);
    int flags = dice.OneIn(8) ? O_RDONLY : O_RDWR;
    if (direct) flags |= O_DIRECT;
    if (dice.OneIn(8)) flags |= O_EXCL;
    const OpenDisk disk(path, flags);
    if (disk.fd() < 0) {
      usleep(1000);
      continue;
    }
    User user(context, disk, direct);
    for (uint64_t i = 1 + dice.Below(64); i > 0; --i) user.DoSomething();
  }
}

}  // namespace ublkd::driver_fuzz
