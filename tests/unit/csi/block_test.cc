// SPDX-License-Identifier: Apache-2.0
//
// The node's calls for raw block volumes.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "daemon/base/file.h"
#include "tests/unit/csi/fixture.h"
#include "tests/unit/csi/loop_device.h"

namespace ublkd::csi {
namespace {

namespace pb = ::csi::v1;

using ::testing::ElementsAre;
using Mode = pb::VolumeCapability::AccessMode;

const CsiClient::Capability kBlock = CsiClient::Block();

class BlockTest : public CsiTest {
 protected:
  static void WriteAt(const std::string& path, off_t offset, const std::string& text) {
    const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(file.valid()) << path;
    ASSERT_EQ(pwrite(file.get(), text.data(), text.size(), offset),
              static_cast<ssize_t>(text.size()));
    ASSERT_EQ(fsync(file.get()), 0);
  }

  static std::string ReadAt(const std::string& path, off_t offset, size_t bytes) {
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string text(bytes, '\0');
    EXPECT_EQ(pread(file.get(), text.data(), bytes, offset), static_cast<ssize_t>(bytes)) << path;
    return text;
  }
};

TEST_F(BlockTest, TheTargetIsTheDeviceAndDataOutlivesStaging) {  // B2
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  const std::string staging = BlockStaging("v");
  const std::string target = Target("v");
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Stage(id, staging, kBlock));
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Publish(id, staging, target, kBlock));
  EXPECT_THAT(MountsBelowKubelet(), ElementsAre(target));
  EXPECT_EQ(ublkd().attach_count(), 1);
  struct stat node;
  ASSERT_EQ(stat(target.c_str(), &node), 0);
  EXPECT_TRUE(S_ISBLK(node.st_mode));
  constexpr off_t kOffset = 5 * kMiB;
  WriteAt(target, kOffset, "raw data");
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Unpublish(id, target));
  EXPECT_FALSE(Exists(target));
  for (int i = 0; i < 10; ++i) ASSERT_OK(client().Unstage(id, staging));
  EXPECT_TRUE(Exists(staging)) << "kubelet's own folder stays";
  ASSERT_OK(client().Stage(id, staging, kBlock));
  ASSERT_OK(client().Publish(id, staging, target, kBlock));
  EXPECT_EQ(ReadAt(target, kOffset, 8), "raw data");
  CleanUp(id, staging, {target});
}

TEST_F(BlockTest, ARawVolumeIsNeverFormatted) {  // F2, F4
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  ASSERT_OK(client().Stage(id, BlockStaging("v"), kBlock));
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v"), kBlock));
  EXPECT_EQ(ublkd().Get(id).format().fs_type(), "block");
  EXPECT_EQ(ublkd().Get(id).format().state(), api::Format::STATE_FORMATTED);
  ASSERT_OK(client().Unpublish(id, Target("v")));
  ASSERT_OK(client().Unstage(id, BlockStaging("v")));
  // Blank to every look, and still not to be formatted: it was somebody's.
  EXPECT_CODE(client().Stage(id, Staging("v"), CsiClient::Mount("ext4")), kFailedPrecondition);
  EXPECT_FALSE(ublkd().Get(id).has_device_id()) << "a stage that fails leaves no device";
  EXPECT_OK(client().DeleteVolume(id));
}

TEST_F(BlockTest, AFilesystemVolumeCanBeReadRaw) {
  const std::string id = MakeVolume("v");
  ASSERT_OK(client().Stage(id, Staging("v"), CsiClient::Mount("ext4")));
  EXPECT_CODE(client().Stage(id, Staging("v"), kBlock), kAlreadyExists);
  ASSERT_OK(client().Unstage(id, Staging("v")));
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v"), kBlock));
  EXPECT_EQ(BlkidValue(Target("v"), "TYPE"), "ext4");
  EXPECT_EQ(ublkd().Get(id).format().fs_type(), "ext4") << "the record stays";
  EXPECT_CODE(client().Stage(id, BlockStaging("v"), CsiClient::Mount("ext4")), kAlreadyExists);
  CleanUp(id, BlockStaging("v"), {Target("v")});
}

TEST_F(BlockTest, ReadOnlyPublishTakesNoWrites) {
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  const std::string reader = Target("v", "reader");
  const std::string writer = Target("v", "writer");
  ASSERT_OK(client().Stage(id, BlockStaging("v"), kBlock));
  ASSERT_OK(client().Publish(id, BlockStaging("v"), reader, kBlock, /*read_only=*/true));
  ASSERT_OK(client().Publish(id, BlockStaging("v"), reader, kBlock, /*read_only=*/true));
  const int file = open(reader.c_str(), O_RDWR | O_CLOEXEC);
  if (file >= 0) {
    EXPECT_EQ(pwrite(file, "x", 1, 0), -1);
    close(file);
  }
  EXPECT_CODE(client().Publish(id, BlockStaging("v"), writer, kBlock), kFailedPrecondition);
  EXPECT_FALSE(Exists(writer));
  ASSERT_OK(client().Unpublish(id, reader));
  ASSERT_OK(client().Publish(id, BlockStaging("v"), writer, kBlock));
  WriteAt(writer, 0, "writable again");
  EXPECT_CODE(client().Publish(id, BlockStaging("v"), reader, kBlock, true), kFailedPrecondition);
  CleanUp(id, BlockStaging("v"), {writer});
}

