// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/csi_client.h"

namespace ublkd::test {

/// What a pod asks of its volume.
struct Claim {
  std::string name;
  int64_t size_bytes = 0;
  /// "ext4" or "xfs"; empty for a raw block device.
  std::string fs_type;
  std::map<std::string, std::string> parameters;
};

/// One volume as kubelet would use it: the CSI calls, with the paths kubelet would choose.
class PodVolume {
 public:
  /// `kubelet_dir` is the folder given to ublkd-csi.
  PodVolume(const std::string& csi_socket, std::string kubelet_dir, Claim claim);

  /// The calls in the order of a volume's life. Each may be repeated.
  absl::Status Create();
  absl::Status Stage();
  absl::Status Publish();
  absl::Status Unpublish() { return client_.Unpublish(id_, target_path()); }
  absl::Status Unstage() { return client_.Unstage(id_, staging_path()); }
  absl::Status Delete() { return client_.DeleteVolume(id_); }

  const std::string& id() const { return id_; }
  std::string staging_path() const;
  /// Where the pod sees the volume: a folder, or a device node.
  std::string target_path() const;
  CsiClient::Capability capability() const;

 private:
  CsiClient client_;
  std::string kubelet_dir_;
  Claim claim_;
  std::string id_;
};

}  // namespace ublkd::test
