// SPDX-License-Identifier: Apache-2.0
//
// ublkd-uninstall-check: refuses to uninstall while there are volumes.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "absl/strings/string_view.h"
#include "daemon/base/config.h"
#include "daemon/base/status.h"
#include "daemon/uninstall/cluster_volumes.h"
#include "daemon/uninstall/kube_api.h"

namespace ublkd::uninstall {
namespace {

enum ExitCode { kMayGo = 0, kRefused = 1, kWrongUsage = 2 };

constexpr char kDescription[] =
    "ublkd-uninstall-check refuses to uninstall ublkd from a cluster that has volumes of it.\n"
    "It asks the API of the cluster for all PersistentVolumes, with the rights of its pod. What "
    "it\n"
    "cannot find out is a refusal, too.";

constexpr char kFooter[] = R"(
Example:
  ublkd-uninstall-check --driver-name csi.ublkd.dev     in a pod, as the chart's hook does

Exit status: 0 no volume is left, 1 volumes are left or it cannot be told, 2 wrong usage.)";

struct Flags {
  std::string driver_name = "csi.ublkd.dev";
  std::string api;
  KubeApiOptions kube;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.description(kDescription);
  app.footer(kFooter);
  app.get_formatter()->column_width(36);
  app.add_option("--driver-name", flags.driver_name, "Name of the CSI driver")
      ->capture_default_str();
  app.add_option("--api", flags.api,
                 "URL of the API, https://HOST:PORT; default that of the pod's cluster");
  app.add_option("--token-file", flags.kube.token_file, "Token of the service account")
      ->capture_default_str();
  app.add_option("--ca-file", flags.kube.ca_file, "Certificates of the cluster")
      ->capture_default_str();
  AddYamlConfig(app);
  AddVersion(app, "ublkd-uninstall-check");
}

absl::string_view Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

absl::StatusOr<std::vector<ClusterVolume>> FindVolumes(Flags& flags) {
  flags.kube.url = flags.api;
  if (flags.api.empty()) {
    UBLKD_ASSIGN_OR_RETURN(flags.kube.url, UrlOfApi(Environment("KUBERNETES_SERVICE_HOST"),
                                                    Environment("KUBERNETES_SERVICE_PORT")));
  }
  const KubeApi api(flags.kube);
  return ListVolumes([&api](absl::string_view path) { return api.Get(path); }, flags.driver_name);
}

int Run(Flags& flags) {
  const auto volumes = FindVolumes(flags);
  if (!volumes.ok()) {
    std::cerr << "it cannot be told whether volumes of " << flags.driver_name
              << " are left: " << volumes.status().message()
              << "; mend that, or uninstall with `helm uninstall --no-hooks` if you know it\n";
    return kRefused;
  }
  if (!volumes->empty()) {
    std::cerr << DescribeVolumesLeft(*volumes, flags.driver_name) << "\n";
    return kRefused;
  }
  std::cerr << "no volume of " << flags.driver_name << " is left\n";
  return kMayGo;
}

}  // namespace
}  // namespace ublkd::uninstall

int main(int argc, char** argv) {
  CLI::App app;
  ublkd::uninstall::Flags flags;
  ublkd::uninstall::AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? ublkd::uninstall::kMayGo : ublkd::uninstall::kWrongUsage;
  }
  return ublkd::uninstall::Run(flags);
}
