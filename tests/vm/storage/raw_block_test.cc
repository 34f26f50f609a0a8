// SPDX-License-Identifier: Apache-2.0
//
// A pod's raw block device.
#include <sys/stat.h>

#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

constexpr int64_t kVolumeBytes = int64_t{64} << 20;

class RawBlock : public NodeTest {};

// Hardware queues.
class RawBlockOnQueues : public NodeTest, public testing::WithParamInterface<int> {
 protected:
  void SetUp() override { StartNode(static_cast<uint32_t>(GetParam())); }
};

INSTANTIATE_TEST_SUITE_P(Volumes, RawBlockOnQueues, testing::Values(1, 4),
                         testing::PrintToStringParamName());

TEST_P(RawBlockOnQueues, IsADeviceNodeWhoseBytesEndInTheVolume) {
  PodVolume volume = Volume("raw", "", kVolumeBytes);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  EXPECT_EQ(ServedQueues(), GetParam());
  struct stat node;
  ASSERT_EQ(stat(volume.target_path().c_str(), &node), 0);
  EXPECT_TRUE(S_ISBLK(node.st_mode)) << volume.target_path() << " is no block device";
  EXPECT_EQ(*RunCommand({"blockdev", "--getsize64", volume.target_path()}),
            std::to_string(kVolumeBytes) + "\n");

  ASSERT_OK(RunCommand({"fio", "--name=raw", "--filename=" + volume.target_path(), "--bs=4k",
                        "--size=16m", "--rw=randwrite", "--direct=1", "--ioengine=io_uring",
                        "--iodepth=16", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"}));
  const auto seen_by_pod = RunCommand({"sha256sum", volume.target_path()});
  ASSERT_OK(seen_by_pod);
  ASSERT_OK(volume.Unpublish());
  EXPECT_FALSE(std::filesystem::exists(volume.target_path())) << "the target file was left behind";
  ASSERT_OK(volume.Unstage());

  const auto in_pool = RunCommand({"sha256sum", node_->pool_dir() + "/raw.img"});
  ASSERT_OK(in_pool);
  EXPECT_EQ(seen_by_pod->substr(0, 64), in_pool->substr(0, 64))
      << "the volume's file does not hold what the pod wrote";
}

TEST_F(RawBlock, IsNeverFormattedLaterThoughNoSignatureIsFound) {
  PodVolume raw = Volume("keep", "", kVolumeBytes);
  ASSERT_OK(raw.Create());
  ASSERT_OK(raw.Stage());
  ASSERT_OK(raw.Publish());
  ASSERT_OK(RunCommand(
      {"sh", "-c",
       "echo precious | dd of=" + raw.target_path() + " bs=4096 seek=100 conv=notrunc,fsync"}));
  ASSERT_OK(raw.Unpublish());
  ASSERT_OK(raw.Unstage());

  PodVolume as_filesystem = Volume("keep", "ext4", kVolumeBytes);
  ASSERT_OK(as_filesystem.Create());
  ASSERT_EQ(as_filesystem.id(), raw.id());
  const absl::Status refused = as_filesystem.Stage();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_EQ(*RunCommand({"sh", "-c",
                         "dd if=" + node_->pool_dir() +
                             "/keep.img bs=4096 skip=100 count=1 2>/dev/null | head -c 8"}),
            "precious");
}

}  // namespace
}  // namespace ublkd::test
