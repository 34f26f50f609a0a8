// SPDX-License-Identifier: Apache-2.0
//
// Every way for data to reach a target: which one is chosen, and that none of them loses a byte.
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/target/error.h"
#include "daemon/target/file_target.h"
#include "daemon/target/target.h"
#include "tests/vm/engine/fixture.h"

namespace ublkd {
namespace {

using target::DataUse;
using target::Geometry;
using target::Request;
using target::Result;
using ublk::BufferMode;

/// A disk in memory whose target copies for itself.
class CopyingTarget {
 public:
  explicit CopyingTarget(uint64_t size_bytes) : disk_(size_bytes) {}

  Geometry geometry() const { return {.size_bytes = disk_.size()}; }

  struct Queue {
    static constexpr DataUse kDataUse = DataUse::kCopies;
    std::byte* disk;

    Result Read(const Request& request) {
      return request.Store(0, {disk + request.offset_bytes, request.length_bytes});
    }
    /// In two parts, as a target would that keeps them in two places.
    Result Write(const Request& request) {
      const size_t half = request.length_bytes / 2;
      std::byte* const to = disk + request.offset_bytes;
      const Result first = request.Load(0, {to, half});
      return first.ok() ? request.Load(half, {to + half, request.length_bytes - half}) : first;
    }
  };

  absl::StatusOr<Queue> OpenQueue(uring::Ring&) { return Queue{disk_.data()}; }

 private:
  std::vector<std::byte> disk_;
};

/// A file whose queue keeps the first place for registered buffers for itself for a while, longer
/// than the first request takes to come.
class CrowdedTarget {
 public:
  explicit CrowdedTarget(target::BackingFile backing) : file_(std::move(backing)) {}

  Geometry geometry() const { return file_.geometry(); }

  class Queue : public target::FileTarget::Queue {
   public:
    Queue(uring::Ring& ring, target::FileTarget::Queue inner)
        : target::FileTarget::Queue(inner), release_(ReleaseLater(ring)) {
      release_.Start();
    }

   private:
    static constexpr size_t kPage = 4096;
    static constexpr uint64_t kPauseNs = 300'000'000;

    static uring::RootTask ReleaseLater(uring::Ring& ring) {
      const std::unique_ptr<void, decltype(&std::free)> page(std::aligned_alloc(kPage, kPage),
                                                             &std::free);
      EXPECT_TRUE(ring.RegisterBuffer(0, page.get(), kPage).ok());
      co_await ring.Sleep(kPauseNs);
      ring.UnregisterBuffer(0);
    }

    uring::RootTask release_;
  };

  absl::StatusOr<Queue> OpenQueue(uring::Ring& ring) {
    UBLKD_ASSIGN_OR_RETURN(target::FileTarget::Queue inner, file_.OpenQueue(ring));
    return Queue(ring, inner);
  }

 private:
  target::FileTarget file_;
};

class BufferModeTest : public EngineTest {
 protected:
  static constexpr uint64_t kDiskBytes = 32 * kMiB;

  bool Offers(BufferMode mode) {
    const uint64_t needed = ublk::FeaturesOf(mode).bits();
    return (control().features().bits() & needed) == needed;
  }

