// SPDX-License-Identifier: Apache-2.0
//
// File pools on filesystems of their own: what needs a full one or another kind. Needs root and the
// right to mount; skipped without.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <thread>

#include "absl/strings/str_cat.h"
#include "daemon/volume/file_pool.h"
#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::volume {
namespace {

using absl::StatusCode;

constexpr uint64_t kMiB = 1 << 20;

VolumeRequest Request(const std::string& name, uint64_t size_bytes,
                      Provisioning provisioning = Provisioning::kThin) {
  VolumeRequest request;
  request.name = name;
  request.size_bytes = size_bytes;
  request.provisioning = provisioning;
  return request;
}

/// A filesystem that is mounted on a folder as long as the object lives.
class Mount {
 public:
  static constexpr uint64_t kImageBytes = 320 * kMiB;

  bool Tmpfs(uint64_t size_bytes) {
    return Keep(mount("none", dir_.path().c_str(), "tmpfs", 0,
                      absl::StrCat("mode=0700,size=", size_bytes).c_str()) == 0);
  }
  bool Image(const std::string& type) {
    const std::string image = image_dir_.MakeFile("image", kImageBytes);
    return Keep(Run(
        absl::StrCat("mkfs.", type, " -q ", image, " && mount -o loop ", image, " ", dir_.path())));
  }
  ~Mount() {
    if (mounted_) umount2(dir_.path().c_str(), 0);
  }
  const TempDir& dir() const { return dir_; }

 private:
  static bool Run(const std::string& command) {
    const int status = system(absl::StrCat("(", command, ") >/dev/null 2>&1").c_str());
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  bool Keep(bool mounted) { return mounted_ = mounted; }

  TempDir image_dir_;
  TempDir dir_;
  bool mounted_ = false;
};

class FilePoolOn : public ::testing::TestWithParam<std::string> {};

TEST_P(FilePoolOn, EmptyAndWrittenVolumesAreToldApart) {
  Mount mount;
  if (!mount.Image(GetParam())) GTEST_SKIP() << "cannot make and mount " << GetParam();
  auto pool = FilePool::Open({"p", mount.dir().path(), 1.0});
  ASSERT_THAT(pool, IsOk());
  for (const Provisioning provisioning : {Provisioning::kThin, Provisioning::kThick}) {
    const std::string name(ProvisioningName(provisioning));
    const auto made = (*pool)->Create(Request(name, 8 * kMiB, provisioning));
    ASSERT_THAT(made, IsOk());
    EXPECT_EQ(made->content, Content::kEmpty) << name;
    EXPECT_EQ(mount.dir().Read(name + ".img"), std::string(8 * kMiB, '\0')) << "reads as zeroes";
    EXPECT_EQ((*pool)->Get(name)->content, Content::kEmpty) << name << " after it was read";
    std::fstream file(mount.dir().File(name + ".img"), std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(8 * kMiB - 1));
    file << 'x' << std::flush;
    EXPECT_EQ((*pool)->Get(name)->content, Content::kPresent) << name;
  }
}

TEST_P(FilePoolOn, AVolumeGrowsAndKeepsItsBytes) {
  Mount mount;
  if (!mount.Image(GetParam())) GTEST_SKIP() << "cannot make and mount " << GetParam();
  auto pool = FilePool::Open({"p", mount.dir().path(), 1.0});
  ASSERT_THAT(pool, IsOk());
  for (const Provisioning provisioning : {Provisioning::kThin, Provisioning::kThick}) {
    const std::string name(ProvisioningName(provisioning));
    ASSERT_THAT((*pool)->Create(Request(name, 4 * kMiB, provisioning)), IsOk());
    const auto empty = (*pool)->Resize(name, 6 * kMiB);
    ASSERT_THAT(empty, IsOk());
    EXPECT_EQ(empty->content, Content::kEmpty) << name << ": nothing was ever written";
    mount.dir().Write(name + ".img", std::string(6 * kMiB, 'x'));
    const auto grown = (*pool)->Resize(name, 8 * kMiB);
    ASSERT_THAT(grown, IsOk());
    EXPECT_EQ(grown->allocated_bytes >= 8 * kMiB, provisioning == Provisioning::kThick);
    EXPECT_EQ(mount.dir().Read(name + ".img"),
              std::string(6 * kMiB, 'x') + std::string(2 * kMiB, '\0'));
  }
}

INSTANTIATE_TEST_SUITE_P(Filesystems, FilePoolOn, ::testing::Values("ext4", "xfs", "btrfs"),
                         [](const auto& kind) { return kind.param; });

class FullPool : public ::testing::Test {
 protected:
  static constexpr uint64_t kPoolBytes = 16 * kMiB;

