// SPDX-License-Identifier: Apache-2.0
//
// A pod's filesystem: made, filled, taken away, given back, and checked.
#include <string>
#include <tuple>

#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

constexpr int64_t kVolumeBytes = int64_t{512} << 20;

// Filesystem, hardware queues.
class FilesystemTest : public NodeTest,
                       public testing::WithParamInterface<std::tuple<const char*, int>> {
 protected:
  void SetUp() override { StartNode(static_cast<uint32_t>(std::get<1>(GetParam()))); }
};

// The filesystem's own opinion, from the volume's file once nobody uses it.
absl::Status CheckFilesystem(const std::string& fs_type, const std::string& file) {
  if (fs_type == "ext4") return RunCommand({"e2fsck", "-f", "-n", file}).status();
  return RunCommand({"xfs_repair", "-n", "-f", file}).status();
}

TEST_P(FilesystemTest, IsTheSameAfterItWasTakenAwayAndGivenBack) {
  const std::string fs_type = std::get<0>(GetParam());
  PodVolume volume = Volume("data-" + fs_type, fs_type, kVolumeBytes);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  EXPECT_EQ(ServedQueues(), std::get<1>(GetParam()));

  const std::string folder = volume.target_path();
  ASSERT_OK(RunCommand({"cp", "-a", "/usr/lib/x86_64-linux-gnu/perl-base", folder + "/tree"}));
  ASSERT_OK(RunCommand({"fio", "--name=check", "--filename=" + folder + "/fio", "--size=16m",
                        "--bs=4k", "--rw=randwrite", "--direct=1", "--ioengine=io_uring",
                        "--iodepth=16", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"}));
  const std::string sums =
      "cd " + folder + " && find . -type f -print0 | sort -z | xargs -0 sha256sum";
  const auto before = RunCommand({"sh", "-c", sums});
  ASSERT_OK(before);

  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
  ASSERT_OK(CheckFilesystem(fs_type, node_->pool_dir() + "/data-" + fs_type + ".img"));

  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  const auto after = RunCommand({"sh", "-c", sums});
  ASSERT_OK(after);
  EXPECT_EQ(*before, *after) << "files differ after the volume was staged again";
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
  ASSERT_OK(volume.Delete());
  EXPECT_FALSE(std::filesystem::exists(node_->pool_dir() + "/data-" + fs_type + ".img"));
}

INSTANTIATE_TEST_SUITE_P(Volumes, FilesystemTest,
                         testing::Values(std::tuple("ext4", 1), std::tuple("xfs", 4)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "On" +
                                  std::to_string(std::get<1>(test.param)) + "Queues";
                         });

class TwoVolumes : public NodeTest {};

TEST_F(TwoVolumes, SideBySideKeepTheirOwnData) {
  PodVolume first = Volume("first", "ext4", int64_t{64} << 20);
  PodVolume second = Volume("second", "ext4", int64_t{64} << 20);
  for (PodVolume* volume : {&first, &second}) {
    ASSERT_OK(volume->Create());
    ASSERT_OK(volume->Stage());
    ASSERT_OK(volume->Publish());
    ASSERT_OK(WriteFileAtomically(volume->target_path() + "/name", volume->id()));
  }
  EXPECT_EQ(*ReadFile(first.target_path() + "/name"), first.id());
  EXPECT_EQ(*ReadFile(second.target_path() + "/name"), second.id());
  for (PodVolume* volume : {&first, &second}) {
    ASSERT_OK(volume->Unpublish());
    ASSERT_OK(volume->Unstage());
    ASSERT_OK(volume->Delete());
  }
}

}  // namespace
}  // namespace ublkd::test
