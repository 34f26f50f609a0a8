// SPDX-License-Identifier: Apache-2.0
#include "tests/support/pod_volume.h"

#include <utility>

#include "daemon/base/file.h"
#include "daemon/base/status.h"

namespace ublkd::test {

PodVolume::PodVolume(const std::string& csi_socket, std::string kubelet_dir, Claim claim)
    : client_(csi_socket), kubelet_dir_(std::move(kubelet_dir)), claim_(std::move(claim)) {}

std::string PodVolume::staging_path() const {
  // kubelet stages block volumes in another place than filesystems.
  if (claim_.fs_type.empty()) {
    return kubelet_dir_ + "/plugins/kubernetes.io/csi/volumeDevices/staging/" + claim_.name;
  }
  return kubelet_dir_ + "/plugins/kubernetes.io/csi/driver/" + claim_.name + "/globalmount";
}

std::string PodVolume::target_path() const {
  if (claim_.fs_type.empty()) {
    return kubelet_dir_ + "/plugins/kubernetes.io/csi/volumeDevices/publish/" + claim_.name +
           "/pod-1";
  }
  return kubelet_dir_ + "/pods/pod-1/volumes/kubernetes.io~csi/" + claim_.name + "/mount";
}

CsiClient::Capability PodVolume::capability() const {
  return claim_.fs_type.empty() ? CsiClient::Block() : CsiClient::Mount(claim_.fs_type);
}

absl::Status PodVolume::Create() {
  UBLKD_ASSIGN_OR_RETURN(
      id_, client_.CreateVolume(claim_.name, claim_.size_bytes, capability(), claim_.parameters));
  return absl::OkStatus();
}

absl::Status PodVolume::Stage() {
  // kubelet makes the staging folder before it calls.
  UBLKD_RETURN_IF_ERROR(MakeDirectories(staging_path(), 0750));
  return client_.Stage(id_, staging_path(), capability());
}

absl::Status PodVolume::Publish() {
  // kubelet makes the folder above the target; the target itself is the plugin's.
  const std::string target = target_path();
  UBLKD_RETURN_IF_ERROR(MakeDirectories(target.substr(0, target.rfind('/')), 0750));
  return client_.Publish(id_, staging_path(), target, capability());
}

}  // namespace ublkd::test
