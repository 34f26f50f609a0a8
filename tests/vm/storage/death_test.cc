// SPDX-License-Identifier: Apache-2.0
//
// ublkd dies, is restarted or is told to stop its devices. Pods whose disks are left notice
// nothing. $UBLKD_KILLS is how often it is killed under load, $UBLKD_OTHER an ublkd of another
// version.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <random>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/vm/storage/busy_pod.h"
#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int64_t kVolumeBytes = int64_t{384} << 20;
constexpr int kDefaultKills = 8;
constexpr int kMostMsBetweenKills = 400;
// Of an emulated machine.
constexpr seconds kErrorLimit(30);
constexpr seconds kLoadLimit(120);

int Kills() {
  int kills = kDefaultKills;
  const char* const wanted = std::getenv("UBLKD_KILLS");
  if (wanted != nullptr && !absl::SimpleAtoi(wanted, &kills)) kills = 0;
  return kills;
}

class Death : public NodeTest {
 protected:
  void StartPods() {
    for (const char* const fs_type : {"ext4", "xfs", ""}) {
      const std::string name = *fs_type == '\0' ? "raw" : fs_type;
      std::unique_ptr<PodVolume> volume(new PodVolume(Volume(name, fs_type, kVolumeBytes)));
      pods_.push_back(std::make_unique<BusyPod>(std::move(volume), *fs_type == '\0'));
      ASSERT_OK(pods_.back()->Start());
    }
    ASSERT_TRUE(EachPodGetsOn());
  }
  // Each compares once more what it wrote.
  bool EachPodGetsOn() {
    std::vector<int> before;
    for (const auto& pod : pods_) before.push_back(pod->rounds());
    return Eventually(
        [&] {
          for (size_t i = 0; i < pods_.size(); ++i) {
            if (pods_[i]->rounds() == before[i] && !pods_[i]->failed()) return false;
          }
          return true;
        },
        seconds(300));
  }
  bool AnyPodFailed() const {
    for (const auto& pod : pods_) {
      if (pod->failed()) return true;
    }
    return false;
  }
  // The filesystems are sound, the data is that which was written, and all can be removed.
  void FinishPods() {
    EXPECT_TRUE(EachPodGetsOn());
    int rounds = 0;
    for (const auto& pod : pods_) {
      const absl::Status status = pod->Finish();
      EXPECT_TRUE(status.ok()) << status;
      rounds += pod->rounds();
    }
    for (const auto& pod : pods_) {
      ASSERT_OK(pod->volume().Unpublish());
      ASSERT_OK(pod->volume().Unstage());
    }
    ASSERT_OK(RunCommand({"e2fsck", "-fn", node_->pool_dir() + "/ext4.img"}));
    ASSERT_OK(RunCommand({"xfs_repair", "-n", "-f", node_->pool_dir() + "/xfs.img"}));
    for (const auto& pod : pods_) ASSERT_OK(pod->Remove());
    std::cout << "pods wrote and compared their 4 MiB " << rounds << " times\n";
  }

  std::vector<std::unique_ptr<BusyPod>> pods_;
};

TEST_F(Death, KilledUnderLoadNoPodNotices) {
  ASSERT_NO_FATAL_FAILURE(StartPods());
  std::mt19937 random(static_cast<unsigned>(time(nullptr)));
  ASSERT_GT(Kills(), 0) << "$UBLKD_KILLS is no number";
  int kills = 0;
  for (; kills < Kills() && !AnyPodFailed(); ++kills) {
    // While it serves, or while it still takes over; a slow machine would see nothing but the
    // latter, and the pods get nowhere.
    if (kills % 4 == 0) ASSERT_OK(node_->WaitUntilReady());
    std::this_thread::sleep_for(milliseconds(random() % kMostMsBetweenKills));
    node_->KillDaemon();
    ASSERT_OK(node_->StartDaemon());
    if (kills % 100 == 99) std::cout << kills + 1 << " kills" << std::endl;
  }
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_NO_FATAL_FAILURE(FinishPods());
  std::cout << "ublkd was killed " << kills << " times\n";
}

TEST_F(Death, RestartedUnderLoadNoPodNotices) {
  ASSERT_NO_FATAL_FAILURE(StartPods());
  for (int i = 0; i < (Kills() + 3) / 4 && !AnyPodFailed(); ++i) {
    ASSERT_OK(node_->WaitUntilReady());
    ASSERT_OK(node_->StopDaemon());
    ASSERT_OK(node_->StartDaemon());
  }
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_NO_FATAL_FAILURE(FinishPods());
}

