// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace ublkd::csi {

/// Name under which kubelet and the CSIDriver object know the plugin.
inline constexpr char kDriverName[] = "csi.ublkd.dev";

/// What ublkd-csi is started with.
struct Options {
  std::string endpoint = "/run/ublkd/csi.sock";
  std::string ublkd_socket = "/run/ublkd/ublkd.sock";
  std::string driver_name = kDriverName;
  /// Empty means the host's name.
  std::string node_id;
  std::string kubelet_dir = "/var/lib/kubelet";
  std::string state_dir = "/run/ublkd-csi";
  /// Empty means the only pool.
  std::string default_pool;
  /// Empty means "topology.<driver_name>/node".
  std::string topology_key;
  /// 0 means as many as the driver takes, where it tells.
  uint32_t max_volumes = 0;
};

/// Fills in what depends on the machine and checks all of it. INVALID_ARGUMENT names the option.
absl::Status CompleteOptions(Options& options);

}  // namespace ublkd::csi
