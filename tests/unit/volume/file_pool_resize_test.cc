// SPDX-License-Identifier: Apache-2.0
//
// Volumes in a file pool grow, or stay exactly as they were.
#include <gtest/gtest.h>

#include "daemon/volume/file_pool.h"
#include "daemon/volume/volume_record.h"
#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kMiB = 1 << 20;

class FilePoolResizeTest : public ::testing::Test {
 protected:
  FilePoolResizeTest() {
    Reopen();
    VolumeRequest request;
    request.name = "a";
    request.size_bytes = kMiB;
    EXPECT_THAT(pool_->Create(request), IsOk());
  }
  void Reopen() {
    pool_.reset();
    auto pool = FilePool::Open({"p", dir_.path(), 1.0});
    ASSERT_THAT(pool, IsOk());
    pool_ = *std::move(pool);
  }
  uint64_t DataBytes() const { return std::filesystem::file_size(dir_.File("a.img")); }
  /// As a ublkd has it that was killed after its data has grown.
  void LeaveHalfGrown() {
    VolumeRecord record = *pool_->Describe("a");
    record.size_bytes = 2 * kMiB;
    ++record.generation;
    pool_.reset();
    dir_.Write("a.growing", EncodeVolumeRecord(record));
    std::filesystem::resize_file(dir_.File("a.img"), 2 * kMiB);
  }

  TempDir dir_;
  std::unique_ptr<FilePool> pool_;
};

TEST_F(FilePoolResizeTest, TheNewSizeIsKept) {
  const auto grown = pool_->Resize("a", 3 * kMiB);
  ASSERT_THAT(grown, IsOk());
  EXPECT_EQ(grown->record.size_bytes, 3 * kMiB);
  EXPECT_EQ(grown->record.generation, 2u);
  EXPECT_EQ(grown->content, Content::kEmpty);
  EXPECT_EQ(DataBytes(), 3 * kMiB);
  const auto again = pool_->Resize("a", 3 * kMiB);
  ASSERT_THAT(again, IsOk()) << "the size that it has is fine";
  EXPECT_EQ(again->record.generation, 2u) << "and no change";
  Reopen();
  EXPECT_EQ(pool_->Describe("a")->size_bytes, 3 * kMiB);
  EXPECT_THAT(pool_->Locate("a"), IsOk());
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.img", "a.json"));
}

TEST_F(FilePoolResizeTest, ARefusalChangesNothing) {
  const std::string record = dir_.Read("a.json");
  for (const uint64_t size_bytes :
       {uint64_t{0}, kMiB - 4096, kMiB + 512, ~uint64_t{0}, uint64_t{1} << 63}) {
    EXPECT_THAT(pool_->Resize("a", size_bytes),
                Refused(StatusCode::kInvalidArgument, "size_bytes"));
  }
  EXPECT_THAT(pool_->Resize("a", uint64_t{1} << 60),
              Refused(StatusCode::kResourceExhausted, "no room"));
  EXPECT_THAT(pool_->Resize("none", kMiB), Refused(StatusCode::kNotFound, "p/none"));
  EXPECT_EQ(dir_.Read("a.json"), record);
  EXPECT_EQ(DataBytes(), kMiB);
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.img", "a.json"));
}

TEST_F(FilePoolResizeTest, DamagedDataIsNotMadeLarger) {
  std::filesystem::resize_file(dir_.File("a.img"), kMiB / 2);
  EXPECT_THAT(pool_->Resize("a", 2 * kMiB), Refused(StatusCode::kFailedPrecondition, "damaged"));
  EXPECT_EQ(DataBytes(), kMiB / 2);
  std::filesystem::remove(dir_.File("a.img"));
  EXPECT_THAT(pool_->Resize("a", 2 * kMiB),
              Refused(StatusCode::kFailedPrecondition, "lost its data"));
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.json"));
}

TEST_F(FilePoolResizeTest, HalfGrownIsCutBackAtTheStart) {
  LeaveHalfGrown();
  dir_.Write("b.growing.new", "half");
  Reopen();
  EXPECT_EQ(pool_->Describe("a")->size_bytes, kMiB);
  EXPECT_EQ(pool_->Describe("a")->generation, 1u);
  EXPECT_EQ(DataBytes(), kMiB);
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.img", "a.json"));
  EXPECT_THAT(pool_->Resize("a", 2 * kMiB), IsOk());
}

TEST_F(FilePoolResizeTest, WhatCouldNotBeUndoneIsUndoneByTheNextCall) {
  VolumeRecord record = *pool_->Describe("a");
  dir_.Write("a.growing", EncodeVolumeRecord(record));
  std::filesystem::resize_file(dir_.File("a.img"), 2 * kMiB);
  ASSERT_THAT(pool_->Resize("a", 3 * kMiB), IsOk());
  EXPECT_EQ(DataBytes(), 3 * kMiB);
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.img", "a.json"));
}

TEST_F(FilePoolResizeTest, AMarkerWithoutItsVolumeIsRemoved) {
  LeaveHalfGrown();
  std::filesystem::remove(dir_.File("a.json"));
  Reopen();
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.img"))
      << "data without a record is never touched";
  EXPECT_EQ(DataBytes(), 2 * kMiB);
}

TEST_F(FilePoolResizeTest, AMarkerThatCannotBeReadIsLeftWithItsData) {
  LeaveHalfGrown();
  dir_.Write("a.growing", "of the future");
  Reopen();
  EXPECT_EQ(DataBytes(), 2 * kMiB);
  EXPECT_THAT(pool_->Locate("a"), Refused(StatusCode::kFailedPrecondition, "damaged"));
  EXPECT_THAT(dir_.Names(), UnorderedElementsAre("a.growing", "a.img", "a.json"));
}

}  // namespace
}  // namespace ublkd::volume