// The devices are made by the other version, and served by both in turn.
TEST_F(Death, UpgradedAndBackUnderLoadNoPodNotices) {
  const char* const other = std::getenv("UBLKD_OTHER");
  if (other == nullptr) GTEST_SKIP() << "$UBLKD_OTHER is not set; see ./run test --upgrade";
  ASSERT_OK(node_->StopDaemon());
  node_->SetDaemonProgram(other);
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_NO_FATAL_FAILURE(StartPods());
  int changes = 0;
  for (; changes < Kills() && !AnyPodFailed(); ++changes) {
    // Every second pair of changes is a crash.
    if (changes % 4 < 2) {
      ASSERT_OK(node_->StopDaemon());
    } else {
      node_->KillDaemon();
    }
    node_->SetDaemonProgram(changes % 2 == 0 ? kDaemon : other);
    ASSERT_OK(node_->StartDaemon());
    ASSERT_OK(node_->WaitUntilReady());
    ASSERT_TRUE(EachPodGetsOn()) << "after change " << changes;
  }
  ASSERT_OK(node_->StopDaemon());
  node_->SetDaemonProgram(kDaemon);
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_NO_FATAL_FAILURE(FinishPods());
  std::cout << "ublkd was changed " << changes + 1 << " times\n";
}

TEST_F(Death, ThreadsThatShareAQueueAreTakenOver) {
  constexpr uint32_t kThreads = 3;
  const std::string path = std::string(kRoot) + "/shared";
  ASSERT_OK(RunCommand({"truncate", "--size=64M", path}));
  v1::CreateDeviceRequest request;
  request.mutable_spec()->mutable_file()->set_path(path);
  request.mutable_spec()->set_queues(1);
  request.mutable_spec()->set_threads_per_queue(kThreads);
  const auto create = [&](v1::Device& device) {
    grpc::ClientContext context;
    return node_->devices().CreateDevice(&context, request, &device);
  };
  v1::Device device;
  const grpc::Status made = create(device);
  if (!DriverOffers("PER_IO_DAEMON")) {
    EXPECT_EQ(made.error_code(), grpc::FAILED_PRECONDITION) << made.error_message();
    EXPECT_THAT(made.error_message(), testing::HasSubstr("PER_IO_DAEMON"));
    return;
  }
  ASSERT_TRUE(made.ok()) << made.error_message();
  std::vector<std::string> load = Fio(device.path());
  // For as long as the kills take.
  load.push_back("--rate_iops=200");
  auto check = Process::Start(load, std::string(kRoot) + "/log/fio.log");
  ASSERT_OK(check);
  for (int kills = 0; kills < 3; ++kills) {
    std::this_thread::sleep_for(milliseconds(kMostMsBetweenKills / 2));
    EXPECT_EQ(UseOf(node_->daemon().pid()).queue_threads, kThreads);
    node_->KillDaemon();
    ASSERT_OK(node_->StartDaemon());
    ASSERT_OK(node_->WaitUntilReady());
  }
  const auto code = (*check)->Wait(kLoadLimit);
  ASSERT_OK(code);
  EXPECT_EQ(*code, 0) << "I/O failed while ublkd was killed";
  v1::Device same;
  const grpc::Status again = create(same);
  ASSERT_TRUE(again.ok()) << again.error_message();
  EXPECT_EQ(same.id(), device.id());
  EXPECT_EQ(same.spec().threads_per_queue(), kThreads);
  grpc::ClientContext deletion;
  v1::DeleteDeviceRequest gone;
  gone.set_id(device.id());
  v1::DeleteDeviceResponse response;
  const grpc::Status deleted = node_->devices().DeleteDevice(&deletion, gone, &response);
  EXPECT_TRUE(deleted.ok()) << deleted.error_message();
}

TEST_F(Death, AFilesystemGoesOnWhereItWas) {
  PodVolume volume = Volume("fs", "ext4", kVolumeBytes);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  ASSERT_OK(WriteFileAtomically(volume.target_path() + "/kept", "acknowledged"));

  node_->KillDaemon();
  std::atomic<bool> written = false;
  std::thread writer([&] {
    const absl::Status status = WriteFileAtomically(volume.target_path() + "/late", "waited");
    EXPECT_TRUE(status.ok()) << status;
    written = true;
  });
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_FALSE(written) << "nobody can have stored it";
  ASSERT_OK(node_->StartDaemon());
  writer.join();
  ASSERT_OK(node_->WaitUntilReady());
  // Kubelet asks again after a restart.
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  EXPECT_EQ(*ReadFile(volume.target_path() + "/kept"), "acknowledged");
  EXPECT_EQ(*ReadFile(volume.target_path() + "/late"), "waited");
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
}

