// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "daemon/target/backing_file.h"
#include "daemon/target/file_target.h"
#include "tests/unit/target/queue_driver.h"

namespace ublkd::target {
namespace {

constexpr uint64_t kFileBytes = 1 << 20;

/// A folder on a disk's filesystem, and one in memory where O_DIRECT may be unknown.
class FileTargetTest : public TargetTest, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    TargetTest::SetUp();
    folder_ = std::string(GetParam()) + "/ublkd-file-test-XXXXXX";
    if (mkdtemp(folder_.data()) == nullptr) GTEST_SKIP() << "no folder in " << GetParam();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Make(uint64_t size_bytes) const {
    const std::string path = folder_ + "/disk";
    const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(size_bytes)), 0);
    return path;
  }

  static absl::Status Open(const FileTargetOptions& options) {
    return OpenFileTarget(options).status();
  }

  std::string folder_;
};

INSTANTIATE_TEST_SUITE_P(Filesystems, FileTargetTest, testing::Values("/var/tmp", "/dev/shm"),
                         [](const testing::TestParamInfo<const char*>& folder) {
                           return std::string(folder.param) == "/dev/shm" ? "Memory" : "Disk";
                         });

TEST_P(FileTargetTest, WhatIsWrittenIsRead) {
  for (const uint32_t block : {512u, 4096u}) {
    auto backing = OpenBackingFile({.path = Make(kFileBytes), .logical_block_bytes = block});
    ASSERT_TRUE(backing.ok()) << backing.status();
    EXPECT_EQ(backing->geometry.size_bytes, kFileBytes);
    EXPECT_EQ(backing->geometry.logical_block_bytes, block);
    EXPECT_TRUE(backing->geometry.volatile_cache);
    FileTarget target(*std::move(backing));
    QueueDriver<FileTarget> queue(target);
    RequestBuffer written(3 * block, 'w');
    RequestBuffer read(3 * block, 'r');
    EXPECT_EQ(queue.Write(block, written), Result::Ok());
    EXPECT_EQ(queue.Write(kFileBytes - 3 * block, written, /*fua=*/true), Result::Ok());
    EXPECT_EQ(queue.Do({.op = ublk::Op::kFlush}), Result::Ok());
    EXPECT_EQ(queue.Read(block, read), Result::Ok());
    EXPECT_TRUE(read.AllAre('w')) << "block size " << block;
    EXPECT_EQ(queue.Read(kFileBytes - 3 * block, read), Result::Ok());
    EXPECT_TRUE(read.AllAre('w')) << "block size " << block;
  }
}

TEST_P(FileTargetTest, DiscardAndZeroesKeepTheirPromises) {
  const std::string path = Make(kFileBytes);
  auto backing = OpenBackingFile({.path = path});
  ASSERT_TRUE(backing.ok()) << backing.status();
  if (!backing->geometry.can_discard) GTEST_SKIP() << "no holes on " << GetParam();
  FileTarget target(*std::move(backing));
  QueueDriver<FileTarget> queue(target);
  constexpr uint32_t kRange = 128 << 10;
  RequestBuffer data(kRange, 'd');
  for (uint64_t at = 0; at < 4 * kRange; at += kRange) ASSERT_TRUE(queue.Write(at, data).ok());
  ASSERT_TRUE(queue.Do({.op = ublk::Op::kFlush}).ok());
  struct stat before;
  ASSERT_EQ(stat(path.c_str(), &before), 0);

  EXPECT_TRUE(queue.Do({.op = ublk::Op::kDiscard, .length_bytes = kRange}).ok());
  EXPECT_TRUE(
      queue.Do({.op = ublk::Op::kWriteZeroes, .offset_bytes = kRange, .length_bytes = kRange})
          .ok());
  EXPECT_TRUE(queue
                  .Do({.op = ublk::Op::kWriteZeroes,
                       .no_unmap = true,
                       .offset_bytes = 2 * kRange,
                       .length_bytes = kRange})
                  .ok());
  for (uint64_t at = 0; at < 4 * kRange; at += kRange) {
    ASSERT_TRUE(queue.Read(at, data).ok());
    EXPECT_TRUE(data.AllAre(at < 3 * kRange ? 0 : 'd')) << "range at " << at;
  }
  struct stat after;
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  EXPECT_EQ((before.st_blocks - after.st_blocks) * 512, 2 * kRange) << "no_unmap keeps its space";
  EXPECT_EQ(after.st_size, before.st_size);
}

