// SPDX-License-Identifier: Apache-2.0
//
// UBLK_F_INTEGRITY: requests come with protection information, which the kernel makes for writes
// and checks for reads, and the server keeps beside the data. Skipped where the kernel can't.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/user_copy.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kProtected = UBLK_F_USER_COPY | UBLK_F_INTEGRITY;
constexpr size_t kTupleBytes = 8;  // of a block: checksum, application tag, reference tag
constexpr uint16_t kPolynomial = 0x8bb7;

uint16_t Crc16(const std::byte* data, size_t bytes) {
  uint16_t crc = 0;
  for (size_t i = 0; i < bytes; ++i) {
    crc = static_cast<uint16_t>(crc ^ static_cast<uint16_t>(data[i]) << 8);
    for (int bit = 0; bit < 8; ++bit) {
      crc = static_cast<uint16_t>((crc & 0x8000) != 0 ? crc << 1 ^ kPolynomial : crc << 1);
    }
  }
  return crc;
}

uint32_t BigEndian(const std::byte* at, size_t bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<uint32_t>(at[i]);
  return value;
}

off_t ProtectionAt(const Request& request, uint64_t byte = 0) {
  return UserCopyAt(request.queue, request.tag, byte) |
         static_cast<off_t>(UBLKSRV_IO_INTEGRITY_FLAG);
}

ublk_params ProtectedParams(const Geometry& geometry) {
  ublk_params params = ParamsOf(geometry);
  params.types |= UBLK_PARAM_TYPE_INTEGRITY;
  params.integrity.flags = UBLK_PI_CAP_INTEGRITY | UBLK_PI_CAP_REFTAG;
  params.integrity.interval_exp = geometry.block_shift;
  params.integrity.metadata_size = kTupleBytes;
  params.integrity.csum_type = UBLK_PI_CSUM_CRC16;
  return params;
}

class Integrity : public testing::TestWithParam<uint8_t> {
 protected:
  void SetUp() override {
    if ((control_.Features() & kProtected) != kProtected) GTEST_SKIP() << "not on this kernel";
  }

  void Start(uint16_t queues = 1) {
    const Geometry geometry = {.queues = queues,
                               .flags = kProtected | UBLK_F_NO_AUTO_PART_SCAN,
                               .bytes = 8 << 20,
                               .block_shift = GetParam()};
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    ASSERT_NE(device_->info().flags & UBLK_F_INTEGRITY, 0U);
    ASSERT_EQ(control_.SetParams(id(), ProtectedParams(geometry)), 0);
    // A fresh disk has correct protection information everywhere.
    Protect(0, geometry.bytes);
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

  size_t block() const { return size_t{1} << GetParam(); }
  std::byte* Tuple(uint64_t offset) const {
    return protection_.data() + (offset >> GetParam()) * kTupleBytes;
  }
  // What protects the data from `offset` on.
  void Protect(uint64_t offset, uint64_t bytes) {
    for (uint64_t at = offset; at < offset + bytes; at += block()) {
      const uint16_t crc = Crc16(ram_.data() + at, block());
      const uint64_t number = at >> GetParam();
      std::byte* tuple = Tuple(at);
      tuple[0] = static_cast<std::byte>(crc >> 8);
      tuple[1] = static_cast<std::byte>(crc);
      for (size_t i = 0; i < 4; ++i) tuple[4 + i] = static_cast<std::byte>(number >> (24 - 8 * i));
    }
  }
  bool IsProtected(uint64_t offset, uint64_t bytes) const {
    for (uint64_t at = offset; at < offset + bytes; at += block()) {
      if (BigEndian(Tuple(at), 2) != Crc16(ram_.data() + at, block()) ||
          BigEndian(Tuple(at) + 4, 4) != at / block()) {
        return false;
      }
    }
    return true;
  }

  int Serve(const Request& request) {
    const bool write = request.op() == UBLK_IO_OP_WRITE;
    if (!write && request.op() != UBLK_IO_OP_READ) return 0;
    if ((request.desc->op_flags & UBLK_IO_F_INTEGRITY) == 0) ++unprotected_;
    const size_t tuples = request.bytes() / block() * kTupleBytes;
    // In two pieces, neither of which ends with a tuple.
    const size_t first = tuples / 2 - 1;
    std::byte* tuple = Tuple(request.offset());
    const auto copy = [&](std::byte* to, size_t bytes, size_t at) {
      return write ? ReadAt(request.fd, to, bytes, ProtectionAt(request, at))
                   : WriteAt(request.fd, to, bytes, ProtectionAt(request, at));
    };
    if (copy(tuple, first, 0) != static_cast<int>(first) ||
        copy(tuple + first, tuples, first) != static_cast<int>(tuples - first)) {
      ++short_copies_;
    }
    if (request.offset() == 0) LookAround(request, tuples);
    const int done = *UserCopyRam(ram_.data())(request);
    if (write && !IsProtected(request.offset(), request.bytes())) ++wrong_;
    return done;
  }

  // Places beside the protection information of a request.
  void LookAround(const Request& request, size_t tuples) {
    std::byte byte = {};
    const bool write = request.op() == UBLK_IO_OP_WRITE;
    beyond_ = write ? ReadAt(request.fd, &byte, 1, ProtectionAt(request, tuples + 1))
                    : WriteAt(request.fd, &byte, 1, ProtectionAt(request, tuples + 1));
    against_ = write ? WriteAt(request.fd, &byte, 1, ProtectionAt(request))
                     : ReadAt(request.fd, &byte, 1, ProtectionAt(request));
  }

  uint32_t id() const { return device_->id(); }

  Control control_;
  SharedMemory ram_{8 << 20};
  SharedMemory protection_{(8 << 20) / kSectorBytes * kTupleBytes};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Server> server_;
  int disk_ = -1;
  std::atomic<int> unprotected_ = 0;   // requests that came without
  std::atomic<int> short_copies_ = 0;  // of protection information
  std::atomic<int> wrong_ = 0;         // writes whose information is not that of their data
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
  *Tuple(8192) ^= std::byte{1};
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
  Start();
  ASSERT_TRUE(WriteLine(DiskAttributePath(id(), "integrity/read_verify"), "0"));
  const PageBuffer buffer(kPage);
  EXPECT_EQ(ReadAt(disk_, buffer.data(), kPage, 8192), int{kPage});
  EXPECT_EQ(unprotected_, 1);
  EXPECT_EQ(short_copies_, 1) << "there is nothing to copy to";
}

INSTANTIATE_TEST_SUITE_P(Blocks, Integrity, testing::Values(uint8_t{9}, uint8_t{12}),
                         [](const testing::TestParamInfo<uint8_t>& shift) {
                           return "of" + std::to_string(1 << shift.param);
                         });

TEST(IntegrityParams, MakeSenseOrAreRefused_R06_R11) {
  Control control;
  if ((control.Features() & kProtected) != kProtected) GTEST_SKIP() << "not on this kernel";
  ublksrv_ctrl_dev_info info = InfoOf({.flags = UBLK_F_INTEGRITY});
  EXPECT_EQ(control.Add(info), -EINVAL) << "without user copy";

  const Geometry geometry = {.flags = kProtected, .block_shift = 12};
  const Device device(control, geometry);
  const auto set = [&](const std::function<void(ublk_param_integrity&)>& change) {
    ublk_params params = ProtectedParams(geometry);
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
  EXPECT_EQ(control.SetParams(plain.id(), ProtectedParams(geometry)), -EINVAL)
      << "the device has no such feature";
}

}  // namespace
}  // namespace ublkd::driver_test
