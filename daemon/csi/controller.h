// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/csi/options.h"
#include "daemon/csi/ublkd_client.h"
#include "daemon/csi/usage.h"

namespace ublkd::csi {

/// What a storage class may say.
struct VolumeParameters {
  std::string pool;
  api::Provisioning provisioning = api::PROVISIONING_THIN;
  /// 0 leaves it to ublkd.
  uint32_t logical_block_bytes = 0;
  /// Of the claim, from the provisioner's --extra-create-metadata.
  std::map<std::string, std::string> labels;
};

/// INVALID_ARGUMENT names a parameter that is unknown or has no valid value.
absl::StatusOr<VolumeParameters> ParseParameters(
    const google::protobuf::Map<std::string, std::string>& parameters);

/// Size of a new volume within `range`; 0 for `block_bytes` means as ublkd chooses. OUT_OF_RANGE
/// when nothing in the range is possible.
absl::StatusOr<uint64_t> ChooseSize(const pb::CapacityRange& range, uint32_t block_bytes,
                                    const std::vector<Usage>& usages);

/// Volumes of the pools of this node's ublkd.
class Controller {
 public:
  Controller(const Options& options, const UblkdClient& ublkd) : options_(options), ublkd_(ublkd) {}

  /// The id that CreateVolume gives to such a volume.
  absl::StatusOr<std::string> IdOf(const pb::CreateVolumeRequest& request) const;
  /// Makes the volume `id`, or finds it when an earlier call has made it.
  absl::StatusOr<pb::Volume> CreateVolume(const pb::CreateVolumeRequest& request,
                                          const std::string& id) const;
  absl::Status DeleteVolume(const std::string& volume_id) const;
  absl::StatusOr<pb::ValidateVolumeCapabilitiesResponse> Validate(
      const pb::ValidateVolumeCapabilitiesRequest& request) const;
  absl::StatusOr<pb::ListVolumesResponse> ListVolumes(const pb::ListVolumesRequest& request) const;
  absl::StatusOr<pb::GetCapacityResponse> GetCapacity(const pb::GetCapacityRequest& request) const;
  /// Where volumes of this node can be reached from.
  pb::Topology LocalTopology() const;

 private:
  absl::StatusOr<std::string> ChoosePool(const std::string& asked) const;
  absl::Status CheckReachable(const pb::TopologyRequirement& requirement) const;
  absl::Status CheckNotInOtherPool(const std::string& name, const std::string& pool) const;
  bool IsHere(const pb::Topology& topology) const;
  pb::Volume ToCsi(const api::Volume& volume) const;

  const Options& options_;
  const UblkdClient& ublkd_;
};

}  // namespace ublkd::csi