TEST_P(FileTargetTest, WhatAFileHasItMayKeep) {
  const std::string path = Make(kFileBytes);
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(fallocate(file.get(), 0, 0, kFileBytes), 0);
  const auto allocated = [&] {
    struct stat about;
    EXPECT_EQ(fstat(file.get(), &about), 0);
    return static_cast<uint64_t>(about.st_blocks) * 512;
  };
  auto backing = OpenBackingFile({.path = path, .keep_space = true});
  ASSERT_TRUE(backing.ok()) << backing.status();
  EXPECT_FALSE(backing->geometry.can_discard);
  EXPECT_EQ(backing->geometry.can_write_zeroes, backing->can_zero_range);
  const bool zeroes = backing->can_zero_range;
  FileTarget target(*std::move(backing));
  QueueDriver<FileTarget> queue(target);
  RequestBuffer data(kFileBytes, 'd');
  ASSERT_EQ(queue.Write(0, data), Result::Ok());
  // A disk that was made without this asks for it all the same.
  EXPECT_EQ(queue.Do({.op = ublk::Op::kDiscard, .length_bytes = kFileBytes}),
            Result::Error(EOPNOTSUPP));
  EXPECT_EQ(queue.Do({.op = ublk::Op::kWriteZeroes, .length_bytes = kFileBytes}),
            zeroes ? Result::Ok() : Result::Error(EOPNOTSUPP));
  EXPECT_GE(allocated(), kFileBytes);
  ASSERT_EQ(queue.Read(0, data), Result::Ok());
  EXPECT_TRUE(data.AllAre(zeroes ? '\0' : 'd'));
}

TEST_P(FileTargetTest, ATruncatedFileIsAnErrorNotShortData) {
  const std::string path = Make(kFileBytes);
  auto backing = OpenBackingFile({.path = path});
  ASSERT_TRUE(backing.ok()) << backing.status();
  FileTarget target(*std::move(backing));
  QueueDriver<FileTarget> queue(target);
  RequestBuffer data(8192, 'd');
  for (uint64_t at = 0; at < kFileBytes; at += 8192) ASSERT_TRUE(queue.Write(at, data).ok());
  // Also in the middle of a block.
  for (const off_t end : {4096, 4097, 100}) {
    ASSERT_EQ(truncate(path.c_str(), end), 0);
    EXPECT_EQ(queue.Read(0, data), Result::Error(EIO)) << "it ends at " << end;
    EXPECT_EQ(queue.Read(kFileBytes / 2, data), Result::Error(EIO)) << "it ends at " << end;
  }
}

TEST_P(FileTargetTest, ATruncatedFileIsNotMadeLongerByWrites) {
  const std::string path = Make(kFileBytes);
  auto backing = OpenBackingFile({.path = path});
  ASSERT_TRUE(backing.ok()) << backing.status();
  const bool can_zero = backing->geometry.can_write_zeroes;
  FileTarget target(*std::move(backing));
  ASSERT_EQ(truncate(path.c_str(), kFileBytes / 2), 0);
  // The first write of a queue looks at the size, and so does one after 100 ms without.
  QueueDriver<FileTarget> queue(target);
  const RequestBuffer data(8192, 'd');
  EXPECT_EQ(queue.Write(0, data), Result::Ok());
  EXPECT_EQ(queue.Write(kFileBytes / 2 - 4096, data), Result::Error(EIO));
  EXPECT_EQ(queue.Write(kFileBytes - 8192, data), Result::Error(EIO));
  const Request zeroes = {
      .op = ublk::Op::kWriteZeroes, .offset_bytes = kFileBytes / 2, .length_bytes = 4096};
  if (can_zero) {
    EXPECT_EQ(queue.Do(zeroes), Result::Error(EIO));
  }
  EXPECT_EQ(std::filesystem::file_size(path), kFileBytes / 2);

  ASSERT_EQ(truncate(path.c_str(), kFileBytes), 0);
  EXPECT_EQ(queue.Write(kFileBytes - 8192, data), Result::Ok()) << "it has its size again";
  const RequestBuffer read(8192);
  EXPECT_EQ(queue.Read(kFileBytes - 8192, read), Result::Ok());
  EXPECT_TRUE(read.AllAre('d'));
}

