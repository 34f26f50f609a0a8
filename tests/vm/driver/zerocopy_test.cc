// SPDX-License-Identifier: Apache-2.0
//
// UBLK_F_SUPPORT_ZERO_COPY and UBLK_F_AUTO_BUF_REG: the pages of a request as a registered buffer
// of a ring, for that ring's reads and writes of other files.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <future>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/zero_copy.h"
#include "tests/vm/driver/zoned_disk.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kZeroCopy = UBLK_F_SUPPORT_ZERO_COPY;
constexpr uint64_t kAuto = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG;
constexpr std::chrono::milliseconds kShort{200};

class ZeroCopy : public testing::Test {
 protected:
  void SetUp() override {
    if ((Control().Features() & kAuto) != kAuto) GTEST_SKIP() << "not on this kernel";
  }
  void Start(Geometry geometry, ServerOptions options = {}, Handler handler = nullptr) {
    geometry.flags |= kZeroCopy;
    options.fixed_buffers = kPlaces;
    file_ = std::make_unique<BackingFile>(geometry.bytes);
    if (handler == nullptr) {
      handler = (geometry.flags & UBLK_F_AUTO_BUF_REG) != 0 ? AutoFile(file_->fd())
                                                            : ZeroCopyFile(file_->fd());
    }
    live_ = std::make_unique<LiveDevice>(geometry, KeepIf(&keep_, handler), options);
    ASSERT_EQ(live_->device->info().flags & geometry.flags, geometry.flags);
    disk_ = live_->fd;
  }
  void TearDown() override { live_.reset(); }
  // A request of a page at the start of the disk, which the server keeps; returns its tag.
  uint16_t Keep(bool write, std::byte* page) {
    keep_ = true;
    io_ = std::async(std::launch::async, [=, this] {
      return write ? WriteAt(disk_, page, kPage, 0) : ReadAt(disk_, page, kPage, 0);
    });
    const uint16_t tag = live_->KeptTag().value_or(0);
    keep_ = false;
    return tag;
  }
  int Command(uint32_t op, uint16_t tag, uint64_t index) {
    int result = 0;
    live_->server->InThread(0, [&](QueueServer& q) { result = q.Try(op, 0, tag, 0, index); });
    return result;
  }
  // A transfer of a page by the server's ring.
  int TransferPage(uint8_t op, unsigned index, size_t bytes = kPage) {
    int result = 0;
    live_->server->InThread(0, [&](QueueServer& q) {
      io_uring_sqe* sqe = io_uring_get_sqe(q.ring().get());
      PutTransfer(sqe, op, file_->fd(), bytes, 0, index);
      result = q.Await(sqe);
    });
    return result;
  }
  int FinishIo() {
    live_->CommitKept();
    return io_.get();
  }

  std::atomic<bool> keep_ = false;
  std::unique_ptr<BackingFile> file_;
  std::unique_ptr<LiveDevice> live_;
  int disk_ = -1;
  std::future<int> io_;
};

TEST_F(ZeroCopy, RandomWritesAreReadBack) {
  Start({.queues = 2, .depth = 32});
  EXPECT_EQ(CountWrongIos(disk_, live_->geometry().bytes, kSectorBytes, 150), 0)
      << "I/Os that failed or returned other data than was written";
}

TEST_F(ZeroCopy, AutoRegisteredRandomWritesAreReadBack_R77) {
  Start({.queues = 2, .depth = 32, .flags = kAuto},
        {.sqe_addr = [](uint16_t tag) { return AutoAddr(tag); }});
  EXPECT_EQ(CountWrongIos(disk_, live_->geometry().bytes, kSectorBytes, 150), 0)
      << "I/Os that failed or returned other data than was written";
}

