// SPDX-License-Identifier: Apache-2.0
//
// ublkd dies at a step of making, growing, deleting, leaving or taking over a device. After a
// restart the same can be asked again and ends right, and nothing is lost or left.
#include <chrono>
#include <csignal>
#include <memory>

#include "daemon/base/rpc.h"
#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using std::chrono::seconds;

constexpr int64_t kVolumeBytes = int64_t{64} << 20;
constexpr uint64_t kGrownBytes = uint64_t{96} << 20;
constexpr seconds kDeathLimit(60);
constexpr char kWords[] = "acknowledged";

class KillStep : public NodeTest, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    NodeTest::SetUp();
    volume_.reset(new PodVolume(Volume("raw", "", kVolumeBytes)));
    ASSERT_OK(volume_->Create());
  }

  // The next ublkd dies at the step, which may be before it answers.
  void RestartWithFailPoint() {
    ASSERT_OK(node_->StopDaemon());
    node_->SetFailPoint(GetParam());
    (void)node_->StartDaemon();
    node_->SetFailPoint("");
  }
  // It did, and another is there.
  void ExpectDeathAndRestart() {
    const auto code = node_->daemon().Wait(kDeathLimit);
    ASSERT_OK(code);
    EXPECT_EQ(*code, 128 + SIGKILL) << "it did not come to the step";
    ASSERT_OK(node_->StartDaemon());
    ASSERT_OK(node_->WaitUntilReady());
  }

  void Attach() {
    ASSERT_OK(volume_->Stage());
    ASSERT_OK(volume_->Publish());
  }
  void Write() {
    ASSERT_OK(RunCommand({"sh", "-c",
                          std::string("printf ") + kWords + " | dd of=" + volume_->target_path() +
                              " bs=4096 conv=fsync,sync"}));
  }
  // The data is there, and the volume can be taken away.
  void CheckAndRemove() {
    const auto read = RunCommand({"head", "-c", "12", volume_->target_path()});
    ASSERT_OK(read);
    EXPECT_EQ(*read, kWords);
    ASSERT_OK(volume_->Unpublish());
    ASSERT_OK(volume_->Unstage());
    ASSERT_OK(volume_->Delete());
    EXPECT_EQ(*RunCommand({"ls", std::string(kRoot) + "/state/ublkd/devices"}), "");
  }

  std::unique_ptr<PodVolume> volume_;
};

class KillStepOfCreate : public KillStep {};
class KillStepOfDelete : public KillStep {};
class KillStepOfRecovery : public KillStep {};
class KillStepOfLeaving : public KillStep {};
class KillStepOfGrowth : public KillStep {};
class KillStepOfNullGrowth : public KillStep {};

TEST_P(KillStepOfCreate, CanBeRepeated) {
  ASSERT_NO_FATAL_FAILURE(RestartWithFailPoint());
  EXPECT_FALSE(volume_->Stage().ok());
  ASSERT_NO_FATAL_FAILURE(ExpectDeathAndRestart());
  ASSERT_NO_FATAL_FAILURE(Attach());
  ASSERT_NO_FATAL_FAILURE(Write());
  CheckAndRemove();
}

TEST_P(KillStepOfDelete, CanBeRepeated) {
  ASSERT_NO_FATAL_FAILURE(Attach());
  ASSERT_NO_FATAL_FAILURE(Write());
  ASSERT_NO_FATAL_FAILURE(RestartWithFailPoint());
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_OK(volume_->Unpublish());
  EXPECT_FALSE(volume_->Unstage().ok());
  ASSERT_NO_FATAL_FAILURE(ExpectDeathAndRestart());
  ASSERT_OK(volume_->Unstage());
  ASSERT_NO_FATAL_FAILURE(Attach());
  CheckAndRemove();
}

TEST_P(KillStepOfRecovery, CanBeRepeated) {
  ASSERT_NO_FATAL_FAILURE(Attach());
  ASSERT_NO_FATAL_FAILURE(Write());
  ASSERT_NO_FATAL_FAILURE(RestartWithFailPoint());
  ASSERT_NO_FATAL_FAILURE(ExpectDeathAndRestart());
  CheckAndRemove();
}

TEST_P(KillStepOfLeaving, LosesNothing) {
  node_->KillDaemon();
  node_->SetFailPoint(GetParam());
  ASSERT_OK(node_->StartDaemon());
  node_->SetFailPoint("");
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_NO_FATAL_FAILURE(Attach());
  ASSERT_NO_FATAL_FAILURE(Write());
  node_->daemon().Signal(SIGTERM);
  ASSERT_NO_FATAL_FAILURE(ExpectDeathAndRestart());
  CheckAndRemove();
}

