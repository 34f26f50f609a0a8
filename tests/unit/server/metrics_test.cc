// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "tests/unit/volume/device_fixture.h"

namespace ublkd::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using volume::DeviceFixture;
using volume::IsOk;
using volume::kMiB;
using volume::NullDevice;
using volume::VolumeDevice;

class MetricsTest : public DeviceFixture {
 protected:
  MetricsTest() {
    Start();
    metrics_ = std::make_unique<Metrics>(*devices_, *volumes_);
  }
  std::string Scrape() const { return SerializeMetrics(*metrics_); }

  /// Two queues; the second has done some writes and holds two reads.
  static ublk::DeviceStats SomeStats() {
    ublk::DeviceStats stats{std::vector<ublk::QueueStats>(2)};
    ublk::OpStats& writes = stats.queues[1].ops[static_cast<size_t>(ublk::Op::kWrite)];
    writes.ios = 4;
    writes.bytes = 3 * 4096;
    writes.errors = 1;
    writes.errors_by_kind[static_cast<size_t>(ublk::ErrorKind::kNoSpace)] = 1;
    writes.latency_buckets[0] = 3;
    writes.latency_buckets[ublk::kLatencyBucketCount - 1] = 1;
    writes.latency_sum_ns = 45'000'020'000;
    writes.throttled_ios = 2;
    writes.throttled_ns = 2'500'000'000;
    stats.queues[1].ops[static_cast<size_t>(ublk::Op::kRead)].in_flight = 2;
    stats.queues[1].busy_ns = 1'500'000'000;
    stats.queues[1].oldest_request_ns = 42'500'000'000;
    return stats;
  }

  std::unique_ptr<Metrics> metrics_;
};

