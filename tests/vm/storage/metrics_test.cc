// SPDX-License-Identifier: Apache-2.0
//
// What the metrics endpoint says is true.
#include <sstream>

#include "tests/vm/storage/node_test.h"

namespace ublkd::test {
namespace {

constexpr int kSectorBytes = 512;

class Metrics : public NodeTest {
 protected:
  // Sum over the queues of a volume's counter.
  double Total(const std::vector<Sample>& samples, const std::string& name, const std::string& op) {
    double total = 0;
    for (const Sample& sample : samples) {
      if (sample.name == name && sample.labels.at("op") == op) total += sample.value;
    }
    return total;
  }
};

// Counters of one disk from /proc/diskstats.
struct DiskStats {
  uint64_t reads = 0, read_sectors = 0, writes = 0, write_sectors = 0, discards = 0, flushes = 0;
};

DiskStats StatsOf(const std::string& disk) {
  std::istringstream table(*ReadFile("/proc/diskstats"));
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string major, minor, name;
    fields >> major >> minor >> name;
    if (name != disk) continue;
    std::vector<uint64_t> values;
    for (uint64_t value = 0; fields >> value;) values.push_back(value);
    return {.reads = values[0],
            .read_sectors = values[2],
            .writes = values[4],
            .write_sectors = values[6],
            .discards = values[11],
            .flushes = values[15]};
  }
  return {};
}

TEST_F(Metrics, CountersEqualDiskstats) {
  ublkd::v1::CreateDeviceRequest request;
  request.mutable_spec()->mutable_null()->set_size_bytes(uint64_t{256} << 20);
  request.mutable_spec()->set_queues(4);
  ublkd::v1::Device device;
  grpc::ClientContext create;
  ASSERT_TRUE(node_->devices().CreateDevice(&create, request, &device).ok());
  const std::string disk = device.path().substr(device.path().rfind('/') + 1);

  for (const char* pattern : {"randread", "randwrite", "trim"}) {
    ASSERT_OK(RunCommand({"fio", "--name=count", "--filename=" + device.path(),
                          std::string("--rw=") + pattern, "--bs=4k", "--size=4m", "--direct=1",
                          "--ioengine=libaio", "--iodepth=8", "--numjobs=4", "--cpus_allowed=0-3",
                          "--cpus_allowed_policy=split"}));
  }
  ASSERT_OK(RunCommand(
      {"dd", "if=/dev/zero", "of=" + device.path(), "bs=64k", "count=16", "conv=fsync"}));

  const auto text = node_->Fetch("/metrics");
  ASSERT_OK(text);
  const std::vector<Sample> samples = ParseMetrics(*text);
  const DiskStats disk_stats = StatsOf(disk);
  EXPECT_GT(disk_stats.reads, 1000u);
  EXPECT_EQ(Total(samples, "ublkd_queue_ios_total", "read"), disk_stats.reads);
  EXPECT_EQ(Total(samples, "ublkd_queue_bytes_total", "read"),
            disk_stats.read_sectors * kSectorBytes);
  EXPECT_EQ(Total(samples, "ublkd_queue_ios_total", "write"), disk_stats.writes);
  EXPECT_EQ(Total(samples, "ublkd_queue_bytes_total", "write"),
            disk_stats.write_sectors * kSectorBytes);
  EXPECT_EQ(Total(samples, "ublkd_queue_ios_total", "discard"), disk_stats.discards);
  EXPECT_EQ(Total(samples, "ublkd_queue_io_errors_total", "write"), 0);

  int queues_that_read = 0;
  for (const Sample& sample : samples) {
    if (sample.name == "ublkd_queue_ios_total" && sample.labels.at("op") == "read" &&
        sample.value > 0) {
      ++queues_that_read;
    }
  }
  EXPECT_EQ(queues_that_read, 4) << "jobs on four CPUs must show on four queues";

  ublkd::v1::DeleteDeviceRequest remove;
  remove.set_id(device.id());
  ublkd::v1::DeleteDeviceResponse removed;
  grpc::ClientContext context;
  ASSERT_TRUE(node_->devices().DeleteDevice(&context, remove, &removed).ok());
  EXPECT_EQ(node_->Fetch("/metrics")->find("ublkd_queue_ios_total{"), std::string::npos)
      << "the series of a deleted device are still there";
}

TEST_F(Metrics, PromtoolFindsNothingToCorrect) {
  PodVolume volume = Volume("data", "ext4", int64_t{64} << 20);
  ASSERT_OK(volume.Create());
  ASSERT_OK(volume.Stage());
  ASSERT_OK(volume.Publish());
  const auto said = RunCommand(
      {"sh", "-c",
       "curl --silent --fail " + node_->metrics_url() + "/metrics | promtool check metrics 2>&1"});
  ASSERT_OK(said);
  EXPECT_EQ(*said, "");
  const auto text = node_->Fetch("/metrics");
  ASSERT_OK(text);
  EXPECT_NE(text->find("volume_id=\"local/data\""), std::string::npos) << *text;
  EXPECT_NE(text->find("ublkd_build_info"), std::string::npos);
  ASSERT_OK(volume.Unpublish());
  ASSERT_OK(volume.Unstage());
}

TEST_F(Metrics, HealthAndReadinessAnswer) {
  ASSERT_OK(node_->Fetch("/healthz"));
  ASSERT_OK(node_->Fetch("/readyz"));
}

}  // namespace
}  // namespace ublkd::test