TEST_P(FileTargetTest, ASizeThatChangesWhileItIsServedIsSeen) {
  const std::string path = Make(kFileBytes);
  auto backing = OpenBackingFile({.path = path});
  ASSERT_TRUE(backing.ok()) << backing.status();
  FileTarget target(*std::move(backing));
  QueueDriver<FileTarget> queue(target);
  const RequestBuffer data(8192, 'd');
  const auto eventually = [&](off_t end, Result result) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (absl::Now() < deadline) {
      // Again each time: until the size is looked at, a write makes the file longer.
      if (truncate(path.c_str(), end) != 0) return false;
      // The ring's clock goes on with its completions.
      if (!queue.Write(0, data).ok()) return false;
      if (queue.Write(kFileBytes / 2, data) == result) return true;
    }
    return false;
  };
  EXPECT_TRUE(eventually(kFileBytes, Result::Ok()));
  EXPECT_TRUE(eventually(kFileBytes / 2, Result::Error(EIO)));
  ASSERT_EQ(truncate(path.c_str(), kFileBytes), 0);
  EXPECT_EQ(queue.Write(kFileBytes / 2, data), Result::Ok()) << "the first write already";
}

TEST(BackingFile, OnlyFilesHaveAnEnd) {
  const UniqueFd file(open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(file.get(), 12345), 0);
  EXPECT_EQ(EndOfFile(file.get()), 12345u);
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(EndOfFile(null.get()), kNoEnd);
}

TEST_P(FileTargetTest, OneFileHasOneWriter) {
  const std::string path = Make(kFileBytes);
  auto first = OpenFileTarget({.path = path});
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = Open({.path = path});
  EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
  EXPECT_THAT(std::string(second.message()), testing::HasSubstr(path));
  EXPECT_TRUE(absl::IsAlreadyExists(Open({.path = path, .read_only = true})));
  first->reset();
  EXPECT_TRUE(Open({.path = path}).ok()) << "the lock ends with the target";
}

TEST_P(FileTargetTest, ReadersMayShare) {
  const std::string path = Make(kFileBytes);
  const auto first = OpenFileTarget({.path = path, .read_only = true});
  const auto second = OpenFileTarget({.path = path, .read_only = true});
  EXPECT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_TRUE((*first)->geometry().read_only);
  EXPECT_FALSE((*first)->geometry().can_discard);
}

TEST_P(FileTargetTest, WhatIsNoDiskIsRefusedInWords) {
  const std::string path = Make(kFileBytes);
  EXPECT_TRUE(absl::IsInvalidArgument(Open({.path = "relative"})));
  EXPECT_TRUE(absl::IsInvalidArgument(Open({.path = ""})));
  EXPECT_TRUE(absl::IsInvalidArgument(Open({.path = path, .logical_block_bytes = 1024})));
  EXPECT_TRUE(absl::IsNotFound(Open({.path = folder_ + "/missing"})));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open({.path = folder_})));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open({.path = "/dev/null"})));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open({.path = Make(0)})));
  EXPECT_TRUE(absl::IsInvalidArgument(Open({.path = Make(1000)})));
  EXPECT_TRUE(absl::IsInvalidArgument(Open({.path = Make(4608), .logical_block_bytes = 4096})));
  ASSERT_EQ(chmod(Make(kFileBytes).c_str(), 0400), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(Open({.path = path})));
  EXPECT_TRUE(Open({.path = path, .read_only = true}).ok());
}

TEST_P(FileTargetTest, OpeningChangesNothing) {
  const std::string path = Make(kFileBytes);
  struct stat before;
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  ASSERT_TRUE(Open({.path = path}).ok());
  struct stat after;
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  EXPECT_EQ(after.st_blocks, before.st_blocks);
  EXPECT_EQ(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
}

TEST_P(FileTargetTest, TellsHowLargeItsFileIsNow) {
  const std::string path = Make(kFileBytes);
  const auto target = OpenFileTarget({.path = path});
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ(*(*target)->AvailableBytes(), kFileBytes);
  ASSERT_EQ(truncate(path.c_str(), 2 * kFileBytes), 0);
  EXPECT_EQ(*(*target)->AvailableBytes(), 2 * kFileBytes);
  ASSERT_EQ(unlink(path.c_str()), 0);
  EXPECT_EQ(*(*target)->AvailableBytes(), 2 * kFileBytes) << "the open file counts, not the name";
  EXPECT_EQ((*target)->geometry().size_bytes, kFileBytes);
}

TEST(BackingFile, DirectIoIsUsedWhereItWorks) {
  const std::string path = "/var/tmp/ublkd-direct-test";
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
  if (!file.valid()) GTEST_SKIP() << "no O_DIRECT in /var/tmp";
  ASSERT_EQ(ftruncate(file.get(), kFileBytes), 0);
  const auto backing = OpenBackingFile({.path = path});
  unlink(path.c_str());
  ASSERT_TRUE(backing.ok()) << backing.status();
  EXPECT_TRUE(backing->direct);
}

}  // namespace
}  // namespace ublkd::target
