// SPDX-License-Identifier: Apache-2.0
//
// The server dies: its users get errors, nobody hangs, and everything can be removed.
#include <chrono>
#include <csignal>

#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using std::chrono::seconds;

constexpr int64_t kVolumeBytes = int64_t{256} << 20;
// Of an emulated machine.
constexpr seconds kErrorLimit(30);

class Death : public NodeTest {
 protected:
  // fio that writes until it is stopped or fails.
  absl::StatusOr<std::unique_ptr<Process>> StartLoad(const std::string& file) {
    return Process::Start(
        {"fio", "--name=load", "--filename=" + file, "--size=64m", "--bs=4k", "--rw=randrw",
         "--direct=1", "--ioengine=io_uring", "--iodepth=32", "--time_based", "--runtime=600"},
        std::string(kRoot) + "/log/fio.log");
  }

  // Waits until devices have completed some writes.
  bool LoadIsRunning() {
    return Eventually(
        [&] {
          const auto text = node_->Fetch("/metrics");
          if (!text.ok()) return false;
          double writes = 0;
          for (const Sample& sample : ParseMetrics(*text)) {
            const auto op = sample.labels.find("op");
            if (sample.name == "ublkd_queue_ios_total" && op->second == "write") {
              writes += sample.value;
            }
          }
          return writes > 200;
        },
        seconds(60));
  }

  // Gives the volume to a pod, whose fio is `load_` and has completed some writes.
  void StartPodOn(PodVolume& raw) {
    ASSERT_OK(raw.Create());
    ASSERT_OK(raw.Stage());
    ASSERT_OK(raw.Publish());
    auto load = StartLoad(raw.target_path());
    ASSERT_OK(load);
    load_ = *std::move(load);
    ASSERT_TRUE(LoadIsRunning());
  }

  std::unique_ptr<Process> load_;
};

TEST_F(Death, KillUnderLoadGivesErrorsAndARemovableDevice) {
  PodVolume volume = Volume("raw", "", kVolumeBytes);
  ASSERT_NO_FATAL_FAILURE(StartPodOn(volume));

  node_->KillDaemon();
  const auto code = load_->Wait(kErrorLimit);
  ASSERT_OK(code);
  EXPECT_NE(*code, 0) << "fio did not notice that the server died";

  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  ASSERT_OK(RunCommand({"dd", "if=" + volume.target_path(), "of=/dev/null", "bs=1M", "count=16"}));
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
  ASSERT_OK(volume.Delete());
}

TEST_F(Death, KillWithAMountedFilesystemCanBeCleanedUpAndStagedAgain) {
  PodVolume volume = Volume("fs", "ext4", kVolumeBytes);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  ASSERT_OK(WriteFileAtomically(volume.target_path() + "/kept", "acknowledged"));

  node_->KillDaemon();
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  EXPECT_EQ(*ReadFile(volume.target_path() + "/kept"), "acknowledged")
      << "a write that was acknowledged before the kill is lost";
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
}

TEST_F(Death, TermUnderLoadEndsInTimeAndLeavesNothing) {
  PodVolume volume = Volume("raw", "", kVolumeBytes);
  ASSERT_NO_FATAL_FAILURE(StartPodOn(volume));
  ASSERT_OK(node_->StopDaemon());
  ASSERT_OK(load_->Wait(kErrorLimit));
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
}

TEST_F(Death, RestartOfTheControlPlaneDisturbsNoIo) {
  PodVolume volume = Volume("fs", "ext4", kVolumeBytes);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  auto check = Process::Start(
      {"fio", "--name=check", "--filename=" + volume.target_path() + "/f", "--size=16m", "--bs=4k",
       "--rw=randwrite", "--direct=1", "--ioengine=io_uring", "--iodepth=16", "--verify=crc32c"},
      std::string(kRoot) + "/log/fio.log");
  ASSERT_OK(check);
  node_->csi().Signal(SIGKILL);
  ASSERT_OK(node_->csi().Wait(kErrorLimit));
  ASSERT_OK(node_->StartCsi());
  const auto code = (*check)->Wait(seconds(120));
  ASSERT_OK(code);
  EXPECT_EQ(*code, 0) << "I/O failed while ublkd-csi was restarted";
  ASSERT_OK(volume.Publish());
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
}

}  // namespace
}  // namespace ublkd::test
