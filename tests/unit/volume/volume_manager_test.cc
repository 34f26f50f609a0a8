// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/volume_manager.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "daemon/volume/file_pool.h"
#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;

constexpr uint64_t kMiB = 1 << 20;

VolumeRequest Request(const std::string& name) {
  VolumeRequest request;
  request.name = name;
  request.size_bytes = kMiB;
  return request;
}

class VolumeManagerTest : public ::testing::Test {
 protected:
  void Open(const std::vector<std::string>& names) {
    std::vector<std::unique_ptr<Pool>> pools;
    for (const std::string& name : names) {
      std::filesystem::create_directory(dir_.File(name));
      auto pool = FilePool::Open({name, dir_.File(name), 1.0});
      ASSERT_THAT(pool, IsOk());
      pools.push_back(*std::move(pool));
    }
    auto manager = VolumeManager::Make(std::move(pools));
    ASSERT_THAT(manager, IsOk());
    manager_ = *std::move(manager);
  }

  TempDir dir_;
  std::unique_ptr<VolumeManager> manager_;
};

TEST_F(VolumeManagerTest, TheOnlyPoolNeedNotBeNamed) {
  Open({"p"});
  const auto volume = manager_->Create("", Request("a"));
  ASSERT_THAT(volume, IsOk());
  EXPECT_EQ(volume->pool, "p");
}

TEST_F(VolumeManagerTest, WithSeveralPoolsOneMustBeNamed) {
  Open({"p", "q"});
  EXPECT_THAT(manager_->Create("", Request("a")), Refused(StatusCode::kInvalidArgument, "p, q"));
  EXPECT_THAT(manager_->Create("none", Request("a")), Refused(StatusCode::kNotFound, "none"));
  EXPECT_THAT(manager_->Create("../p", Request("a")),
              Refused(StatusCode::kInvalidArgument, "pool"));
  EXPECT_THAT(manager_->Create("q", Request("a")), IsOk());
}

TEST_F(VolumeManagerTest, WithoutPoolsTheRemedyIsNamed) {
  Open({});
  EXPECT_THAT(manager_->Create("", Request("a")),
              Refused(StatusCode::kInvalidArgument, "--pool NAME=PATH"));
  EXPECT_TRUE(manager_->List("", 0, "")->volumes.empty());
}

TEST_F(VolumeManagerTest, ASecondCallForAVolumeIsAbortedAtOnce) {
  Open({"p"});
  ASSERT_THAT(manager_->Create("p", Request("a")), IsOk());
  {
    const auto lease = manager_->Lock("p/a");
    ASSERT_THAT(lease, IsOk());
    EXPECT_THAT(manager_->Create("p", Request("a")), Refused(StatusCode::kAborted, "p/a"));
    EXPECT_THAT(manager_->Delete("p/a"), Refused(StatusCode::kAborted, "p/a"));
    EXPECT_THAT(manager_->SetFormat("p/a", Format::State::kNever, {}),
                Refused(StatusCode::kAborted, "p/a"));
    EXPECT_THAT(manager_->Resize("p/a", 2 * kMiB), Refused(StatusCode::kAborted, "p/a"));
    EXPECT_THAT(manager_->Create("p", Request("b")), IsOk()) << "other volumes are not held up";
    EXPECT_THAT(manager_->Get("p/a"), IsOk()) << "reading is not held up";
  }
  EXPECT_THAT(manager_->Delete("p/a"), IsOk());
}

/// One device, or none.
class FakeAttachments : public Attachments {
 public:
  std::optional<Attachment> AttachedTo(const std::string&) const override { return device; }
  absl::Status GrowDisk(const std::string& volume_id, uint64_t size_bytes) override {
    grown.emplace_back(volume_id, size_bytes);
    return answer;
  }

  std::optional<Attachment> device;
  std::vector<std::pair<std::string, uint64_t>> grown;
  absl::Status answer;
};

