// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/file_pool.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_replace.h"
#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kMiB = 1 << 20;
constexpr char kUuid[] = "01234567-89ab-cdef-0123-456789abcdef";

VolumeRequest Request(const std::string& name, uint64_t size_bytes = kMiB) {
  VolumeRequest request;
  request.name = name;
  request.size_bytes = size_bytes;
  return request;
}

class FilePoolTest : public ::testing::Test {
 protected:
  FilePoolTest() { Reopen(); }
  void Reopen() {
    pool_.reset();
    auto pool = FilePool::Open({"p", dir_.path(), 1.0});
    ASSERT_THAT(pool, IsOk());
    pool_ = *std::move(pool);
  }

  TempDir dir_;
  std::unique_ptr<FilePool> pool_;
};

TEST_F(FilePoolTest, ANewVolumeIsEmptyAndReadsAsZeroes) {
  for (const Provisioning provisioning : {Provisioning::kThin, Provisioning::kThick}) {
    VolumeRequest request = Request(std::string(ProvisioningName(provisioning)));
    request.provisioning = provisioning;
    request.labels = {{"k", "v"}};
    const auto volume = pool_->Create(request);
    ASSERT_THAT(volume, IsOk());
    EXPECT_EQ(volume->pool, "p");
    EXPECT_EQ(volume->record.size_bytes, kMiB);
    EXPECT_EQ(volume->record.logical_block_bytes, 4096u);
    EXPECT_EQ(volume->record.format.state, Format::State::kNever);
    EXPECT_EQ(volume->record.generation, 1u);
    EXPECT_EQ(volume->content, Content::kEmpty);
    EXPECT_EQ(volume->allocated_bytes >= kMiB, provisioning == Provisioning::kThick);
    const std::string data = dir_.Read(request.name + ".img");
    EXPECT_EQ(data.size(), kMiB);
    EXPECT_TRUE(std::all_of(data.begin(), data.end(), [](char c) { return c == 0; }));
    // That read filled the page cache; it must not look like data.
    EXPECT_EQ(pool_->Get(request.name)->content, Content::kEmpty);
  }
}

TEST_F(FilePoolTest, WrittenDataIsSeen) {
  VolumeRequest thick = Request("thick");
  thick.provisioning = Provisioning::kThick;
  ASSERT_THAT(pool_->Create(thick), IsOk());
  ASSERT_THAT(pool_->Create(Request("thin")), IsOk());
  for (const char* name : {"thick", "thin"}) {
    std::fstream file(dir_.File(std::string(name) + ".img"), std::ios::in | std::ios::out);
    file.seekp(kMiB / 2);
    file << 'x' << std::flush;
    EXPECT_EQ(pool_->Get(name)->content, Content::kPresent) << name;
  }
}

TEST_F(FilePoolTest, CreatingTwiceIsTheSameAndADifferenceIsRefused) {
  const auto first = pool_->Create(Request("a"));
  ASSERT_THAT(first, IsOk());
  const auto again = pool_->Create(Request("a"));
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->record.created_at, first->record.created_at);
  Reopen();
  EXPECT_THAT(pool_->Create(Request("a")), IsOk());
  EXPECT_THAT(pool_->Create(Request("a", 2 * kMiB)),
              Refused(StatusCode::kAlreadyExists, "size_bytes"));
  EXPECT_THAT(pool_->Names(), ElementsAre("a"));
}

TEST_F(FilePoolTest, DeletingLeavesNothingAndMayBeRepeated) {
  ASSERT_THAT(pool_->Create(Request("a")), IsOk());
  EXPECT_THAT(pool_->Delete("a"), IsOk());
  EXPECT_THAT(pool_->Delete("a"), IsOk());
  EXPECT_THAT(pool_->Get("a"), Refused(StatusCode::kNotFound, "p/a"));
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre());
}

