// SPDX-License-Identifier: Apache-2.0
//
// Rounds: what is made a hundred times and taken away a hundred times leaves nothing.
#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

class Rounds : public NodeTest {};

TEST_F(Rounds, AHundredDevicesComeAndGoAndLeaveNothing) {
  constexpr int kRounds = 100;
  const std::string file = std::string(kRoot) + "/backing";
  ASSERT_OK(RunCommand({"truncate", "-s", "16M", file}));
  Belongings before;
  ProcessUse use_before;
  for (int round = 0; round <= kRounds; ++round) {
    if (round == 1) {
      // After the first round, whose lazily started library threads stay.
      before = TakeStock({std::string(kRoot) + "/state", "/sys/class/ublk-char"});
      use_before = UseOf(node_->daemon().pid());
    }
    ublkd::v1::CreateDeviceRequest request;
    if (round % 2 == 0) {
      request.mutable_spec()->mutable_null()->set_size_bytes(16 << 20);
    } else {
      request.mutable_spec()->mutable_file()->set_path(file);
    }
    ublkd::v1::Device device;
    grpc::ClientContext create;
    const grpc::Status created = node_->devices().CreateDevice(&create, request, &device);
    ASSERT_TRUE(created.ok()) << "round " << round << ": " << created.error_message();
    ublkd::v1::DeleteDeviceRequest remove;
    remove.set_id(device.id());
    ublkd::v1::DeleteDeviceResponse removed;
    grpc::ClientContext context;
    const grpc::Status deleted = node_->devices().DeleteDevice(&context, remove, &removed);
    ASSERT_TRUE(deleted.ok()) << "round " << round << ": " << deleted.error_message();
  }
  EXPECT_EQ(Differences(before, TakeStock({std::string(kRoot) + "/state", "/sys/class/ublk-char"})),
            "");
  const ProcessUse use = UseOf(node_->daemon().pid());
  EXPECT_LE(use.descriptors, use_before.descriptors);
  EXPECT_LE(use.queue_threads, use_before.queue_threads);
}

TEST_F(Rounds, AVolumesWholeLifeLeavesNothing) {
  const auto folders = std::set<std::string>{node_->pool_dir(), node_->kubelet_dir() + "/pods",
                                             std::string(kRoot) + "/state"};
  for (int round = 0; round < 3; ++round) {
    const Belongings before = TakeStock(folders);
    PodVolume volume = Volume("life-" + std::to_string(round), "ext4", int64_t{32} << 20);
    ASSERT_OK(volume.Create());
    ASSERT_OK(volume.Stage());
    ASSERT_OK(volume.Publish());
    ASSERT_OK(volume.Unpublish());
    ASSERT_OK(volume.Unstage());
    ASSERT_OK(volume.Delete());
    std::filesystem::remove_all(node_->kubelet_dir() + "/pods/pod-1");
    // The first round makes folders that stay.
    if (round > 0) {
      EXPECT_EQ(Differences(before, TakeStock(folders)), "");
    }
  }
}

}  // namespace
}  // namespace ublkd::test
