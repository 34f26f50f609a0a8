// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/process.h"
#include "ublkd/v1/device.grpc.pb.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::test {

struct NodeOptions {
  /// Folder of ublkd, ublkd-csi and ublkctl.
  std::string program_dir;
  /// Everything of this node is below it: pool, sockets, state, logs, kubelet's folder.
  std::string root_dir;
  /// Hardware queues of each device; 0 leaves it to ublkd.
  uint32_t queues = 0;
  /// More of ublkd's command line.
  std::vector<std::string> daemon_flags = {};
};

/// A Kubernetes node without Kubernetes: a running ublkd with one file pool, and a running
/// ublkd-csi. Loads the driver when none is loaded: $UBLK_DRV_KO, else the kernel's own.
class Node {
 public:
  static absl::StatusOr<std::unique_ptr<Node>> Start(const NodeOptions& options);
  /// Ends both programs as Stop does.
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  /// Starts the programs that do not run, and waits until they answer. ublkd may answer UNAVAILABLE
  /// for a while; see WaitUntilReady.
  absl::Status StartDaemon();
  /// The next ublkd kills itself when it comes to this step; empty for none.
  void SetFailPoint(std::string name) { fail_point_ = std::move(name); }
  /// The program of the next ublkd; that of the options until then.
  void SetDaemonProgram(std::string path) { daemon_program_ = std::move(path); }
  absl::Status StartCsi();
  /// Until ublkd has looked at what the one before it left.
  absl::Status WaitUntilReady() const;
  /// SIGTERM to both, ublkd-csi first; an error when one does not end with 0 in time.
  absl::Status Stop();
  absl::Status StopCsi();
  absl::Status StopDaemon();
  /// SIGKILL, and its end.
  void KillDaemon();

  Process& daemon() { return *daemon_; }
  Process& csi() { return *csi_; }

  ublkd::v1::VolumeService::StubInterface& volumes() { return *volumes_; }
  ublkd::v1::DeviceService::StubInterface& devices() { return *devices_; }

  std::string pool_dir() const { return options_.root_dir + "/pool"; }
  std::string kubelet_dir() const { return options_.root_dir + "/kubelet"; }
  std::string daemon_socket() const { return options_.root_dir + "/run/ublkd.sock"; }
  std::string csi_socket() const { return options_.root_dir + "/run/csi.sock"; }
  std::string daemon_log() const { return options_.root_dir + "/log/ublkd.log"; }
  std::string csi_log() const { return options_.root_dir + "/log/ublkd-csi.log"; }
  std::string metrics_url() const { return "http://" + metrics_address_; }
  /// What GET `path` on the metrics address answers.
  absl::StatusOr<std::string> Fetch(const std::string& path) const;

 private:
  explicit Node(NodeOptions options)
      : options_(std::move(options)), daemon_program_(options_.program_dir + "/ublkd") {}
  absl::Status MakeFolders() const;

  NodeOptions options_;
  std::string daemon_program_;
  std::string metrics_address_;
  std::string fail_point_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<Process> csi_;
  std::unique_ptr<ublkd::v1::VolumeService::Stub> volumes_;
  std::unique_ptr<ublkd::v1::DeviceService::Stub> devices_;
};

/// Loads $UBLK_DRV_KO, or the kernel's own driver when that is not set; what is loaded stays.
absl::Status LoadDriver();

/// One sample of the text exposition format.
struct Sample {
  std::string name;
  std::map<std::string, std::string> labels;
  double value = 0;
};

/// Reads the text exposition format as far as our own endpoint uses it.
std::vector<Sample> ParseMetrics(const std::string& text);

}  // namespace ublkd::test