TEST_F(FilePoolTest, AHundredRoundsLeaveNoFileAndNoDescriptor) {
  const size_t before = OpenDescriptors();
  for (int round = 0; round < 100; ++round) {
    ASSERT_THAT(pool_->Create(Request("a")), IsOk());
    ASSERT_THAT(pool_->Create(Request("a", 3 * kMiB)), Refused(StatusCode::kAlreadyExists, ""));
    ASSERT_THAT(pool_->Delete("a"), IsOk());
  }
  EXPECT_EQ(OpenDescriptors(), before);
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre());
}

TEST_F(FilePoolTest, TheFormatIsComparedSetAndKept) {
  ASSERT_THAT(pool_->Create(Request("a")), IsOk());
  const Format formatting{Format::State::kFormatting, "ext4", kUuid, absl::UnixEpoch()};
  const auto set = pool_->SetFormat("a", Format::State::kNever, formatting);
  ASSERT_THAT(set, IsOk());
  EXPECT_EQ(set->record.generation, 2u);
  EXPECT_GT(set->record.format.changed_at, absl::UnixEpoch());
  EXPECT_THAT(pool_->SetFormat("a", Format::State::kNever, formatting),
              Refused(StatusCode::kFailedPrecondition, "expected was never"));
  Reopen();
  const auto kept = pool_->Describe("a");
  ASSERT_THAT(kept, IsOk());
  EXPECT_EQ(kept->format.state, Format::State::kFormatting);
  EXPECT_EQ(kept->format.fs_uuid, kUuid);
  EXPECT_EQ(kept->generation, 2u);
  EXPECT_THAT(pool_->SetFormat("none", Format::State::kNever, formatting),
              Refused(StatusCode::kNotFound, "p/none"));
}

TEST_F(FilePoolTest, ARecordFromTheFutureIsLeftUntouched) {
  ASSERT_THAT(pool_->Create(Request("a")), IsOk());
  const std::string future =
      absl::StrReplaceAll(dir_.Read("a.json"), {{"\"version\": 1", "\"version\": 9"}});
  dir_.Write("a.json", future);
  dir_.Write("b.creating", future);
  dir_.MakeFile("b.img", kMiB);
  Reopen();
  EXPECT_TRUE(pool_->Names().empty());
  for (const char* name : {"a", "b"}) {
    EXPECT_THAT(pool_->Get(name), Refused(StatusCode::kFailedPrecondition, "newer"));
    EXPECT_THAT(pool_->Create(Request(name)), Refused(StatusCode::kFailedPrecondition, "newer"));
    EXPECT_THAT(pool_->Delete(name), Refused(StatusCode::kFailedPrecondition, "newer"));
  }
  EXPECT_EQ(dir_.Read("a.json"), future);
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.json", "a.img", "b.creating", "b.img"));
}

TEST_F(FilePoolTest, AForeignFileIsNeverTakenForAVolume) {
  dir_.Write("a.img", "precious");
  Reopen();
  EXPECT_THAT(pool_->Get("a"), Refused(StatusCode::kNotFound, ""));
  EXPECT_THAT(pool_->Create(Request("a")), Refused(StatusCode::kAlreadyExists, "a.img"));
  EXPECT_THAT(pool_->Delete("a"), IsOk());
  EXPECT_EQ(dir_.Read("a.img"), "precious");
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.img"));
}

TEST_F(FilePoolTest, AHostileSymbolicLinkIsNeverFollowed) {
  const TempDir outside;
  const std::string victim = outside.Write("victim", "secret");
  std::filesystem::create_symlink(victim, dir_.File("a.img"));
  EXPECT_THAT(pool_->Create(Request("a")), Refused(StatusCode::kAlreadyExists, "a.img"));

  ASSERT_THAT(pool_->Create(Request("b")), IsOk());
  std::filesystem::remove(dir_.File("b.img"));
  std::filesystem::create_symlink(victim, dir_.File("b.img"));
  EXPECT_THAT(pool_->Locate("b"), Refused(StatusCode::kFailedPrecondition, "not a regular file"));
  EXPECT_EQ(pool_->Get("b")->content, Content::kUnknown);

  std::filesystem::remove(dir_.File("b.json"));
  std::filesystem::create_symlink(victim, dir_.File("b.json"));
  std::filesystem::create_symlink(victim, dir_.File("c.creating"));
  std::filesystem::create_symlink(victim, dir_.File("d.creating.new"));
  std::filesystem::create_symlink(victim, dir_.File("d.json.new"));
  Reopen();
  EXPECT_THAT(pool_->Get("b"), Refused(StatusCode::kFailedPrecondition, "not a regular file"));
  ASSERT_THAT(pool_->Create(Request("d")), IsOk());
  ASSERT_THAT(pool_->Delete("d"), IsOk());
  EXPECT_EQ(outside.Read("victim"), "secret");
}

