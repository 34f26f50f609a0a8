// SPDX-License-Identifier: Apache-2.0
//
// A volume grows while a pod works on it.
#include <sys/statvfs.h>

#include "daemon/base/rpc.h"
#include "tests/vm/storage/busy_pod.h"
#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using std::chrono::seconds;

constexpr int64_t kMiB = int64_t{1} << 20;
// As small as xfs may be.
constexpr int64_t kVolumeBytes = 320 * kMiB;
constexpr int64_t kGrownBytes = 640 * kMiB;
constexpr seconds kLoadLimit(300);

absl::StatusOr<ublkd::v1::Volume> Resize(Node& node, const std::string& id, int64_t size_bytes) {
  ublkd::v1::ResizeVolumeRequest request;
  request.set_id(id);
  request.set_size_bytes(static_cast<uint64_t>(size_bytes));
  ublkd::v1::Volume volume;
  grpc::ClientContext context;
  const absl::Status status = FromGrpc(node.volumes().ResizeVolume(&context, request, &volume));
  if (!status.ok()) return status;
  return volume;
}

int64_t FilesystemBytes(const std::string& folder) {
  struct statvfs space;
  if (statvfs(folder.c_str(), &space) != 0) return -1;
  return static_cast<int64_t>(space.f_blocks * space.f_frsize);
}

// Filesystem.
class Growth : public NodeTest, public testing::WithParamInterface<const char*> {
 protected:
  bool GetsOn(BusyPod& pod) {
    const int before = pod.rounds();
    return Eventually([&] { return pod.rounds() > before || pod.failed(); }, kLoadLimit) &&
           !pod.failed();
  }
  static absl::Status GrowFilesystem(const std::string& disk, const std::string& folder) {
    if (std::string(GetParam()) == "ext4") return RunCommand({"resize2fs", disk}).status();
    return RunCommand({"xfs_growfs", folder}).status();
  }
};

TEST_P(Growth, AMountedFilesystemGrowsUnderItsUsers) {
  if (!DriverOffers("UPDATE_SIZE")) GTEST_SKIP() << "the driver cannot resize disks";
  const std::string fs_type = GetParam();
  BusyPod pod(std::unique_ptr<PodVolume>(new PodVolume(Volume("data", fs_type, kVolumeBytes))),
              false);
  ASSERT_OK(pod.Start());
  ASSERT_TRUE(GetsOn(pod));
  const std::string folder = pod.volume().target_path();

  const auto grown = Resize(*node_, pod.volume().id(), kGrownBytes);
  ASSERT_OK(grown);
  EXPECT_EQ(grown->size_bytes(), static_cast<uint64_t>(kGrownBytes));
  EXPECT_EQ(grown->device_size_bytes(), static_cast<uint64_t>(kGrownBytes));
  const std::string disk = "/dev/ublkb" + std::to_string(grown->device_id());
  EXPECT_EQ(*RunCommand({"blockdev", "--getsize64", disk}), std::to_string(kGrownBytes) + "\n");
  EXPECT_LT(FilesystemBytes(folder), kVolumeBytes);
  ASSERT_OK(GrowFilesystem(disk, folder));
  EXPECT_GT(FilesystemBytes(folder), kVolumeBytes + (kGrownBytes - kVolumeBytes) / 2);

  // More than the old one could hold; the end of it is written and compared.
  const std::string fill = folder + "/fill";
  ASSERT_OK(RunCommand({"fallocate", "-l", "400M", fill}));
  ASSERT_OK(RunCommand({"fio", "--name=fill", "--filename=" + fill, "--offset=384m", "--size=16m",
                        "--bs=64k", "--rw=write", "--direct=1", "--ioengine=io_uring",
                        "--iodepth=4", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"},
                       kLoadLimit));
  EXPECT_TRUE(GetsOn(pod));
  const auto smaller = Resize(*node_, pod.volume().id(), kVolumeBytes);
  EXPECT_EQ(smaller.status().code(), absl::StatusCode::kInvalidArgument) << smaller.status();
  const auto too_large = Resize(*node_, pod.volume().id(), int64_t{1} << 50);
  EXPECT_EQ(too_large.status().code(), absl::StatusCode::kResourceExhausted) << too_large.status();
  EXPECT_EQ(*RunCommand({"blockdev", "--getsize64", disk}), std::to_string(kGrownBytes) + "\n");

  ASSERT_OK(pod.Finish());
  ASSERT_OK(pod.volume().Unpublish());
  ASSERT_OK(pod.volume().Unstage());
  const std::string image = node_->pool_dir() + "/data.img";
  ASSERT_OK(fs_type == "ext4" ? RunCommand({"e2fsck", "-f", "-n", image})
                              : RunCommand({"xfs_repair", "-n", "-f", image}));
  ASSERT_OK(pod.volume().Delete());
}

INSTANTIATE_TEST_SUITE_P(Filesystems, Growth, testing::Values("ext4", "xfs"),
                         [](const auto& test) { return std::string(test.param); });

class GrowthOfFiles : public NodeTest {};

TEST_F(GrowthOfFiles, ADeviceTakesTheSizeThatItsFileHasNow) {
  const std::string path = std::string(kRoot) + "/disk.img";
  ASSERT_OK(RunCommand({"truncate", "-s", "64M", path}));
  const std::vector<std::string> ctl = {"env", "UBLKD_SOCKET=" + node_->daemon_socket(),
                                        "/opt/ublkd/bin/ublkctl", "device"};
  const auto run = [&](std::vector<std::string> words) {
    words.insert(words.begin(), ctl.begin(), ctl.end());
    return RunCommand(words);
  };
  ASSERT_OK(run({"create", "--file", path, "--id", "5"}));
  ASSERT_OK(RunCommand({"truncate", "-s", "96M", path}));
  const auto grown = run({"resize", "5"});
  if (grown.ok()) {
    EXPECT_EQ(*grown, "/dev/ublkb5 (file " + path + ") has 96 MiB\n");
    EXPECT_EQ(*RunCommand({"blockdev", "--getsize64", "/dev/ublkb5"}),
              std::to_string(96 * kMiB) + "\n");
  } else {
    EXPECT_NE(grown.status().message().find("UPDATE_SIZE"), absl::string_view::npos)
        << grown.status();
  }
  ASSERT_OK(run({"delete", "5"}));
}

}  // namespace
}  // namespace ublkd::test
