// SPDX-License-Identifier: Apache-2.0
//
// Limits that are set with ublkctl hold, and outlive the ublkd that set them.

#include <chrono>
#include <csignal>

#include "absl/time/clock.h"
#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

constexpr int64_t kMiB = 1 << 20;

class Limits : public NodeTest {
 protected:
  absl::StatusOr<std::string> Ctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     {"/opt/ublkd/bin/ublkctl", "--socket", node_->daemon_socket(), "device"});
    return RunCommand(arguments);
  }
  /// How long reading that many MiB of the volume takes.
  absl::StatusOr<absl::Duration> Read(const PodVolume& volume, int64_t mib) {
    const absl::Time begin = absl::Now();
    const auto read =
        RunCommand({"dd", "if=" + volume.target_path(), "of=/dev/null", "bs=64k",
                    "count=" + std::to_string(mib * kMiB / (64 << 10)), "iflag=direct"});
    if (!read.ok()) return read.status();
    return absl::Now() - begin;
  }
  double ThrottledSeconds() {
    const auto text = node_->Fetch("/metrics");
    if (!text.ok()) return -1;
    double seconds = 0;
    for (const Sample& sample : ParseMetrics(*text)) {
      if (sample.name == "ublkd_qos_throttled_seconds_total") seconds += sample.value;
    }
    return seconds;
  }
};

TEST_F(Limits, HoldAndOutliveTheServer) {
  PodVolume volume = Volume("raw", "", 64 * kMiB);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  EXPECT_EQ(ThrottledSeconds(), 0);
  const auto set = Ctl({"limit", "0", "--bandwidth-limit", "1MiB", "--bandwidth-burst", "64KiB"});
  ASSERT_OK(set);
  EXPECT_EQ(*set, "limits of /dev/ublkb0: 1 MiB/s (burst 64 KiB)\n");
  const absl::Duration least = absl::Seconds(3) - absl::Seconds(1) / 16;
  const auto took = Read(volume, 3);
  ASSERT_OK(took);
  EXPECT_GE(*took, least);
  EXPECT_GT(ThrottledSeconds(), 1);

  node_->KillDaemon();
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  EXPECT_THAT(*Ctl({"show", "0"}), testing::HasSubstr("1 MiB/s (burst 64 KiB)"));
  const auto took_again = Read(volume, 3);
  ASSERT_OK(took_again);
  EXPECT_GE(*took_again, least);
  ASSERT_OK(volume.Stage());

  ASSERT_OK(Ctl({"limit", "0", "--none"}));
  const double before = ThrottledSeconds();
  ASSERT_OK(Read(volume, 32));
  EXPECT_EQ(ThrottledSeconds(), before);
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
  ASSERT_OK(volume.Delete());
}

TEST_F(Limits, OfAServerThatDiesAsItSetsThemAreThere) {
  ASSERT_OK(node_->StopDaemon());
  node_->SetFailPoint("limits.recorded");
  ASSERT_OK(node_->StartDaemon());
  node_->SetFailPoint("");
  ASSERT_OK(node_->WaitUntilReady());
  ASSERT_OK(Ctl({"create", "--null", "64MiB"}));
  EXPECT_FALSE(Ctl({"limit", "0", "--iops-limit", "100"}).ok());
  const auto code = node_->daemon().Wait(std::chrono::seconds(60));
  ASSERT_OK(code);
  EXPECT_EQ(*code, 128 + SIGKILL) << "it did not come to the step";
  ASSERT_OK(node_->StartDaemon());
  ASSERT_OK(node_->WaitUntilReady());
  EXPECT_THAT(*Ctl({"show", "0"}), testing::HasSubstr("100 IOPS (burst 10)"));
  // The same can be asked again.
  ASSERT_OK(Ctl({"limit", "0", "--iops-limit", "100"}));
  ASSERT_OK(Ctl({"delete", "0"}));
}

}  // namespace
}  // namespace ublkd::test