TEST_F(MetricsTest, ShowTheCountersOfEveryQueue) {
  MakeVolume("a");
  ASSERT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
  factory_.SetStats(0, SomeStats());
  const std::string text = Scrape();
  for (const char* line : {
           "ublkd_queue_ios_total{volume_id=\"p/a\",queue=\"1\",op=\"write\"} 4\n",
           "ublkd_queue_bytes_total{volume_id=\"p/a\",queue=\"1\",op=\"write\"} 12288\n",
           "ublkd_queue_io_errors_total{volume_id=\"p/a\",queue=\"1\",op=\"write\"} 1\n",
           "ublkd_io_errors_total{volume_id=\"p/a\",op=\"write\",error=\"ENOSPC\"} 1\n",
           "ublkd_queue_oldest_request_seconds{volume_id=\"p/a\",queue=\"0\"} 0\n",
           "ublkd_queue_oldest_request_seconds{volume_id=\"p/a\",queue=\"1\"} 42.5\n",
           "ublkd_queue_inflight{volume_id=\"p/a\",queue=\"0\"} 0\n",
           "ublkd_queue_inflight{volume_id=\"p/a\",queue=\"1\"} 2\n",
           "ublkd_queue_busy_seconds_total{volume_id=\"p/a\",queue=\"1\"} 1.5\n",
           "ublkd_io_latency_seconds_count{volume_id=\"p/a\",op=\"write\"} 4\n",
           "ublkd_io_latency_seconds_sum{volume_id=\"p/a\",op=\"write\"} 45.00002\n",
           "ublkd_io_latency_seconds_bucket{volume_id=\"p/a\",op=\"write\",le=\"30\"} 3\n",
           "ublkd_io_latency_seconds_bucket{volume_id=\"p/a\",op=\"write\",le=\"+Inf\"} 4\n",
           "ublkd_qos_throttled_ios_total{volume_id=\"p/a\",queue=\"1\",op=\"write\"} 2\n",
           "ublkd_qos_throttled_seconds_total{volume_id=\"p/a\",queue=\"1\",op=\"write\"} 2.5\n",
           "ublkd_volume_state{volume_id=\"p/a\",state=\"live\"} 1\n",
           "ublkd_volume_state{volume_id=\"p/a\",state=\"failed\"} 0\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, HasSubstr("# TYPE ublkd_io_latency_seconds histogram\n"));
  EXPECT_THAT(text, Not(HasSubstr("op=\"discard\""))) << "what never happened has no series";
  EXPECT_THAT(text, Not(HasSubstr("error=\"EIO\"")));
  EXPECT_THAT(text, Not(HasSubstr("op=\"read\""))) << "what never ended has no series";
}

TEST_F(MetricsTest, LimitsAreShownWhereThereAreSome) {
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  EXPECT_THAT(Scrape(), Not(HasSubstr("ublkd_qos_")));
  ASSERT_THAT(devices_->SetLimits(0, {.bytes_per_second = 100 * kMiB}), IsOk());
  EXPECT_THAT(Scrape(),
              HasSubstr("ublkd_qos_limit_bytes_per_second{volume_id=\"device:0\"} 104857600\n"));
  EXPECT_THAT(Scrape(), Not(HasSubstr("ublkd_qos_limit_iops")));
}

TEST_F(MetricsTest, SeriesEndWithTheirDevice) {
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  factory_.SetStats(0, SomeStats());
  EXPECT_THAT(Scrape(), HasSubstr("volume_id=\"device:0\""));
  ASSERT_THAT(devices_->Delete(0), IsOk());
  EXPECT_THAT(Scrape(), Not(HasSubstr("volume_id=")));
}

TEST_F(MetricsTest, VolumeInfoJoinsToKubernetesAndFollowsTheFormat) {
  volume::VolumeRequest request;
  request.name = "a";
  request.size_bytes = kMiB;
  request.labels = {{"csi.storage.k8s.io/pv/name", "pv-1"},
                    {"csi.storage.k8s.io/pvc/name", "claim \"1\""},
                    {"namespace", "shop"},
                    {"secret", "hidden"}};
  ASSERT_THAT(volumes_->Create("p", request), IsOk());
  ASSERT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
  const std::string head =
      "ublkd_volume_info{volume_id=\"p/a\",device=\"ublkb0\",persistentvolume=\"pv-1\","
      "persistentvolumeclaim=\"claim \\\"1\\\"\",namespace=\"shop\",backend=\"file\",";
  EXPECT_THAT(Scrape(), HasSubstr(head + "fstype=\"\",mode=\"copy\"} 1\n"));
  ASSERT_THAT(volumes_->SetFormat("p/a", volume::Format::State::kNever,
                                  {volume::Format::State::kFormatted, "block", "", {}}),
              IsOk());
  EXPECT_THAT(Scrape(), HasSubstr(head + "fstype=\"block\",mode=\"copy\"} 1\n"));
  EXPECT_THAT(Scrape(), Not(HasSubstr("hidden")));
}

TEST_F(MetricsTest, BuildDriverAndProcessAreThereWithoutDevices) {
  const std::string text = Scrape();
  for (const char* part :
       {"ublkd_build_info{version=\"", "ublkd_driver_info{version=\"1.2.3\",source=\"ublkd\"",
        "process_start_time_seconds 1", "process_resident_memory_bytes ", "process_open_fds ",
        "process_cpu_seconds_total ", "process_threads "}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  factory_.SetState(absl::PermissionDeniedError("no"));
  EXPECT_TRUE(volume::Eventually([&] {
    return Scrape().find(
               "ublkd_driver_info{version=\"\",source=\"none\","
               "reason=\"permission_denied\"} 1") != std::string::npos;
  }));
}

TEST_F(MetricsTest, AScrapeIsAnsweredWhileADeviceHangs) {
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  factory_.HoldCreate(true);
  std::thread hung([&] { EXPECT_THAT(devices_->Create(NullDevice()), IsOk()); });
  factory_.WaitUntilHeld();
  EXPECT_THAT(Scrape(), HasSubstr("volume_id=\"device:0\""));
  factory_.HoldCreate(false);
  hung.join();
}

TEST_F(MetricsTest, PromtoolFindsNothingToSay) {
  const char* const named = getenv("PROMTOOL");
  const std::string promtool = named != nullptr ? named : "promtool";
  if (system((promtool + " --version >/dev/null 2>&1").c_str()) != 0) {
    GTEST_SKIP() << "promtool is not there; set PROMTOOL to its path";
  }
  MakeVolume("a");
  ASSERT_THAT(devices_->Create(VolumeDevice("p/a")), IsOk());
  factory_.SetStats(0, SomeStats());
  const std::string file = dir_.Write("metrics", Scrape());
  FILE* const pipe = popen((promtool + " check metrics <" + file + " 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string said;
  for (int c = 0; (c = fgetc(pipe)) != EOF;) said.push_back(static_cast<char>(c));
  EXPECT_EQ(pclose(pipe), 0) << said;
  EXPECT_EQ(said, "");
}

}  // namespace
}  // namespace ublkd::server
