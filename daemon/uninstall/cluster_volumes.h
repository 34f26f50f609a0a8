// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd::uninstall {

/// A PersistentVolume of the cluster.
struct ClusterVolume {
  std::string name;
  /// "namespace/name" of the claim that it is or was bound to; empty without one.
  std::string claim = {};
};

/// A part of the list of PersistentVolumes: those of one driver, and where the list goes on.
struct VolumePage {
  std::vector<ClusterVolume> volumes;
  /// Opaque; empty at the end of the list.
  std::string next;
};

/// Reads an answer of the API. DATA_LOSS: it is not a list of PersistentVolumes.
absl::StatusOr<VolumePage> ParseVolumePage(absl::string_view json, absl::string_view driver);

/// Gets a path of the API, as KubeApi::Get.
using GetPath = std::function<absl::StatusOr<std::string>(absl::string_view path)>;

/// All PersistentVolumes of a driver, in the order of the API. The errors of `get` and
/// ParseVolumePage, and UNAVAILABLE when the list does not end.
absl::StatusOr<std::vector<ClusterVolume>> ListVolumes(const GetPath& get,
                                                       absl::string_view driver);

/// What is said about volumes that are left: a sentence with some of their names, and what to do.
std::string DescribeVolumesLeft(const std::vector<ClusterVolume>& volumes,
                                absl::string_view driver);

}  // namespace ublkd::uninstall