TEST_F(ZeroCopy, CommandsThatMakeNoSenseAreRefused) {
  Start({.queues = 1, .depth = 4});
  const PageBuffer page(kPage);
  const uint16_t tag = Keep(true, page.data());
  const auto reg = [&](uint16_t t, uint64_t index) {
    return Command(UBLK_U_IO_REGISTER_IO_BUF, t, index);
  };
  const auto unreg = [&](uint64_t index) {
    return Command(UBLK_U_IO_UNREGISTER_IO_BUF, tag, index);
  };
  EXPECT_EQ(reg((tag + 1) % 4, 0), -EINVAL) << "a tag without a request";
  EXPECT_EQ(reg(4, 0), -EINVAL) << "no such tag";
  EXPECT_EQ(reg(tag, kPlaces), -EINVAL) << "beyond the ring's table";
  EXPECT_EQ(reg(tag, uint64_t{1} << 32), -EINVAL) << "not place 0";
  EXPECT_EQ(unreg(0), -EINVAL) << "nothing is registered there";
  EXPECT_EQ(unreg(kPlaces), -EINVAL);
  EXPECT_EQ(unreg(uint64_t{1} << 32), -EINVAL);
  ASSERT_EQ(reg(tag, 3), 0);
  EXPECT_EQ(reg(tag, 3), -EBUSY) << "the place is taken";
  EXPECT_EQ(reg(tag, 4), 0) << "a request may be registered twice";
  EXPECT_EQ(TransferPage(UBLK_IO_OP_READ, 3), -EFAULT) << "pages of a write are not written";
  EXPECT_EQ(TransferPage(UBLK_IO_OP_WRITE, 3, kPage + 512), -EFAULT) << "more than there is";
  EXPECT_EQ(TransferPage(UBLK_IO_OP_WRITE, 3), 4096);
  EXPECT_EQ(unreg(3), 0);
  EXPECT_EQ(unreg(3), -EINVAL) << "twice";
  EXPECT_EQ(TransferPage(UBLK_IO_OP_WRITE, 4), 4096);
  EXPECT_EQ(unreg(4), 0);
  EXPECT_EQ(FinishIo(), 4096);
}

TEST_F(ZeroCopy, RequestsWithoutDataHaveNoPages) {
  Start({.queues = 1, .depth = 4});
  keep_ = true;
  io_ = std::async(std::launch::async, [this] {
    uint64_t range[2] = {0, kPage};
    return ioctl(disk_, BLKDISCARD, range);
  });
  const uint16_t tag = live_->KeptTag().value_or(0);
  keep_ = false;
  EXPECT_EQ(Command(UBLK_U_IO_REGISTER_IO_BUF, tag, 0), -EINVAL);
  EXPECT_EQ(FinishIo(), 0);
}

TEST_F(ZeroCopy, NeedsItsFlag) {
  const Geometry geometry;
  LiveDevice live(geometry,
                  [](const Request& request) -> std::optional<int> {
                    return HasData(request) ? RegisterBuffer(request, 0) : 0;
                  },
                  {.fixed_buffers = kPlaces});
  const PageBuffer page(kPage);
  EXPECT_EQ(WriteAt(live.fd, page.data(), kPage, 0), -EINVAL);
}

TEST_F(ZeroCopy, CommandsCarryNoBuffer_R40) {
  Control control;
  const Device device(control, {.queues = 1, .depth = 4, .flags = kZeroCopy});
  Server server(device.id(), device.geometry(), ZeroCopyFile(-1), {.fetch_only = 2});
  server.InThread(0, [&](QueueServer& q) {
    EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0, 2, 0, q.Buffer(0)), -EINVAL) << "FETCH with a buffer";
  });
  EXPECT_EQ(control.Stop(device.id()), 0);
}

TEST_F(ZeroCopy, ARegisteredBufferStopsNoCommitButTheEnd_R34) {
  Start({.queues = 1, .depth = 1});
  const PageBuffer page(kPage);
  FillPattern(page.data(), kPage, 3);
  const uint16_t tag = Keep(true, page.data());
  ASSERT_EQ(Command(UBLK_U_IO_REGISTER_IO_BUF, tag, 7), 0);
  live_->Commit(tag, 4096);
  EXPECT_EQ(io_.wait_for(kShort), std::future_status::timeout)
      << "the request ended while its pages were registered";
  EXPECT_EQ(TransferPage(UBLK_IO_OP_WRITE, 7), 4096);
  EXPECT_TRUE(HoldsPattern(file_->data(), kPage, 3)) << "the pages are still those of the request";
  ASSERT_EQ(Command(UBLK_U_IO_UNREGISTER_IO_BUF, tag, 7), 0);
  EXPECT_EQ(io_.get(), 4096);
  EXPECT_EQ(WriteAt(disk_, page.data(), kPage, 0), 4096) << "the only tag must be free";
}