  void Open(double overcommit) {
    if (!mount_.Tmpfs(kPoolBytes)) GTEST_SKIP() << "cannot mount a tmpfs";
    auto pool = FilePool::Open({"p", mount_.dir().path(), overcommit});
    ASSERT_THAT(pool, IsOk());
    pool_ = *std::move(pool);
  }
  uint64_t Available() { return pool_->Capacity()->available_bytes; }

  Mount mount_;
  std::unique_ptr<FilePool> pool_;
};

TEST_F(FullPool, WhatIsPromisedToThinVolumesIsNotGivenAgain) {
  Open(1.0);
  if (pool_ == nullptr) return;
  const uint64_t before = Available();
  ASSERT_THAT(pool_->Create(Request("a", 8 * kMiB)), IsOk());
  EXPECT_NEAR(static_cast<double>(Available()), static_cast<double>(before - 8 * kMiB), 64 << 10);
  EXPECT_THAT(pool_->Create(Request("b", 12 * kMiB)),
              Refused(StatusCode::kResourceExhausted, "no room"));
  EXPECT_THAT(pool_->Create(Request("b", 12 * kMiB, Provisioning::kThick)),
              Refused(StatusCode::kResourceExhausted, "no room"));
  EXPECT_EQ(mount_.dir().Names(), (std::set<std::string>{"a.img", "a.json"}))
      << "a refusal changes nothing";
  // Writing turns the promise into space that is taken: the sum stays the same.
  mount_.dir().Write("a.img", std::string(8 * kMiB, 'x'));
  EXPECT_NEAR(static_cast<double>(Available()), static_cast<double>(before - 8 * kMiB), 64 << 10);
  ASSERT_THAT(pool_->Delete("a"), IsOk());
  EXPECT_NEAR(static_cast<double>(Available()), static_cast<double>(before), 64 << 10);
}

TEST_F(FullPool, OvercommitPromisesMoreToThinVolumesOnly) {
  Open(2.0);
  if (pool_ == nullptr) return;
  ASSERT_THAT(pool_->Create(Request("a", 12 * kMiB)), IsOk());
  ASSERT_THAT(pool_->Create(Request("b", 12 * kMiB)), IsOk());
  EXPECT_THAT(pool_->Create(Request("c", 12 * kMiB)),
              Refused(StatusCode::kResourceExhausted, "overcommit"));
  ASSERT_THAT(pool_->Delete("a"), IsOk());
  EXPECT_THAT(pool_->Create(Request("c", 18 * kMiB, Provisioning::kThick)),
              Refused(StatusCode::kResourceExhausted, "no room"));
}

TEST_F(FullPool, WhatDoesNotFitDoesNotGrow) {
  Open(1.0);
  if (pool_ == nullptr) return;
  ASSERT_THAT(pool_->Create(Request("thin", 4 * kMiB)), IsOk());
  ASSERT_THAT(pool_->Create(Request("thick", 4 * kMiB, Provisioning::kThick)), IsOk());
  const uint64_t before = Available();
  for (const char* name : {"thin", "thick"}) {
    EXPECT_THAT(pool_->Resize(name, 13 * kMiB),
                Refused(StatusCode::kResourceExhausted, "has no room for 9 MiB more of volume"));
    EXPECT_EQ(pool_->Get(name)->record.size_bytes, 4 * kMiB);
    EXPECT_THAT(pool_->Locate(name), IsOk());
  }
  EXPECT_EQ(Available(), before) << "a refusal changes nothing";
  ASSERT_THAT(pool_->Resize("thin", 6 * kMiB), IsOk());
  ASSERT_THAT(pool_->Resize("thick", 7 * kMiB), IsOk());
  EXPECT_NEAR(static_cast<double>(Available()), static_cast<double>(before - 5 * kMiB), 64 << 10)
      << "what was promised to the growth is not given again";
}

TEST_F(FullPool, AThickVolumeThatCannotBeAllocatedIsWhatItWas) {
  Open(4.0);
  if (pool_ == nullptr) return;
  ASSERT_THAT(pool_->Create(Request("a", 4 * kMiB, Provisioning::kThick)), IsOk());
  // There is room as far as the pool knows; the limit of this process stands for whatever else
  // fails.
  const rlimit least = {.rlim_cur = 8 * kMiB, .rlim_max = RLIM_INFINITY};
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_NE(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &least), 0);
  const auto refused = pool_->Resize("a", 9 * kMiB);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_FALSE(refused.ok());
  EXPECT_EQ(mount_.dir().Names(), (std::set<std::string>{"a.img", "a.json"}));
  EXPECT_EQ(std::filesystem::file_size(mount_.dir().File("a.img")), 4 * kMiB);
  EXPECT_THAT(pool_->Locate("a"), IsOk());
  EXPECT_THAT(pool_->Resize("a", 9 * kMiB), IsOk()) << "and it may be tried again";
}

TEST_F(FullPool, TwoGrowthsAtOnceDoNotShareOneRoom) {
  Open(1.0);
  if (pool_ == nullptr) return;
  for (int round = 0; round < 20; ++round) {
    std::array<absl::Status, 3> results;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < results.size(); ++i) {
      ASSERT_THAT(pool_->Create(Request(absl::StrCat("v", i), kMiB)), IsOk());
    }
    for (size_t i = 0; i < results.size(); ++i) {
      threads.emplace_back(
          [&, i] { results[i] = pool_->Resize(absl::StrCat("v", i), 7 * kMiB).status(); });
    }
    for (std::thread& thread : threads) thread.join();
    const auto made = std::count_if(results.begin(), results.end(),
                                    [](const absl::Status& status) { return status.ok(); });
    EXPECT_LE(made, 2) << "16 MiB hold two volumes of 7 MiB and one of 1 MiB";
    EXPECT_GE(made, 1) << "the first to ask gets its room";
    for (size_t i = 0; i < results.size(); ++i) {
      ASSERT_THAT(pool_->Delete(absl::StrCat("v", i)), IsOk());
    }
  }
}