  testing::AssertionResult Verify(const ublk::Device& device) {
    return RunCommand(absl::StrCat(
        "fio --name=verify --filename=", device.block_path(),
        " --rw=randwrite --bsrange=512-512k --blockalign=512 --direct=1 --ioengine=io_uring "
        "--iodepth=32 --size=32m --io_size=24m --verify=crc32c --do_verify=1 --verify_fatal=1 "
        "--randrepeat=1 --iomem_align=512"));
  }
};

TEST_F(BufferModeTest, AFileIsServedWithoutCopyingWhereTheDriverCan) {
  auto device = ServeFile(MakeFile("disk", kDiskBytes), {.queues = 2});
  ASSERT_TRUE(device.ok()) << device.status();
  const bool can = Offers(BufferMode::kZeroCopy);
  EXPECT_EQ((*device)->options().buffers, can ? BufferMode::kZeroCopy : BufferMode::kCopy);
  EXPECT_EQ((*device)->features().Has(ublk::Feature::kAutoBufReg), can);
  EXPECT_TRUE(Verify(**device));
}

TEST_F(BufferModeTest, CopyingCanBeAskedFor) {
  auto device =
      ServeFile(MakeFile("disk", kDiskBytes), {.queues = 2, .buffers = BufferMode::kCopy});
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->options().buffers, BufferMode::kCopy);
  EXPECT_FALSE((*device)->features().Has(ublk::Feature::kAutoBufReg));
  EXPECT_TRUE(Verify(**device));
}

TEST_F(BufferModeTest, ATargetThatCopiesIsServedByUserCopy) {
  ASSERT_TRUE(Offers(BufferMode::kUserCopy));
  for (const BufferMode mode : {BufferMode::kUserCopy, BufferMode::kCopy}) {
    auto target = target::MakeDeviceTarget(CopyingTarget(kDiskBytes));
    ASSERT_TRUE(target.ok()) << target.status();
    ublk::DeviceOptions options = {.queues = 2};
    if (mode == BufferMode::kCopy) options.buffers = mode;
    auto device = ublk::Device::Create(control(), options, *std::move(target));
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ((*device)->options().buffers, mode);
    EXPECT_TRUE(Verify(**device)) << ublk::BufferModeName(mode);
  }
}

TEST_F(BufferModeTest, AModeThatTheTargetOrTheDriverCannotDoIsRefused) {
  const auto file = ServeFile(MakeFile("disk", kDiskBytes), {.buffers = BufferMode::kUserCopy});
  EXPECT_EQ(file.status().code(), absl::StatusCode::kFailedPrecondition) << file.status();
  const auto null = ServeNull({.buffers = BufferMode::kZeroCopy});
  EXPECT_EQ(null.status().code(), absl::StatusCode::kFailedPrecondition) << null.status();
  if (Offers(BufferMode::kZeroCopy)) return;
  const auto zero = ServeFile(MakeFile("other", kDiskBytes), {.buffers = BufferMode::kZeroCopy});
  EXPECT_EQ(zero.status().code(), absl::StatusCode::kFailedPrecondition) << zero.status();
  EXPECT_NE(zero.status().message().find("AUTO_BUF_REG"), std::string::npos) << zero.status();
}

// Pieces of memory that begin anywhere in a page and end anywhere in another.
TEST_F(BufferModeTest, MemoryAtOddPlacesIsReadAndWritten) {
  auto device = ServeFile(MakeFile("disk", kDiskBytes), {.queues = 1}, 512);
  ASSERT_TRUE(device.ok()) << device.status();
  const UniqueFd disk(open((*device)->block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(disk.valid());
  constexpr size_t kPiece = 1536;
  constexpr size_t kStride = 4096 + 512;
  constexpr int kPieces = 64;
  constexpr size_t kBytes = kPiece * kPieces;
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(4096, 2 * kPieces * 8192)), &std::free);
  char* const written = memory.get();
  char* const read = memory.get() + kPieces * size_t{8192};
  std::vector<iovec> from;
  std::vector<iovec> into;
  for (int i = 0; i < kPieces; ++i) {
    std::fill_n(written + i * kStride, kPiece, static_cast<char>('a' + i % 26));
    from.push_back({.iov_base = written + i * kStride, .iov_len = kPiece});
    into.push_back({.iov_base = read + i * kStride, .iov_len = kPiece});
  }
  ASSERT_EQ(pwritev(disk.get(), from.data(), kPieces, 512), static_cast<ssize_t>(kBytes))
      << std::strerror(errno);
  ASSERT_EQ(preadv(disk.get(), into.data(), kPieces, 512), static_cast<ssize_t>(kBytes))
      << std::strerror(errno);
  for (int i = 0; i < kPieces; ++i) {
    ASSERT_EQ(std::memcmp(written + i * kStride, read + i * kStride, kPiece), 0) << "piece " << i;
  }
}

// Until the place is free the request waits; the ones after it go by the driver again.
TEST_F(BufferModeTest, ARequestWhosePagesCannotBeRegisteredWaitsForIt) {
  if (!Offers(BufferMode::kZeroCopy)) GTEST_SKIP() << "the driver has no zero copy";
  auto backing = target::OpenBackingFile({.path = MakeFile("disk", kDiskBytes)});
  ASSERT_TRUE(backing.ok()) << backing.status();
  auto target = target::MakeDeviceTarget(CrowdedTarget(*std::move(backing)));
  ASSERT_TRUE(target.ok()) << target.status();
  auto device = ublk::Device::Create(control(), {.queues = 1, .depth = 16}, *std::move(target));
  ASSERT_TRUE(device.ok()) << device.status();
  ASSERT_EQ((*device)->options().buffers, BufferMode::kZeroCopy);
  EXPECT_TRUE(Verify(**device));
}

TEST_F(BufferModeTest, ErrorsTakeTheDevicesPlaceInEveryMode) {
  if (!control().features().Has(ublk::Feature::kUserRecoveryReissue)) {
    GTEST_SKIP() << "devices end with their server";
  }
  const std::unique_ptr<char, decltype(&std::free)> page(
      static_cast<char*>(std::aligned_alloc(4096, 8192)), &std::free);
  for (const BufferMode mode : {BufferMode::kCopy, BufferMode::kUserCopy, BufferMode::kZeroCopy}) {
    if (!Offers(mode)) continue;
    SCOPED_TRACE(ublk::BufferModeName(mode));
    const ublk::DeviceOptions options = {.queues = 2, .recoverable = true, .buffers = mode};
    auto device = mode == BufferMode::kUserCopy
                      ? ublk::Device::Create(control(), options,
                                             *target::MakeDeviceTarget(CopyingTarget(kDiskBytes)))
                      : ServeFile(MakeFile("disk", kDiskBytes), options);
    ASSERT_TRUE(device.ok()) << device.status();
    const UniqueFd disk(open((*device)->block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    ASSERT_TRUE(disk.valid());
    ASSERT_TRUE((*device)->Leave().ok());

    const auto look = control().GetParameters((*device)->id());
    ASSERT_TRUE(look.ok()) << look.status();
    device = ublk::Device::Recover(control(), {.id = (*device)->id()},
                                   *target::MakeErrorTarget(look->geometry));
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ((*device)->options().buffers, mode);
    std::fill_n(page.get(), 8192, 'x');
    EXPECT_EQ(pread(disk.get(), page.get(), 8192, 0), -1);
    EXPECT_EQ(errno, EIO);
    EXPECT_EQ(pwrite(disk.get(), page.get(), 8192, 4096), -1);
    EXPECT_EQ(errno, EIO);
  }
}

TEST_F(BufferModeTest, AFileThatWasCutOffIsAnErrorAndNothingElse) {
  const std::string path = MakeFile("disk", kDiskBytes);
  auto device = ServeFile(path, {.queues = 1});
  ASSERT_TRUE(device.ok()) << device.status();
  const UniqueFd disk(open((*device)->block_path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(disk.valid());
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(kDiskBytes / 2)), 0);
  const std::unique_ptr<void, decltype(&std::free)> page(std::aligned_alloc(4096, 8192),
                                                         &std::free);
  const off_t across = kDiskBytes / 2 - 4096;
  EXPECT_EQ(pread(disk.get(), page.get(), 8192, across), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(pread(disk.get(), page.get(), 4096, across), 4096) << std::strerror(errno);
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(kDiskBytes)), 0);
  EXPECT_EQ(pread(disk.get(), page.get(), 8192, across), 8192) << std::strerror(errno);
}

}  // namespace
}  // namespace ublkd