TEST_F(ZeroCopy, AnyThreadMayRegister) {
  Start({.queues = 1, .depth = 4});
  const int chan = live_->server->fd();
  const PageBuffer page(kPage);
  FillPattern(page.data(), kPage, 5);
  OtherRing ring;
  uint16_t tag = Keep(true, page.data());
  ASSERT_EQ(ring.Command(chan, UBLK_U_IO_REGISTER_IO_BUF, tag, 9), 0);
  EXPECT_EQ(ring.TransferPage(UBLK_IO_OP_WRITE, file_->fd(), 9), 4096);
  EXPECT_TRUE(HoldsPattern(file_->data(), kPage, 5));
  EXPECT_EQ(Command(UBLK_U_IO_UNREGISTER_IO_BUF, tag, 9), -EINVAL) << "it is in another ring";
  EXPECT_EQ(ring.Command(chan, UBLK_U_IO_UNREGISTER_IO_BUF, tag, 9), 0);
  EXPECT_EQ(FinishIo(), 4096);
  EXPECT_EQ(ring.Command(chan, UBLK_U_IO_REGISTER_IO_BUF, tag, 9), -EINVAL) << "it is over";

  FillPattern(file_->data(), kPage, 6);
  tag = Keep(false, page.data());
  ASSERT_EQ(ring.Command(chan, UBLK_U_IO_REGISTER_IO_BUF, tag, 9), 0);
  EXPECT_EQ(ring.TransferPage(UBLK_IO_OP_READ, file_->fd(), 9), 4096);
  EXPECT_EQ(ring.Command(chan, UBLK_U_IO_UNREGISTER_IO_BUF, tag, 9), 0);
  EXPECT_EQ(FinishIo(), 4096);
  EXPECT_TRUE(HoldsPattern(page.data(), kPage, 6));
}

// The server's only hint is the commit: the other ring's buffer may go with its ring.
TEST_F(ZeroCopy, ARingThatIsClosedLetsGoOfItsBuffers_R34) {
  Start({.queues = 1, .depth = 4});
  const PageBuffer page(kPage);
  const uint16_t tag = Keep(true, page.data());
  {
    OtherRing ring;
    ASSERT_EQ(ring.Command(live_->server->fd(), UBLK_U_IO_REGISTER_IO_BUF, tag, 0), 0);
    live_->Commit(tag, 4096);
    EXPECT_EQ(io_.wait_for(kShort), std::future_status::timeout);
  }
  ASSERT_EQ(io_.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_EQ(io_.get(), 4096);
}

TEST_F(ZeroCopy, ABadPlaceFailsTheRequestOrFallsBack_R77) {
  Start({.queues = 1, .depth = 4, .flags = kAuto},
        {.sqe_addr = [](uint16_t) { return AutoAddr(kPlaces); }});
  const PageBuffer page(kPage);
  EXPECT_EQ(WriteAt(disk_, page.data(), kPage, 0), -EIO) << "its pages can't be registered";
  EXPECT_EQ(ReadAt(disk_, page.data(), kPage, 0), -EIO);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(WriteAt(disk_, page.data(), kPage, 0), -EIO) << "every tag must stay usable";
  }
  live_.reset();

  std::atomic<int> fallbacks = 0;
  file_ = std::make_unique<BackingFile>(32 << 20);
  Start({.queues = 1, .depth = 4, .flags = kAuto},
        {.sqe_addr = [](uint16_t) { return AutoAddr(kPlaces, UBLK_AUTO_BUF_REG_FALLBACK); }},
        [&](const Request& request) { return AutoFile(file_->fd(), &fallbacks)(request); });
  FillPattern(page.data(), kPage, 8);
  EXPECT_EQ(WriteAt(disk_, page.data(), kPage, 0), 4096);
  EXPECT_EQ(fallbacks, 1) << "the server must be told that there is no buffer";
  EXPECT_TRUE(HoldsPattern(file_->data(), kPage, 8));
}

TEST_F(ZeroCopy, ReservedBitsAreRefusedBeforeTheCommandCounts_R77) {
  constexpr uint64_t kReserved[] = {uint64_t{1} << 17, uint64_t{1} << 24, uint64_t{1} << 32,
                                    uint64_t{1} << 63};
  {
    Control control;
    const Device device(control, {.queues = 1, .depth = 4, .flags = kAuto});
    Server server(device.id(), device.geometry(), AutoFile(-1),
                  {.fetch_only = 3, .fixed_buffers = kPlaces});
    server.InThread(0, [&](QueueServer& q) {
      for (const uint64_t bits : kReserved) {
        EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0, 3, 0, 0, 0, bits), -EINVAL) << "FETCH " << bits;
      }
    });
    EXPECT_EQ(control.Stop(device.id()), 0);
  }
  Start({.queues = 1, .depth = 4, .flags = kAuto},
        {.sqe_addr = [](uint16_t tag) { return AutoAddr(tag); }});
  const PageBuffer page(kPage);
  FillPattern(page.data(), kPage, 2);
  const uint16_t tag = Keep(true, page.data());
  live_->server->InThread(0, [&](QueueServer& q) {
    for (const uint64_t bits : kReserved) {
      EXPECT_EQ(q.Try(UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0, tag, 4096, 0, 0, bits), -EINVAL)
          << "COMMIT " << bits;
    }
  });
  EXPECT_EQ(TransferPage(UBLK_IO_OP_WRITE, tag), 4096)
      << "a refused COMMIT must leave the buffer registered";
  EXPECT_TRUE(HoldsPattern(file_->data(), kPage, 2));
  EXPECT_EQ(FinishIo(), 4096);
  EXPECT_EQ(TransferPage(UBLK_IO_OP_WRITE, tag), -EFAULT) << "COMMIT unregisters";
}