// Asks for the larger size.
absl::StatusOr<ublkd::v1::Volume> GrowVolume(Node& node, const std::string& id) {
  ublkd::v1::ResizeVolumeRequest request;
  request.set_id(id);
  request.set_size_bytes(kGrownBytes);
  ublkd::v1::Volume volume;
  grpc::ClientContext context;
  const absl::Status status = FromGrpc(node.volumes().ResizeVolume(&context, request, &volume));
  if (!status.ok()) return status;
  return volume;
}

absl::StatusOr<ublkd::v1::Device> GrowDevice(Node& node, uint32_t id) {
  ublkd::v1::ResizeDeviceRequest request;
  request.set_id(id);
  request.set_size_bytes(kGrownBytes);
  ublkd::v1::Device device;
  grpc::ClientContext context;
  const absl::Status status = FromGrpc(node.devices().ResizeDevice(&context, request, &device));
  if (!status.ok()) return status;
  return device;
}

TEST_P(KillStepOfGrowth, CanBeRepeated) {
  ASSERT_NO_FATAL_FAILURE(Attach());
  ASSERT_NO_FATAL_FAILURE(Write());
  ASSERT_NO_FATAL_FAILURE(RestartWithFailPoint());
  ASSERT_OK(node_->WaitUntilReady());
  EXPECT_FALSE(GrowVolume(*node_, volume_->id()).ok());
  ASSERT_NO_FATAL_FAILURE(ExpectDeathAndRestart());
  const std::string file = node_->pool_dir() + "/raw.img";
  EXPECT_FALSE(std::filesystem::exists(node_->pool_dir() + "/raw.growing"));
  const auto file_bytes = std::filesystem::file_size(file);
  EXPECT_TRUE(file_bytes == static_cast<uint64_t>(kVolumeBytes) || file_bytes == kGrownBytes);

  const auto grown = GrowVolume(*node_, volume_->id());
  ASSERT_OK(grown);
  EXPECT_EQ(grown->size_bytes(), kGrownBytes);
  EXPECT_EQ(grown->device_size_bytes(), kGrownBytes);
  EXPECT_EQ(grown->generation(), 3u) << "handed out raw, and grown: each once";
  EXPECT_EQ(std::filesystem::file_size(file), kGrownBytes);
  EXPECT_EQ(*RunCommand({"blockdev", "--getsize64", volume_->target_path()}),
            std::to_string(kGrownBytes) + "\n");
  CheckAndRemove();
}

TEST_P(KillStepOfNullGrowth, CanBeRepeated) {
  constexpr uint32_t kId = 8;
  ublkd::v1::CreateDeviceRequest request;
  request.mutable_spec()->mutable_null()->set_size_bytes(static_cast<uint64_t>(kVolumeBytes));
  request.mutable_spec()->set_id(kId);
  ublkd::v1::Device device;
  grpc::ClientContext create;
  ASSERT_TRUE(node_->devices().CreateDevice(&create, request, &device).ok());
  ASSERT_NO_FATAL_FAILURE(RestartWithFailPoint());
  ASSERT_OK(node_->WaitUntilReady());
  EXPECT_FALSE(GrowDevice(*node_, kId).ok());
  ASSERT_NO_FATAL_FAILURE(ExpectDeathAndRestart());
  const auto grown = GrowDevice(*node_, kId);
  ASSERT_OK(grown);
  EXPECT_EQ(grown->size_bytes(), kGrownBytes);
  EXPECT_EQ(grown->spec().null().size_bytes(), kGrownBytes);
  EXPECT_EQ(*RunCommand({"blockdev", "--getsize64", "/dev/ublkb8"}),
            std::to_string(kGrownBytes) + "\n");
  ublkd::v1::DeleteDeviceRequest remove;
  remove.set_id(kId);
  ublkd::v1::DeleteDeviceResponse removed;
  grpc::ClientContext context;
  EXPECT_TRUE(node_->devices().DeleteDevice(&context, remove, &removed).ok());
  ASSERT_OK(volume_->Delete());
}

std::string NameOf(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  name.erase(0, name.find('.') + 1);
  return name;
}

INSTANTIATE_TEST_SUITE_P(Steps, KillStepOfCreate,
                         testing::Values("create.recorded", "create.added", "create.described",
                                         "create.fetched", "create.started", "create.live",
                                         "create.done"),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Steps, KillStepOfDelete,
                         testing::Values("delete.begun", "delete.stopped", "delete.removed",
                                         "delete.done"),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Steps, KillStepOfRecovery,
                         testing::Values("recover.announced", "recover.fetched", "recover.served",
                                         "recover.live", "recover.done"),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Steps, KillStepOfGrowth,
                         testing::Values("resize.begun", "resize.data", "resize.recorded",
                                         "resize.disk", "resize.done"),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Steps, KillStepOfNullGrowth,
                         testing::Values("resize.disk", "resize.recorded", "resize.done"), NameOf);
INSTANTIATE_TEST_SUITE_P(Steps, KillStepOfLeaving, testing::Values("leave.left"), NameOf);

}  // namespace
}  // namespace ublkd::test