TEST_F(VolumeManagerTest, ADiskGrowsAfterItsVolume) {
  Open({"p"});
  ASSERT_THAT(manager_->Create("p", Request("a")), IsOk());
  EXPECT_THAT(manager_->Resize("p/a", 2 * kMiB), IsOk()) << "nobody serves it";
  FakeAttachments attachments;
  manager_->SetAttachments(&attachments);
  attachments.answer = absl::UnavailableError("it waits");
  EXPECT_THAT(manager_->Resize("p/a", 3 * kMiB),
              Refused(StatusCode::kUnavailable, "not yet its disk: it waits"));
  EXPECT_EQ(manager_->Describe("p/a")->size_bytes, 3 * kMiB);
  attachments.answer = absl::OkStatus();
  EXPECT_THAT(manager_->Resize("p/a", 3 * kMiB), IsOk()) << "the same call goes on with the disk";
  const std::pair<std::string, uint64_t> call("p/a", 3 * kMiB);
  EXPECT_EQ(attachments.grown, (std::vector<std::pair<std::string, uint64_t>>{call, call}));
  EXPECT_THAT(manager_->Resize("p/a", kMiB), Refused(StatusCode::kInvalidArgument, "size_bytes"));
  EXPECT_THAT(manager_->Resize("p/none", kMiB), Refused(StatusCode::kNotFound, "p/none"));
  EXPECT_THAT(manager_->Resize("none", kMiB), Refused(StatusCode::kInvalidArgument, "id"));
  EXPECT_EQ(attachments.grown.size(), 2u) << "a refusal changes nothing";
}

TEST_F(VolumeManagerTest, AnAttachedVolumeIsNotDeleted) {
  Open({"p"});
  ASSERT_THAT(manager_->Create("p", Request("a")), IsOk());
  FakeAttachments attachments;
  attachments.device = Attachment{7, kMiB};
  manager_->SetAttachments(&attachments);
  EXPECT_THAT(manager_->Delete("p/a"), Refused(StatusCode::kFailedPrecondition, "/dev/ublkb7"));
  attachments.device.reset();
  EXPECT_THAT(manager_->Delete("p/a"), IsOk());
  EXPECT_THAT(manager_->Delete("p/a"), IsOk());
  EXPECT_THAT(manager_->Delete("gone/a"), Refused(StatusCode::kNotFound, "gone"));
}

TEST_F(VolumeManagerTest, PagesGiveEveryVolumeOnceInOrder) {
  Open({"a", "a-b"});
  std::vector<std::string> expected;
  for (int i = 0; i < 5; ++i) {
    for (const char* pool : {"a", "a-b"}) {
      ASSERT_THAT(manager_->Create(pool, Request(absl::StrCat("v", i))), IsOk());
      expected.push_back(absl::StrCat(pool, "/v", i));
    }
  }
  std::sort(expected.begin(), expected.end());
  for (const size_t limit : {1, 3, 10, 100, 0}) {
    std::vector<std::string> seen;
    std::string token;
    do {
      const auto page = manager_->List("", limit, token);
      ASSERT_THAT(page, IsOk());
      EXPECT_TRUE(limit == 0 || page->volumes.size() <= limit);
      for (const Volume& volume : page->volumes) {
        seen.push_back(FormatVolumeId(volume.pool, volume.record.name));
      }
      token = page->next_token;
    } while (!token.empty());
    EXPECT_EQ(seen, expected) << "pages of " << limit;
  }
}

TEST_F(VolumeManagerTest, ATokenSurvivesADeletionAndNoOtherIsTaken) {
  Open({"p", "q"});
  for (const char* name : {"a", "b", "c"})
    ASSERT_THAT(manager_->Create("p", Request(name)), IsOk());
  const auto page = manager_->List("p", 1, "");
  ASSERT_THAT(page, IsOk());
  ASSERT_THAT(manager_->Delete("p/a"), IsOk());
  EXPECT_EQ(manager_->List("p", 0, page->next_token)->volumes.size(), 2u);
  for (const std::string& token :
       {std::string("x"), std::string("00000000p/a"), std::string(300, 'z')}) {
    EXPECT_THAT(manager_->List("p", 0, token), Refused(StatusCode::kInvalidArgument, "page_token"));
  }
  EXPECT_THAT(manager_->List("q", 0, page->next_token),
              Refused(StatusCode::kInvalidArgument, "page_token"));
}

TEST_F(VolumeManagerTest, ManyThreadsOnFewVolumesEndInOrder) {
  Open({"p"});
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this, i] {
      for (int round = 0; round < 20; ++round) {
        const std::string name = absl::StrCat("v", (i + round) % 3);
        const auto volume = manager_->Create("p", Request(name));
        EXPECT_TRUE(volume.ok() || absl::IsAborted(volume.status())) << volume.status();
        (void)manager_->List("", 0, "");
        const absl::Status deleted = manager_->Delete("p/" + name);
        EXPECT_TRUE(deleted.ok() || absl::IsAborted(deleted)) << deleted;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const char* name : {"v0", "v1", "v2"}) {
    EXPECT_THAT(manager_->Delete(absl::StrCat("p/", name)), IsOk());
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("p")));
}

}  // namespace
}  // namespace ublkd::volume
