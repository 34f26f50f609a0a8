// SPDX-License-Identifier: Apache-2.0
//
// ublkd stays away. Who does not want to wait for it gets errors from ublkd-guard, until it is
// back.
#include <chrono>
#include <csignal>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

using std::chrono::seconds;

// Of an emulated machine.
constexpr seconds kLimit(120);
constexpr uint32_t kFailAfterSeconds = 2;
constexpr uint32_t kWait = 0;
constexpr char kWords[] = "acknowledged";

class GuardTest : public NodeTest {
 protected:
  void TearDown() override {
    if (HasFailure()) {
      const auto log = ReadFile(guard_log());
      GTEST_LOG_(INFO) << guard_log() << ":\n" << (log.ok() ? *log : "(unreadable)");
    }
    guard_.reset();
    // Devices that were left by a test that failed.
    if (node_ != nullptr && node_->StartDaemon().ok() && node_->WaitUntilReady().ok()) {
      for (const uint32_t id : ids_) (void)Detach(id);
    }
    NodeTest::TearDown();
  }

  std::string guard_log() const { return std::string(kRoot) + "/log/ublkd-guard.log"; }

  void StartGuard(const std::vector<std::string>& flags = {}) {
    std::vector<std::string> command = {"/opt/ublkd/bin/ublkd-guard",
                                        absl::StrCat("--state-dir=", kRoot, "/state/ublkd")};
    command.insert(command.end(), flags.begin(), flags.end());
    auto started = Process::Start(command, guard_log());
    ASSERT_OK(started);
    guard_ = std::move(*started);
  }
  void KillGuard() {
    guard_->Signal(SIGKILL);
    ASSERT_OK(guard_->Wait(kLimit));
  }
  bool GuardIsConnected() {
    const auto text = node_->Fetch("/metrics");
    if (!text.ok()) return false;
    for (const Sample& sample : ParseMetrics(*text)) {
      if (sample.name == "ublkd_guard_connected") return sample.value == 1;
    }
    return false;
  }

  /// A disk of 64 MiB in a file; its path.
  std::string Attach(uint32_t id, uint32_t fail_after_seconds) {
    const std::string path = absl::StrCat(kRoot, "/disk-", id);
    EXPECT_TRUE(RunCommand({"truncate", "--size=64M", path}).ok());
    v1::CreateDeviceRequest request;
    v1::DeviceSpec& spec = *request.mutable_spec();
    spec.mutable_file()->set_path(path);
    spec.set_id(id);
    spec.set_fail_after_seconds(fail_after_seconds);
    grpc::ClientContext context;
    v1::Device device;
    const grpc::Status made = node_->devices().CreateDevice(&context, request, &device);
    EXPECT_TRUE(made.ok()) << made.error_message();
    ids_.push_back(id);
    return device.path();
  }
  grpc::Status Detach(uint32_t id) {
    v1::DeleteDeviceRequest request;
    request.set_id(id);
    grpc::ClientContext context;
    v1::DeleteDeviceResponse response;
    return node_->devices().DeleteDevice(&context, request, &response);
  }
  void ExpectLive(uint32_t id) {
    v1::GetDeviceRequest request;
    request.set_id(id);
    grpc::ClientContext context;
    v1::Device device;
    const grpc::Status got = node_->devices().GetDevice(&context, request, &device);
    ASSERT_TRUE(got.ok()) << got.error_message();
    EXPECT_EQ(device.state(), v1::Device::STATE_LIVE) << device.reason();
  }

  std::unique_ptr<Process> Start(const std::vector<std::string>& command) {
    auto started = Process::Start(command, std::string(kRoot) + "/log/users.log");
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? std::move(*started) : nullptr;
  }
  static std::vector<std::string> Fio(const std::string& disk, const std::string& what) {
    return {"fio",
            "--name=load",
            "--filename=" + disk,
            "--size=8m",
            "--bs=4k",
            "--rw=randwrite",
            "--direct=1",
            "--ioengine=io_uring",
            "--thread",
            "--iodepth=16",
            what,
            "--verify_fatal=1"};
  }
  static std::vector<std::string> Verified(const std::string& disk) {
    return Fio(disk, "--verify=crc32c");
  }
  static std::vector<std::string> Endless(const std::string& disk) {
    std::vector<std::string> command = Fio(disk, "--time_based");
    command.emplace_back("--runtime=3600");
    return command;
  }
  static std::vector<std::string> ReadOne(const std::string& disk) {
    return {"dd", "if=" + disk, "of=/dev/null", "bs=4096", "count=1", "iflag=direct"};
  }
  /// Beyond what the load writes.
  void WriteWords(const std::string& disk) {
    ASSERT_OK(RunCommand({"sh", "-c",
                          absl::StrCat("printf ", kWords, " | dd of=", disk,
                                       " bs=4096 seek=8192 conv=fsync,sync")}));
  }
  void ExpectWords(const std::string& disk) {
    const auto read = RunCommand(
        {"sh", "-c",
         absl::StrCat("dd if=", disk, " bs=4096 skip=8192 count=1 iflag=direct | head -c 12")});
    ASSERT_OK(read);
    EXPECT_NE(read->find(kWords), std::string::npos) << *read;
  }
  void ExpectError(const std::unique_ptr<Process>& user) {
    const auto code = user->Wait(kLimit);
    ASSERT_OK(code);
    EXPECT_NE(*code, 0) << "it had no error";
  }