TEST_F(ZeroCopy, ACommitByAnotherRingUnregistersNothingThere_R77) {
  Start({.queues = 1, .depth = 2, .flags = kAuto},
        {.sqe_addr = [](uint16_t tag) { return AutoAddr(tag); }});
  const PageBuffer page(kPage);
  FillPattern(page.data(), kPage, 4);
  const uint16_t tag = Keep(true, page.data());
  // The place of that number in the other ring is somebody else's.
  Ring other(8, 0);
  iovec memory = {.iov_base = page.data(), .iov_len = kPage};
  ASSERT_EQ(io_uring_register_buffers(other.get(), &memory, 1), 0);
  live_->server->InThread(0, [&](QueueServer& q) {
    io_uring_sqe* sqe = other.Command(live_->server->fd(), UBLK_U_IO_COMMIT_AND_FETCH_REQ);
    sqe->addr = AutoAddr(0, UBLK_AUTO_BUF_REG_FALLBACK);
    const ublksrv_io_cmd command = {.q_id = 0, .tag = tag, .result = 4096, .addr = 0};
    std::memcpy(sqe->cmd, &command, sizeof(command));
    ASSERT_EQ(io_uring_submit(other.get()), 1);
    q.Forget(tag);
  });
  EXPECT_EQ(io_.wait_for(kShort), std::future_status::timeout)
      << "the buffer is still registered in the first ring";
  EXPECT_EQ(TransferPage(UBLK_IO_OP_WRITE, tag), 4096);
  EXPECT_TRUE(HoldsPattern(file_->data(), kPage, 4));
  EXPECT_EQ(Command(UBLK_U_IO_UNREGISTER_IO_BUF, tag, tag), 0);
  EXPECT_EQ(io_.get(), 4096);
  live_->Stop();
  EXPECT_EQ(other.Finish(), UBLK_IO_RES_ABORT) << "the tag's command is in the other ring now";
}

TEST_F(ZeroCopy, ZonesAreReportedThroughABuffer) {
  Geometry geometry;
  geometry.flags = UBLK_F_ZONED | kZeroCopy;
  geometry.bytes = 8 << 20;
  geometry.zone_bytes = 1 << 20;
  geometry.discard = false;
  BackingFile zones(kPage);
  for (uint64_t i = 0; i < 8; ++i) {
    blk_zone zone = {};
    zone.start = zone.wp = i * 2048;
    zone.len = zone.capacity = 2048;
    zone.type = BLK_ZONE_TYPE_SEQWRITE_REQ;
    zone.cond = BLK_ZONE_COND_EMPTY;
    std::memcpy(zones.data() + i * sizeof(zone), &zone, sizeof(zone));
  }
  Start(geometry, {}, [&](const Request& request) -> std::optional<int> {
    if (request.op() != UBLK_IO_OP_REPORT_ZONES) return -EIO;
    const size_t bytes = request.desc->nr_zones * sizeof(blk_zone);
    const uint64_t first = request.desc->start_sector / 2048;
    int result = RegisterBuffer(request, 0);
    if (result != 0) return result;
    io_uring_sqe* sqe = io_uring_get_sqe(request.server->ring().get());
    PutTransfer(sqe, UBLK_IO_OP_READ, zones.fd(), bytes, first * sizeof(blk_zone), 0);
    result = request.server->Await(sqe);
    return UnregisterBuffer(request, 0) == 0 ? result : -EIO;
  });
  const auto all = ReportZones(disk_, 0, 8);
  ASSERT_TRUE(all.has_value()) << std::strerror(errno);
  ASSERT_EQ(all->size(), 8U);
  EXPECT_EQ((*all)[7].start, 7U * 2048);
}

}  // namespace
}  // namespace ublkd::driver_test