TEST_F(Death, AHundredDevicesAreTakenOver) {
  constexpr uint32_t kDevices = 100;
  const std::string folder = std::string(kRoot) + "/files";
  ASSERT_OK(MakeDirectories(folder, 0700));
  for (uint32_t id = 0; id < kDevices; ++id) {
    const std::string path = absl::StrCat(folder, "/", id);
    ASSERT_OK(RunCommand({"truncate", "--size=64M", path}));
    v1::CreateDeviceRequest request;
    request.mutable_spec()->mutable_file()->set_path(path);
    request.mutable_spec()->set_id(id);
    request.mutable_spec()->set_queues(1);
    request.mutable_spec()->set_depth(32);
    grpc::ClientContext context;
    v1::Device device;
    const grpc::Status made = node_->devices().CreateDevice(&context, request, &device);
    ASSERT_TRUE(made.ok()) << made.error_message();
  }
  node_->KillDaemon();
  const absl::Time begin = absl::Now();
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  std::cout << "ready " << absl::Now() - begin << " after the start, with " << kDevices
            << " devices\n";

  grpc::ClientContext context;
  v1::ListDevicesResponse list;
  ASSERT_TRUE(node_->devices().ListDevices(&context, {}, &list).ok());
  ASSERT_EQ(list.devices_size(), static_cast<int>(kDevices));
  for (const v1::Device& device : list.devices()) {
    EXPECT_EQ(device.state(), v1::Device::STATE_LIVE) << device.path() << ": " << device.reason();
  }
  const auto text = node_->Fetch("/metrics");
  ASSERT_OK(text);
  for (const Sample& sample : ParseMetrics(*text)) {
    if (sample.name == "ublkd_recoveries_total") {
      const bool good = sample.labels.at("result") == "taken_over";
      EXPECT_EQ(sample.value, good ? kDevices : 0) << sample.labels.at("result");
    }
  }
  for (uint32_t id = 0; id < kDevices; ++id) {
    v1::DeleteDeviceRequest request;
    request.set_id(id);
    grpc::ClientContext deletion;
    v1::DeleteDeviceResponse response;
    const grpc::Status deleted = node_->devices().DeleteDevice(&deletion, request, &response);
    ASSERT_TRUE(deleted.ok()) << deleted.error_message();
  }
}

TEST_F(Death, DevicesAreStoppedAtTheEndIfThatIsWanted) {
  StartNode(0, {"--on-stop=stop", "--shutdown-grace-ms=500"});
  PodVolume volume = Volume("raw", "", kVolumeBytes);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  auto load =
      Process::Start({"fio", "--name=load", "--filename=" + volume.target_path(), "--size=64m",
                      "--bs=4k", "--rw=randrw", "--direct=1", "--ioengine=io_uring", "--iodepth=32",
                      "--time_based", "--runtime=600"},
                     std::string(kRoot) + "/log/fio.log");
  ASSERT_OK(load);
  ASSERT_OK(node_->StopDaemon());
  // Its user has an error, and nothing more to wait for.
  ASSERT_OK((*load)->Wait(kErrorLimit));
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  ASSERT_OK(RunCommand({"dd", "if=" + volume.target_path(), "of=/dev/null", "bs=1M", "count=16"}));
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
}

TEST_F(Death, RestartOfTheControlPlaneDisturbsNoIo) {
  PodVolume volume = Volume("fs", "ext4", kVolumeBytes);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  auto check =
      Process::Start(Fio(volume.target_path() + "/data"), std::string(kRoot) + "/log/fio.log");
  ASSERT_OK(check);
  node_->csi().Signal(SIGKILL);
  ASSERT_OK(node_->csi().Wait(kErrorLimit));
  ASSERT_OK(node_->StartCsi());
  const auto code = (*check)->Wait(kLoadLimit);
  ASSERT_OK(code);
  EXPECT_EQ(*code, 0) << "I/O failed while ublkd-csi was restarted";
  ASSERT_OK(volume.Publish());
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
}

}  // namespace
}  // namespace ublkd::test