TEST_F(FullPool, AFullFilesystemStillDeletes) {
  Open(4.0);
  if (pool_ == nullptr) return;
  ASSERT_THAT(pool_->Create(Request("a", 8 * kMiB)), IsOk());
  std::ofstream filler(mount_.dir().File("filler"));
  const std::string piece(kMiB, 'x');
  for (uint64_t i = 0; i <= kPoolBytes / kMiB && filler; ++i) filler << piece << std::flush;
  filler.close();
  EXPECT_EQ(Available(), 0u);
  EXPECT_THAT(pool_->Create(Request("b", 4096)), Refused(StatusCode::kResourceExhausted, ""));
  EXPECT_THAT(pool_->SetFormat("a", Format::State::kNever,
                               {Format::State::kFormatted, "block", "", absl::UnixEpoch()}),
              Refused(StatusCode::kResourceExhausted, ""));
  EXPECT_EQ(pool_->Describe("a")->format.state, Format::State::kNever)
      << "a change that could not be kept has not happened";
  EXPECT_THAT(pool_->Delete("a"), IsOk());
  EXPECT_EQ(mount_.dir().Names(), (std::set<std::string>{"filler"}));
}

TEST_F(FullPool, TwoCreationsAtOnceDoNotShareOneRoom) {
  Open(1.0);
  if (pool_ == nullptr) return;
  for (int round = 0; round < 20; ++round) {
    std::array<absl::Status, 4> results;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < results.size(); ++i) {
      threads.emplace_back(
          [&, i] { results[i] = pool_->Create(Request(absl::StrCat("v", i), 6 * kMiB)).status(); });
    }
    for (std::thread& thread : threads) thread.join();
    const auto made = std::count_if(results.begin(), results.end(),
                                    [](const absl::Status& status) { return status.ok(); });
    EXPECT_LE(made, 2) << "16 MiB hold two volumes of 6 MiB";
    EXPECT_GE(made, 1) << "the first to ask gets its room";
    for (size_t i = 0; i < results.size(); ++i) {
      ASSERT_THAT(pool_->Delete(absl::StrCat("v", i)), IsOk());
    }
  }
}

}  // namespace
}  // namespace ublkd::volume
