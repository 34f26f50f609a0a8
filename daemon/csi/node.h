// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/csi/blockdev.h"
#include "daemon/csi/mountinfo.h"
#include "daemon/csi/options.h"
#include "daemon/csi/state.h"
#include "daemon/csi/ublkd_client.h"
#include "daemon/csi/usage.h"

namespace ublkd::csi {

// What the calls bring, checked: paths are resolved and below the kubelet folder.
struct StageArguments {
  std::string volume_id;
  std::string staging_path;
  Usage usage;
};

struct UnstageArguments {
  std::string volume_id;
  std::string staging_path;
};

struct PublishArguments {
  std::string volume_id;
  std::string staging_path;
  std::string target;
  Usage usage;
  bool read_only = false;
};

struct UnpublishArguments {
  std::string volume_id;
  std::string target;
};

/// Brings volumes to paths of this node. The caller sees to it that at most one call runs for a
/// volume; calls for different volumes run at the same time.
///
/// Each call may be ended at any point and called again: it looks at what there is (mountinfo,
/// ublkd, the record) and does what is missing.
class Node {
 public:
  Node(const Options& options, const UblkdClient& ublkd, const NodeState& state)
      : options_(options), ublkd_(ublkd), state_(state) {}

  /// Attaches the device and, for a filesystem, formats it when that is safe and mounts it at the
  /// staging path. A stage that fails leaves nothing behind.
  absl::Status Stage(const StageArguments& arguments) const;
  /// Unmounts and detaches. FAILED_PRECONDITION while the volume is published.
  absl::Status Unstage(const UnstageArguments& arguments) const;
  /// Makes the target and shows the staged volume there; stages it first when it is not.
  absl::Status Publish(const PublishArguments& arguments) const;
  /// Unmounts and removes the target.
  absl::Status Unpublish(const UnpublishArguments& arguments) const;
  /// Space and condition of a volume at a path where it is staged or published.
  absl::StatusOr<pb::NodeGetVolumeStatsResponse> Stats(const std::string& volume_id,
                                                       const std::string& path) const;

 private:
  absl::Status StageAnew(const StageArguments& arguments, const api::Volume& volume) const;
  absl::Status AttachAndMount(const StageArguments& arguments, NodeRecord& record) const;
  absl::Status MountStaged(const StageArguments& arguments, const BlockDevice& device,
                           NodeRecord& record) const;
  absl::StatusOr<bool> IsStaged(const StageArguments& arguments, const api::Volume& volume) const;
  absl::Status MakeStagingFolder(const std::string& path, NodeRecord& record) const;
  absl::Status Detach(const std::string& volume_id) const;
  std::vector<std::string> PublishedPaths(const std::string& volume_id,
                                          const std::vector<MountEntry>& mounts,
                                          const std::vector<dev_t>& devices,
                                          const std::string& staging_path) const;

  absl::Status PublishStaged(const PublishArguments& arguments, const api::Volume& volume,
                             const BlockDevice& device) const;
  absl::Status CheckPublishable(const PublishArguments& arguments, const NodeRecord& record,
                                const BlockDevice& device,
                                const std::vector<MountEntry>& mounts) const;
  /// Whether the target shows the volume already, as asked; ALREADY_EXISTS when otherwise.
  absl::StatusOr<bool> IsPublished(const PublishArguments& arguments, const NodeRecord& record,
                                   const BlockDevice& device,
                                   const std::vector<MountEntry>& mounts) const;
  absl::Status ShowFilesystem(const PublishArguments& arguments) const;
  absl::Status ShowDevice(const PublishArguments& arguments, const NodeRecord& record,
                          const api::Volume& volume, const BlockDevice& device,
                          const std::vector<MountEntry>& mounts) const;
  absl::Status MakeTarget(const PublishArguments& arguments) const;
  absl::Status RemoveTarget(const std::string& owner, const std::string& target) const;
  absl::Status ForgetPublication(const UnpublishArguments& arguments) const;
  /// The device that serves the volume now; FAILED_PRECONDITION when it is not attached.
  absl::StatusOr<BlockDevice> AttachedDevice(const api::Volume& volume) const;

  const Options& options_;
  const UblkdClient& ublkd_;
  const NodeState& state_;
};

}  // namespace ublkd::csi