TEST_F(BlockTest, TheOtherKindOfTargetIsRefused) {
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  std::filesystem::create_directory(Target("v"));
  EXPECT_CODE(client().Publish(id, BlockStaging("v"), Target("v"), kBlock), kFailedPrecondition);
  EXPECT_TRUE(Exists(Target("v"))) << "what was there stays";
  CleanUp(id, BlockStaging("v"), {Target("v")});
  const std::string other = MakeVolume("w");
  WriteText(Target("w"), "a file");
  EXPECT_CODE(client().Publish(other, Staging("w"), Target("w"), CsiClient::Mount("ext4")),
              kFailedPrecondition);
  EXPECT_CODE(client().Unpublish(other, Target("w")), kFailedPrecondition);
  EXPECT_EQ(ReadText(Target("w")), "a file");
  CleanUp(other, Staging("w"), {});
}

TEST_F(BlockTest, SecondTargetByAccessMode) {  // E13
  const auto exclusive = CsiClient::Block(Mode::SINGLE_NODE_SINGLE_WRITER);
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v", "1"), kBlock));
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v", "2"), kBlock));
  EXPECT_CODE(client().Publish(id, BlockStaging("v"), Target("v", "3"), exclusive),
              kFailedPrecondition);
  CleanUp(id, BlockStaging("v"), {Target("v", "1"), Target("v", "2")});
}

TEST_F(BlockTest, UnstageWaitsForUnpublish) {  // E8
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v"), kBlock));
  EXPECT_CODE(client().Unstage(id, BlockStaging("v")), kFailedPrecondition);
  WriteAt(Target("v"), 0, "still there");
  CleanUp(id, BlockStaging("v"), {Target("v")});
}

TEST_F(BlockTest, UnstageIsRefusedWhileTheDeviceIsHeld) {  // B4
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v"), kBlock));
  // kubelet holds a block volume through a loop device on top of the target.
  UniqueFd through_target(open(Target("v").c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_CODE(client().Unpublish(id, Target("v")), kFailedPrecondition);
  through_target.Reset();
  ASSERT_OK(client().Unpublish(id, Target("v")));
  // Somebody who holds the device itself.
  const std::string device = absl::StrCat("/dev/loop", ublkd().Get(id).device_id());
  UniqueFd holder(open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  ASSERT_TRUE(holder.valid());
  EXPECT_CODE(client().Unstage(id, BlockStaging("v")), kFailedPrecondition);
  holder.Reset();
  CleanUp(id, BlockStaging("v"), {});
}

TEST_F(BlockTest, StatsTellTheSizeAlone) {  // B12
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v"), kBlock));
  for (const std::string& path : {Target("v"), BlockStaging("v")}) {
    const auto stats = client().Stats(id, path);
    ASSERT_TRUE(stats.ok()) << stats.status();
    ASSERT_EQ(stats->usage_size(), 1);
    EXPECT_EQ(stats->usage(0).unit(), pb::VolumeUsage::BYTES);
    EXPECT_EQ(stats->usage(0).total(), kSmallVolumeBytes);
    EXPECT_FALSE(stats->volume_condition().abnormal());
  }
  EXPECT_CODE(client().Stats(id, Staging("elsewhere")).status(), kNotFound);
  CleanUp(id, BlockStaging("v"), {Target("v")});
}

TEST_F(BlockTest, ARestartForgetsNothing) {
  const std::string id = MakeVolume("v", kSmallVolumeBytes, kBlock);
  ASSERT_OK(client().Publish(id, BlockStaging("v"), Target("v"), kBlock));
  RestartCsi();
  EXPECT_OK(client().Stage(id, BlockStaging("v"), kBlock));
  EXPECT_CODE(client().Stage(id, BlockStaging("v"), CsiClient::Mount("ext4")), kAlreadyExists);
  EXPECT_OK(client().Publish(id, BlockStaging("v"), Target("v"), kBlock));
  EXPECT_CODE(client().Publish(id, BlockStaging("v"), Target("v"), kBlock, true), kAlreadyExists);
  CleanUp(id, BlockStaging("v"), {Target("v")});
}

}  // namespace
}  // namespace ublkd::csi
