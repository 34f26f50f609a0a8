// SPDX-License-Identifier: Apache-2.0
//
// UBLK_F_INTEGRITY: requests come with protection information, which the kernel makes for writes
// and checks for reads, and the server keeps beside the data. Skipped where the kernel can't.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/blkpg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/protection.h"
#include "tests/vm/driver/user_copy.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kProtected = UBLK_F_USER_COPY | UBLK_F_INTEGRITY;

off_t ProtectionAt(const Request& request, uint64_t byte = 0) {
  return UserCopyAt(request.queue, request.tag, byte) |
         static_cast<off_t>(UBLKSRV_IO_INTEGRITY_FLAG);
}

// The simple one, for tests of anything else.
constexpr Protection kPlain = {"Plain", 12, 8, 0, UBLK_PI_CSUM_CRC16};

// Some tuple begins in one page of memory and ends in the next.
bool CrossesPages(const Protection& kind) { return kPage % kind.metadata_bytes != 0; }

// Kernels without profiles turn the reference tags themselves, and not in such tuples.
bool KernelTurnsTags() {
  return std::system("grep -q ' blk_integrity_register$' /proc/kallsyms") != 0;
}

class Integrity : public testing::TestWithParam<Protection> {
 protected:
  void SetUp() override {
    if ((control_.Features() & kProtected) != kProtected) GTEST_SKIP() << "not on this kernel";
    if (CrossesPages(GetParam()) && KernelTurnsTags()) GTEST_SKIP() << "the kernel can't";
  }