  std::unique_ptr<Process> guard_;
  std::vector<uint32_t> ids_;
};

TEST_F(GuardTest, OneDeviceFailsWhileTheOtherWaitsAndBothAreServedAgain) {
  const std::string fails = Attach(0, kFailAfterSeconds);
  const std::string waits = Attach(1, kWait);
  ASSERT_NO_FATAL_FAILURE(WriteWords(fails));
  StartGuard();
  ASSERT_TRUE(Eventually([this] { return GuardIsConnected(); }, kLimit));
  const auto failing = Start(Endless(fails));
  const auto waiting = Start(Verified(waits));

  node_->KillDaemon();
  ASSERT_NO_FATAL_FAILURE(ExpectError(failing));
  // A guard that dies lets users wait, and the next one ends that.
  ASSERT_NO_FATAL_FAILURE(KillGuard());
  const auto late = Start(ReadOne(fails));
  StartGuard();
  ASSERT_NO_FATAL_FAILURE(ExpectError(late));
  EXPECT_TRUE(waiting->Running()) << "it was to wait";

  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  const auto waited = waiting->Wait(kLimit);
  ASSERT_OK(waited);
  EXPECT_EQ(*waited, 0) << "it had an error";
  ExpectLive(0);
  ExpectLive(1);
  EXPECT_TRUE(GuardIsConnected());
  ASSERT_NO_FATAL_FAILURE(ExpectWords(fails));
  ASSERT_OK(RunCommand(Verified(fails)));

  guard_->Signal(SIGTERM);
  const auto ended = guard_->Wait(kLimit);
  ASSERT_OK(ended);
  EXPECT_EQ(*ended, 0);
  EXPECT_TRUE(Eventually([this] { return !GuardIsConnected(); }, kLimit));
}

TEST_F(GuardTest, BothAreKilledAndTheServerComesBackAlone) {
  const std::string disk = Attach(0, 1);
  ASSERT_NO_FATAL_FAILURE(WriteWords(disk));
  StartGuard();
  ASSERT_TRUE(Eventually([this] { return GuardIsConnected(); }, kLimit));
  node_->KillDaemon();
  ASSERT_NO_FATAL_FAILURE(ExpectError(Start(ReadOne(disk))));
  ASSERT_NO_FATAL_FAILURE(KillGuard());
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  ExpectLive(0);
  ASSERT_NO_FATAL_FAILURE(ExpectWords(disk));
  EXPECT_FALSE(GuardIsConnected());
}

// A node that shuts down: its filesystems can be unmounted.
TEST_F(GuardTest, NowEndsAnUnmountingThatHangs) {
  const std::string disk = Attach(0, kWait);
  const std::string folder = std::string(kRoot) + "/mounted";
  ASSERT_OK(MakeDirectories(folder, 0700));
  ASSERT_OK(RunCommand({"mkfs.ext4", "-q", disk}));
  ASSERT_OK(RunCommand({"mount", disk, folder}));
  ASSERT_OK(WriteFileAtomically(folder + "/kept", kWords));
  ASSERT_OK(RunCommand({"sh", "-c", "head -c 65536 /dev/zero >" + folder + "/late"}));
  node_->KillDaemon();
  const auto unmounting = Start({"umount", folder});
  const std::string status = absl::StrCat("/proc/", unmounting->pid(), "/stat");
  EXPECT_TRUE(Eventually(
      [&] {
        const auto text = ReadFile(status);
        return text.ok() && absl::StrContains(*text, ") D ");
      },
      kLimit))
      << "it does not wait in the kernel";
  EXPECT_TRUE(unmounting->Running()) << "nobody can have stored what was written";

  StartGuard({"--now"});
  ASSERT_OK(unmounting->Wait(kLimit));
  const auto ended = guard_->Wait(kLimit);
  ASSERT_OK(ended);
  EXPECT_EQ(*ended, 0);

  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_OK(RunCommand({"mount", disk, folder}));
  EXPECT_EQ(*ReadFile(folder + "/kept"), kWords);
  ASSERT_OK(RunCommand({"umount", folder}));
}

}  // namespace
}  // namespace ublkd::test
