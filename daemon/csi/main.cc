// SPDX-License-Identifier: Apache-2.0
//
// ublkd-csi: serves the Container Storage Interface for the volumes of the ublkd on this node.
#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "daemon/base/config.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/rpc.h"
#include "daemon/base/status.h"
#include "daemon/csi/service.h"

namespace ublkd::csi {
namespace {

// A mkfs or unmount that runs at the end gets this long; what is cut off is done by the next start.
constexpr std::chrono::milliseconds kShutdownGrace{20'000};

struct Settings {
  Options options;
  std::string metrics_address;
  std::string log_level = "info";
};

void AddOptions(CLI::App& app, Settings& settings) {
  Options& options = settings.options;
  AddVersion(app, "ublkd-csi");
  AddYamlConfig(app);
  app.add_option("--endpoint", options.endpoint, "Unix socket to serve on: a path or unix://path")
      ->envname("CSI_ENDPOINT")
      ->capture_default_str();
  app.add_option("--ublkd-socket", options.ublkd_socket, "Unix socket of ublkd")
      ->capture_default_str();
  app.add_option("--driver-name", options.driver_name, "Name of the CSIDriver object")
      ->capture_default_str();
  app.add_option("--node-id", options.node_id, "Name of this node; default: the host's name");
  app.add_option("--kubelet-dir", options.kubelet_dir,
                 "Folder of kubelet; paths outside of it are refused")
      ->capture_default_str();
  app.add_option("--state-dir", options.state_dir, "Folder for records, on a tmpfs of the host")
      ->capture_default_str();
  app.add_option("--default-pool", options.default_pool,
                 "Pool for volumes that name none; default: the only one");
  app.add_option("--topology-key", options.topology_key,
                 "Label key by which nodes are told apart; default: topology.<driver-name>/node");
  app.add_option("--max-volumes", options.max_volumes,
                 "Volumes that this node takes; 0: as many as the driver says")
      ->capture_default_str();
  app.add_option("--metrics-address", settings.metrics_address,
                 "host:port for /metrics; default: no metrics");
  app.add_option("--log-level", settings.log_level, "Lowest level that is logged")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
}

LogLevel ToLogLevel(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  return name == "error" ? LogLevel::kError : LogLevel::kInfo;
}

// Without it a mount that is made here is not seen by kubelet.
void WarnUnlessShared(const std::string& kubelet_dir) {
  const absl::StatusOr<std::vector<MountEntry>> mounts = ReadMounts();
  if (!mounts.ok()) return;
  const MountEntry* nearest = nullptr;
  for (const MountEntry& entry : *mounts) {
    const bool above = entry.mount_point == "/" || entry.mount_point == kubelet_dir ||
                       kubelet_dir.rfind(entry.mount_point + "/", 0) == 0;
    if (above && (nearest == nullptr || entry.mount_point.size() >= nearest->mount_point.size())) {
      nearest = &entry;
    }
  }
  if (nearest != nullptr && nearest->shared) return;
  LogWarning(
      "the kubelet folder is not on a shared mount: pods will not see what is mounted here; "
      "mount it with Bidirectional propagation and make the host's mount shared",
      {{"kubelet_dir", kubelet_dir}});
}

absl::Status Serve(Settings& settings, const sigset_t& end_signals) {
  Options& options = settings.options;
  UBLKD_RETURN_IF_ERROR(CompleteOptions(options));
  UBLKD_ASSIGN_OR_RETURN(const std::unique_ptr<NodeState> state,
                         NodeState::Open(options.state_dir));
  WarnUnlessShared(options.kubelet_dir);
  const UblkdClient ublkd(options.ublkd_socket);
  const Node node(options, ublkd, *state);
  const Controller controller(options, ublkd);
  std::unique_ptr<Metrics> metrics;
  if (!settings.metrics_address.empty()) {
    UBLKD_ASSIGN_OR_RETURN(metrics, Metrics::Start(settings.metrics_address, options.driver_name));
  }
  const CallServer call_server(metrics.get());
  InFlight in_flight;
  IdentityService identity(options, ublkd, call_server);
  ControllerService controller_service(controller, in_flight, call_server);
  NodeService node_service(options, node, controller, in_flight, call_server);
  grpc::ServerBuilder builder;
  builder.RegisterService(&identity);
  builder.RegisterService(&controller_service);
  builder.RegisterService(&node_service);
  UBLKD_RETURN_IF_ERROR(
      MakeDirectories(std::filesystem::path(options.endpoint).parent_path().string()));
  UBLKD_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                         RpcServer::Start(builder, options.endpoint));
  LogInfo("ublkd-csi serves", {{"endpoint", options.endpoint},
                               {"driver_name", options.driver_name},
                               {"node_id", options.node_id},
                               {"kubelet_dir", options.kubelet_dir}});
  int signal_number = 0;
  sigwait(&end_signals, &signal_number);
  LogInfo("ublkd-csi ends", {{"signal", signal_number}});
  server->Shutdown(kShutdownGrace);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app{"Serves the Container Storage Interface for the volumes of ublkd"};
  Settings settings;
  AddOptions(app, settings);
  CLI11_PARSE(app, argc, argv);
  SetLogLevel(ToLogLevel(settings.log_level));
  // Before any thread starts, so that all of them inherit it and sigwait gets the signals.
  sigset_t end_signals;
  sigemptyset(&end_signals);
  sigaddset(&end_signals, SIGTERM);
  sigaddset(&end_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &end_signals, nullptr);
  (void)signal(SIGPIPE, SIG_IGN);
  const absl::Status status = Serve(settings, end_signals);
  if (status.ok()) return 0;
  std::cerr << "ublkd-csi: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace ublkd::csi

int main(int argc, char** argv) { return ublkd::csi::Main(argc, argv); }
