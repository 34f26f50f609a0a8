// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/file.h"
#include "tests/support/leaks.h"
#include "tests/support/node.h"
#include "tests/support/pod_volume.h"
#include "tests/support/process.h"

#define ASSERT_OK(expression)                               \
  do {                                                      \
    const auto& ublkd_result = (expression);                \
    ASSERT_TRUE(::ublkd::test::AsStatus(ublkd_result).ok()) \
        << ::ublkd::test::AsStatus(ublkd_result);           \
  } while (false)

namespace ublkd::test {

inline const absl::Status& AsStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& AsStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

/// A running node for each test, with an empty pool on /scratch; what it leaves behind fails it.
class NodeTest : public testing::Test {
 protected:
  static constexpr char kRoot[] = "/scratch/node";
  static constexpr char kPrograms[] = "/opt/ublkd/bin";
  static constexpr char kDaemon[] = "/opt/ublkd/bin/ublkd";

  void SetUp() override { StartNode(0); }

  void StartNode(uint32_t queues, const std::vector<std::string>& daemon_flags = {}) {
    if (node_ == nullptr) {
      ASSERT_OK(LoadDriver());
      // Else with the first mount, which has its limits, and a slow machine may take a minute.
      ASSERT_OK(RunCommand({"modprobe", "--all", "ext4", "xfs"}, std::chrono::minutes(5)));
      before_ = TakeStock({});
    }
    node_.reset();
    auto started = Node::Start({.program_dir = kPrograms,
                                .root_dir = kRoot,
                                .queues = queues,
                                .daemon_flags = daemon_flags});
    ASSERT_OK(started);
    node_ = std::move(*started);
  }

  void TearDown() override {
    if (node_ != nullptr) {
      const absl::Status stopped = node_->Stop();
      EXPECT_TRUE(stopped.ok()) << stopped;
    }
    if (HasFailure()) ShowLogs();
    node_.reset();
    EXPECT_EQ(Differences(before_, TakeStock({})), "");
    std::filesystem::remove_all(kRoot);
  }

  PodVolume Volume(const std::string& name, const std::string& fs_type, int64_t size_bytes) {
    return {node_->csi_socket(),
            node_->kubelet_dir(),
            {.name = name, .size_bytes = size_bytes, .fs_type = fs_type, .parameters = {}}};
  }

  bool DriverOffers(const std::string& feature) {
    v1::ServerInfo info;
    grpc::ClientContext context;
    EXPECT_TRUE(node_->devices().GetServerInfo(&context, {}, &info).ok());
    const auto& offered = info.driver_features();
    return std::find(offered.begin(), offered.end(), feature) != offered.end();
  }

  /// Hardware queues that ublkd serves over all devices, by its metrics.
  int ServedQueues() {
    const auto text = node_->Fetch("/metrics");
    if (!text.ok()) return -1;
    int queues = 0;
    for (const Sample& sample : ParseMetrics(*text)) {
      if (sample.name == "ublkd_queue_inflight") ++queues;
    }
    return queues;
  }

  void ShowLogs() {
    for (const std::string& path : {node_->daemon_log(), node_->csi_log()}) {
      const auto log = ReadFile(path);
      GTEST_LOG_(INFO) << path << ":\n" << (log.ok() ? *log : "(unreadable)");
    }
  }

  std::unique_ptr<Node> node_;
  Belongings before_;
};

}  // namespace ublkd::test
