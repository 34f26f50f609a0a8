// SPDX-License-Identifier: Apache-2.0
//
// ublkd dies at a step of making, deleting, leaving or taking over a device. After a restart the
// same can be asked again and ends right, and nothing is lost or left.
#include <chrono>
#include <csignal>
#include <memory>

#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using std::chrono::seconds;

constexpr int64_t kVolumeBytes = int64_t{64} << 20;
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
INSTANTIATE_TEST_SUITE_P(Steps, KillStepOfLeaving, testing::Values("leave.left"), NameOf);

}  // namespace
}  // namespace ublkd::test