TEST_F(FilePoolTest, AFifoOrFolderInPlaceOfAFileIsRefusedAtOnce) {
  ASSERT_THAT(pool_->Create(Request("a")), IsOk());
  ASSERT_THAT(pool_->Create(Request("b")), IsOk());
  std::filesystem::remove(dir_.File("a.img"));
  std::filesystem::remove(dir_.File("b.img"));
  ASSERT_EQ(mkfifo(dir_.File("a.img").c_str(), 0600), 0);
  std::filesystem::create_directory(dir_.File("b.img"));
  for (const char* name : {"a", "b"}) {
    EXPECT_THAT(pool_->Locate(name),
                Refused(StatusCode::kFailedPrecondition, "not a regular file"));
  }
}

TEST_F(FilePoolTest, ALostOrResizedFileIsReported) {
  ASSERT_THAT(pool_->Create(Request("a")), IsOk());
  EXPECT_EQ(*pool_->Locate("a"), dir_.File("a.img"));
  std::filesystem::resize_file(dir_.File("a.img"), kMiB / 2);
  EXPECT_THAT(pool_->Locate("a"), Refused(StatusCode::kFailedPrecondition, "damaged"));
  std::filesystem::remove(dir_.File("a.img"));
  EXPECT_THAT(pool_->Locate("a"), Refused(StatusCode::kFailedPrecondition, "lost its data"));
  EXPECT_EQ(pool_->Get("a")->content, Content::kUnknown);
  EXPECT_THAT(pool_->Delete("a"), IsOk());
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre());
}

TEST_F(FilePoolTest, NamesWithTheSuffixesOfOurFilesDoNotCollide) {
  for (const char* name : {"a", "a.img", "a.json", "a.creating", "a.deleting", "a.new"}) {
    ASSERT_THAT(pool_->Create(Request(name)), IsOk()) << name;
  }
  Reopen();
  EXPECT_EQ(pool_->Names().size(), 6u);
  ASSERT_THAT(pool_->Delete("a"), IsOk());
  Reopen();
  EXPECT_THAT(pool_->Names(), ElementsAre("a.creating", "a.deleting", "a.img", "a.json", "a.new"));
}

TEST_F(FilePoolTest, TwoOwnersOfOneFolderAreRefused) {
  EXPECT_THAT(FilePool::Open({"q", dir_.path(), 1.0}),
              Refused(StatusCode::kFailedPrecondition, "another ublkd"));
}

TEST(FilePoolOpen, ABadPathNamesItself) {
  const TempDir dir;
  EXPECT_THAT(FilePool::Open({"p", "relative", 1.0}),
              Refused(StatusCode::kInvalidArgument, "relative"));
  EXPECT_THAT(FilePool::Open({"p", dir.File("none"), 1.0}),
              Refused(StatusCode::kNotFound, dir.File("none")));
  EXPECT_FALSE(FilePool::Open({"p", dir.Write("file", ""), 1.0}).ok());
  EXPECT_THAT(FilePool::Open({"p", dir.path(), 0.5}),
              Refused(StatusCode::kInvalidArgument, "overcommit"));
  EXPECT_THAT(FilePool::Open({"a/b", dir.path(), 1.0}),
              Refused(StatusCode::kInvalidArgument, "pool"));
  ASSERT_EQ(chmod(dir.path().c_str(), 0777), 0);
  EXPECT_THAT(FilePool::Open({"p", dir.path(), 1.0}),
              Refused(StatusCode::kFailedPrecondition, "o-w"));
}

}  // namespace
}  // namespace ublkd::volume