  void Start(uint16_t queues = 1) {
    const Geometry geometry = {.queues = queues,
                               .flags = kProtected | UBLK_F_NO_AUTO_PART_SCAN,
                               .bytes = 8 << 20,
                               .block_shift = GetParam().block_shift};
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    ASSERT_NE(device_->info().flags & UBLK_F_INTEGRITY, 0U);
    ASSERT_EQ(control_.SetParams(id(), GetParam().Params(geometry)), 0);
    // A fresh disk has correct protection information everywhere.
    const uint64_t of_zeros = GetParam().Checksum(ram_.data());
    for (uint64_t at = 0; at < geometry.bytes; at += block()) {
      GetParam().Make(of_zeros, at / block(), Metadata(at));
    }
    server_ = std::make_unique<Server>(id(), device_->geometry(),
                                       [this](const Request& request) { return Serve(request); });
    ASSERT_EQ(control_.Start(id(), getpid()), 0);
    disk_ = open(device_->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    ASSERT_GE(disk_, 0);
  }
  void TearDown() override {
    if (server_ == nullptr) return;
    close(disk_);
    EXPECT_EQ(control_.Stop(id()), 0);
    server_->Close();
  }

  size_t block() const { return GetParam().block(); }
  // Of the block at a place on the disk.
  std::byte* Metadata(uint64_t offset) const {
    return metadata_.data() + offset / block() * GetParam().metadata_bytes;
  }
  // Makes the metadata of the data from `offset` on; false if it was something else before.
  bool Protect(uint64_t offset, uint64_t bytes) {
    bool same = true;
    for (uint64_t at = offset; at < offset + bytes; at += block()) {
      std::array<std::byte, UINT8_MAX> made = {};
      GetParam().Make(GetParam().Checksum(ram_.data() + at), at / block(), made.data());
      same &= std::memcmp(Metadata(at), made.data(), GetParam().metadata_bytes) == 0;
      std::memcpy(Metadata(at), made.data(), GetParam().metadata_bytes);
    }
    return same;
  }

  int Serve(const Request& request) {
    const bool write = request.op() == UBLK_IO_OP_WRITE;
    if (!write && request.op() != UBLK_IO_OP_READ) return 0;
    if ((request.desc->op_flags & UBLK_IO_F_INTEGRITY) == 0) ++unprotected_;
    const size_t bytes = request.bytes() / block() * GetParam().metadata_bytes;
    // In two pieces, neither of which ends with a block's.
    const size_t first = bytes / 2 - 1;
    std::byte* metadata = Metadata(request.offset());
    const auto copy = [&](std::byte* to, size_t wanted, size_t at) {
      return write ? ReadAt(request.fd, to, wanted, ProtectionAt(request, at))
                   : WriteAt(request.fd, to, wanted, ProtectionAt(request, at));
    };
    if (copy(metadata, first, 0) != static_cast<int>(first) ||
        copy(metadata + first, bytes, first) != static_cast<int>(bytes - first)) {
      ++short_copies_;
    }
    if (request.offset() == 0) LookAround(request, bytes);
    const int done = *UserCopyRam(ram_.data())(request);
    if (write && !Protect(request.offset(), request.bytes())) ++wrong_;
    return done;
  }

  // Places beside the protection information of a request.
  void LookAround(const Request& request, size_t bytes) {
    std::byte byte = {};
    const bool write = request.op() == UBLK_IO_OP_WRITE;
    beyond_ = write ? ReadAt(request.fd, &byte, 1, ProtectionAt(request, bytes + 1))
                    : WriteAt(request.fd, &byte, 1, ProtectionAt(request, bytes + 1));
    against_ = write ? WriteAt(request.fd, &byte, 1, ProtectionAt(request))
                     : ReadAt(request.fd, &byte, 1, ProtectionAt(request));
  }

  uint32_t id() const { return device_->id(); }

  Control control_;
  SharedMemory ram_{8 << 20};
  SharedMemory metadata_{(8 << 20) / kSectorBytes * UINT8_MAX};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Server> server_;
  int disk_ = -1;
  std::atomic<int> unprotected_ = 0;   // requests that came without
  std::atomic<int> short_copies_ = 0;  // of protection information
  std::atomic<int> wrong_ = 0;  // writes whose information is not that of their data and place
  std::atomic<int> beyond_ = 1, against_ = 1;
};

TEST_P(Integrity, DataAndItsProtectionAreReadBack_R33) {
  Start(2);
  EXPECT_EQ(ReadLine(DiskAttributePath(id(), "integrity/protection_interval_bytes")),
            std::to_string(block()));
  EXPECT_EQ(ReadLine(DiskAttributePath(id(), "integrity/device_is_integrity_capable")), "1");
  EXPECT_EQ(CountWrongIos(disk_, device_->geometry().bytes, block(), 100), 0)
      << "I/Os that failed or returned other data than was written";
  EXPECT_EQ(unprotected_, 0);
  EXPECT_EQ(short_copies_, 0);
  EXPECT_EQ(wrong_, 0) << "writes whose protection information is not that of their data";
}

TEST_P(Integrity, OfBadDataIsFoundByTheKernel) {
  Start();
  const PageBuffer buffer(kPage);
  ASSERT_EQ(WriteAt(disk_, buffer.data(), kPage, 8192), int{kPage});
  ram_.data()[8192 + 100] ^= std::byte{1};
  EXPECT_LT(ReadAt(disk_, buffer.data(), kPage, 8192), 0) << "a flipped bit of the data";
  ram_.data()[8192 + 100] ^= std::byte{1};
  EXPECT_EQ(ReadAt(disk_, buffer.data(), kPage, 8192), int{kPage});
  Metadata(8192)[GetParam().offset] ^= std::byte{1};
  EXPECT_LT(ReadAt(disk_, buffer.data(), kPage, 8192), 0) << "a flipped bit of the checksum";
}

TEST_P(Integrity, PlacesOutsideAndTheWrongWayAreRefused_R33) {
  Start();
  const PageBuffer buffer(kPage);
  for (const bool write : {true, false}) {
    beyond_ = against_ = 1;
    EXPECT_EQ(
        write ? WriteAt(disk_, buffer.data(), kPage, 0) : ReadAt(disk_, buffer.data(), kPage, 0),
        int{kPage});
    EXPECT_EQ(beyond_, -EINVAL) << "behind the protection information";
    EXPECT_EQ(against_, -EACCES) << (write ? "into a write" : "out of a read");
  }
}

TEST_P(Integrity, ARequestThatHasNoneGetsNone_R33) {
  if (GetParam().metadata_bytes > GetParam().tuple_bytes()) {
    GTEST_SKIP() << "metadata that is not checked comes all the same, with some kernels";
  }
  Start();
  ASSERT_TRUE(WriteLine(DiskAttributePath(id(), "integrity/read_verify"), "0"));
  const PageBuffer buffer(kPage);
  EXPECT_EQ(ReadAt(disk_, buffer.data(), kPage, 8192), int{kPage});
  EXPECT_EQ(unprotected_, 1);
  EXPECT_EQ(short_copies_, 1) << "there is nothing to copy to";
}

// Whoever writes to a partition knows its places only.
TEST_P(Integrity, ThroughAPartitionIsThatOfPlacesOnTheDisk_R33) {
  Start();
  constexpr off_t kBegin = 4 << 20, kBytes = 2 << 20;
  blkpg_partition partition = {};
  partition.start = kBegin;
  partition.length = kBytes;
  partition.pno = 1;
  blkpg_ioctl_arg add = {
      .op = BLKPG_ADD_PARTITION, .flags = 0, .datalen = sizeof(partition), .data = &partition};
  ASSERT_EQ(ioctl(disk_, BLKPG, &add), 0);
  const int fd = open((device_->disk() + "p1").c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(CountWrongIos(fd, kBytes, block(), 50), 0);
  EXPECT_EQ(wrong_, 0) << "writes whose protection information is not that of their place";
  close(fd);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, Integrity,
    testing::Values(Protection{"of512", 9, 8, 0, UBLK_PI_CSUM_CRC16},
                    Protection{"of4096", 12, 8, 0, UBLK_PI_CSUM_CRC16},
                    Protection{"Ip", 9, 8, 0, UBLK_PI_CSUM_IP},
                    Protection{"Wide", 12, 16, 0, UBLK_PI_CSUM_CRC64},
                    Protection{"WideBehindMetadata", 12, 64, 48, UBLK_PI_CSUM_CRC64},
                    Protection{"AcrossPages", 12, 200, 90, UBLK_PI_CSUM_CRC16}),
    [](const testing::TestParamInfo<Protection>& kind) { return kind.param.name; });

// The block layer keeps what belongs to a request in one piece of memory, which has a largest size.
TEST(IntegrityLimits, OfTheLargestMetadataNoRequestHasTooMuch_R06) {
  constexpr uint64_t kBytes = 16 << 20;
  const Geometry geometry = {
      .flags = kProtected | UBLK_F_NO_AUTO_PART_SCAN, .bytes = kBytes, .max_io_bytes = 8 << 20};
  Control control;
  if ((control.Features() & kProtected) != kProtected) GTEST_SKIP() << "not on this kernel";
  const Device device(control, geometry);
  ublk_params params = ParamsOf(geometry);
  params.types |= UBLK_PARAM_TYPE_INTEGRITY;
  params.integrity.interval_exp = geometry.block_shift;
  params.integrity.metadata_size = UINT8_MAX;
  ASSERT_EQ(control.SetParams(device.id(), params), 0);
  const SharedMemory ram(kBytes);
  Server server(device.id(), geometry, UserCopyRam(ram.data()));
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  {
    const OpenDisk disk(device.disk());
    const PageBuffer data(kBytes);
    FillPattern(data.data(), kBytes, 1);
    EXPECT_EQ(WriteAt(disk.fd(), data.data(), kBytes, 0), int{kBytes});
    std::memset(data.data(), 0, kBytes);
    EXPECT_EQ(ReadAt(disk.fd(), data.data(), kBytes, 0), int{kBytes});
    EXPECT_TRUE(HoldsPattern(data.data(), kBytes, 1));
  }
  EXPECT_EQ(control.Stop(device.id()), 0);
  server.Close();
}

TEST(IntegrityParams, MakeSenseOrAreRefused_R06_R11) {
  Control control;
  if ((control.Features() & kProtected) != kProtected) GTEST_SKIP() << "not on this kernel";
  ublksrv_ctrl_dev_info info = InfoOf({.flags = UBLK_F_INTEGRITY});
  EXPECT_EQ(control.Add(info), -EINVAL) << "without user copy";

  const Geometry geometry = {.flags = kProtected, .block_shift = 12};
  const Device device(control, geometry);
  const auto set = [&](const std::function<void(ublk_param_integrity&)>& change) {
    ublk_params params = kPlain.Params(geometry);
    change(params.integrity);
    return control.SetParams(device.id(), params);
  };
  EXPECT_EQ(set([](auto&) {}), 0);
  EXPECT_EQ(set([](auto& p) { p.csum_type = 3; }), -EINVAL) << "no such checksum";
  EXPECT_EQ(set([](auto& p) { p.flags |= 4; }), -EINVAL) << "no such flag";
  EXPECT_EQ(set([](auto& p) { p.metadata_size = 0; }), -EINVAL);
  EXPECT_EQ(set([](auto& p) { p.pi_offset = 1; }), -EINVAL) << "a tuple beyond the metadata";
  EXPECT_EQ(set([](auto& p) { p.csum_type = UBLK_PI_CSUM_CRC64; }), -EINVAL) << "too small for it";
  EXPECT_EQ(set([](auto& p) { p.csum_type = UBLK_PI_CSUM_NONE; }), -EINVAL)
      << "a reference tag without a tuple";
  EXPECT_EQ(set([](auto& p) { p.interval_exp = 8; }), -EINVAL) << "less than a sector";
  EXPECT_EQ(set([](auto& p) { p.interval_exp = 13; }), -EINVAL) << "more than a block";
  EXPECT_EQ(set([](auto& p) { p.interval_exp = 9; }), 0);

  const Device plain(control, {.flags = UBLK_F_USER_COPY, .block_shift = 12});
  EXPECT_EQ(control.SetParams(plain.id(), kPlain.Params(geometry)), -EINVAL)
      << "the device has no such feature";
}

}  // namespace
}  // namespace ublkd::driver_test
