// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/csi/usage.h"

namespace ublkd::csi {

/// A target that a volume was published at.
struct Publication {
  std::string target;
  bool read_only = false;
  AccessMode::Mode mode = AccessMode::UNKNOWN;
};

/// What mountinfo cannot tell about a volume on this node: how it was asked for, and that a block
/// volume is staged. Whether something is mounted is never taken from here.
struct NodeRecord {
  std::string volume_id;
  std::string staging_path;
  Usage usage;
  /// False from before the device is attached until the stage has succeeded.
  bool staged = false;
  /// The staging folder was not there and was made by us.
  bool made_staging_folder = false;
  /// Number of the device; 0 until it is attached.
  dev_t device = 0;
  std::vector<Publication> publications;

  /// Nullptr when there is none.
  const Publication* FindPublication(const std::string& target) const;
  void RemovePublication(const std::string& target);
};

/// Keeps one record a volume as a file in a folder, which should be on a tmpfs: after a reboot
/// nothing is staged, so records of another boot are discarded. Calls for different volumes may run
/// at the same time.
class NodeState {
 public:
  /// Makes the folder and removes what an earlier boot left in it.
  static absl::StatusOr<std::unique_ptr<NodeState>> Open(const std::string& folder);

  /// Nothing when there is no record, or one that cannot be read (which is logged): mountinfo and
  /// ublkd still tell the truth.
  std::optional<NodeRecord> Load(const std::string& volume_id) const;
  absl::Status Save(const NodeRecord& record) const;
  absl::Status Remove(const std::string& volume_id) const;
  std::vector<NodeRecord> LoadAll() const;

 private:
  NodeState(std::string folder, std::string boot_id)
      : folder_(std::move(folder)), boot_id_(std::move(boot_id)) {}
  std::string FilePath(const std::string& volume_id) const;
  std::optional<NodeRecord> LoadFile(const std::string& path) const;

  const std::string folder_;
  const std::string boot_id_;
};

}  // namespace ublkd::csi
