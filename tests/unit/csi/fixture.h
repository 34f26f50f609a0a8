// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/csi_client.h"
#include "tests/unit/csi/fake_ublkd.h"

#define EXPECT_OK(expression) EXPECT_TRUE(::ublkd::csi::IsOk(expression))
#define ASSERT_OK(expression) ASSERT_TRUE(::ublkd::csi::IsOk(expression))
#define EXPECT_CODE(expression, expected) \
  EXPECT_TRUE(::ublkd::csi::HasCode(expression, absl::StatusCode::expected))

namespace ublkd::csi {

using test::CsiClient;

inline constexpr int64_t kMiB = int64_t{1024} * 1024;
/// Large enough for ext4, small enough to be quick.
inline constexpr int64_t kSmallVolumeBytes = 32 * kMiB;
inline constexpr int64_t kXfsVolumeBytes = 320 * kMiB;

inline ::testing::AssertionResult IsOk(const absl::Status& status) {
  if (status.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected OK and got " << status;
}

/// A failure also has to say something.
inline ::testing::AssertionResult HasCode(const absl::Status& status, absl::StatusCode code) {
  if (status.code() == code && (status.ok() || !status.message().empty())) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "expected " << code << " and got " << status;
}

/// A process that was started; killed when it is destroyed.
class Process {
 public:
  Process(const std::vector<std::string>& arguments, const std::string& log,
          const std::string& path);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int number) const;
  /// Waits for its end and gives its exit status, or 128 plus the signal.
  int Wait();

 private:
  pid_t pid_ = -1;
};

/// One ublkd-csi and one FakeUblkd in folders of their own, which look like kubelet's. At the end
/// of each test nothing may be left: no mount, no loop device, no record, no open file.
class CsiTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  void StartCsi();
  /// SIGKILL, and nothing is told.
  void KillCsi();
  /// SIGTERM; the exit status.
  int StopCsi();
  void RestartCsi();
  pid_t csi_pid() const { return csi_->pid(); }

  CsiClient& client() { return *client_; }
  FakeUblkd& ublkd() { return *ublkd_; }

  /// A volume of kSmallVolumeBytes unless told otherwise.
  std::string MakeVolume(const std::string& name, int64_t size_bytes = kSmallVolumeBytes,
                         const CsiClient::Capability& capability = CsiClient::Mount(""));
  /// The paths that kubelet uses; the folder above the target exists, the target does not.
  std::string Staging(const std::string& volume) const;
  std::string BlockStaging(const std::string& volume) const;
  std::string Target(const std::string& volume, const std::string& pod = "pod-1") const;

  /// Unpublishes at all targets used, unstages and deletes.
  void CleanUp(const std::string& id, const std::string& staging,
               const std::vector<std::string>& targets);

  /// A program put before the real ones in the PATH of ublkd-csi.
  void PutProgram(const std::string& name, const std::string& script) const;
  /// The same as mkfs.ext4: it waits while the file "hold" exists and counts its starts.
  void HoldMkfs();
  void ReleaseMkfs();
  int MkfsStarts() const;

  std::string Path(const std::string& name) const { return work_ + "/" + name; }
  std::string kubelet() const { return work_ + "/kubelet"; }
  std::string CsiLog() const;
  std::vector<std::string> MountsBelowKubelet() const;
  /// What the program has open, sorted.
  std::vector<std::string> OpenFiles() const;

 private:
  std::string work_;
  std::unique_ptr<FakeUblkd> ublkd_;
  std::unique_ptr<Process> csi_;
  std::unique_ptr<CsiClient> client_;
  std::vector<std::string> open_files_at_start_;
};

/// Polls until `condition` holds; false when it does not within `deadline`.
bool WaitFor(const std::function<bool()>& condition,
             std::chrono::milliseconds deadline = std::chrono::seconds(20));

bool Exists(const std::string& path);
void WriteText(const std::string& path, const std::string& text);
std::string ReadText(const std::string& path);
/// Runs a command line of the test itself; its exit status.
int RunShell(const std::string& command);
/// Value of blkid for a file or device, such as "TYPE" or "UUID".
std::string BlkidValue(const std::string& path, const std::string& name);

}  // namespace ublkd::csi
