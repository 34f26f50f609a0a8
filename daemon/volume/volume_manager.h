// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/volume/in_flight.h"
#include "daemon/volume/pool.h"

namespace ublkd::volume {

/// One page of volumes, in the order of their ids.
struct VolumePage {
  std::vector<Volume> volumes;
  /// Empty on the last page.
  std::string next_token;
};

/// The device that serves a volume.
struct Attachment {
  uint32_t device_id = 0;
  /// Of its disk: smaller than the volume while it has not grown with it.
  uint64_t disk_bytes = 0;
};

/// Knows the devices that serve volumes. Any thread.
class Attachments {
 public:
  virtual ~Attachments() = default;
  /// nullopt when the volume is not attached. Never waits.
  virtual std::optional<Attachment> AttachedTo(const std::string& volume_id) const = 0;
  /// Brings the disk of a volume to the size that the volume has by now. OK also when it is not
  /// attached, and when its driver cannot do that: the disk then keeps its size until the volume is
  /// attached the next time. The caller keeps others away from the volume.
  /// UNAVAILABLE when nobody serves the device now, ABORTED when it is just ending.
  virtual absl::Status GrowDisk(const std::string& volume_id, uint64_t size_bytes) = 0;
};

/// All pools of the node: finds a volume by its id, keeps calls for one volume apart, and protects
/// attached volumes. Any thread.
class VolumeManager {
 public:
  /// INVALID_ARGUMENT when two pools have the same name.
  static absl::StatusOr<std::unique_ptr<VolumeManager>> Make(
      std::vector<std::unique_ptr<Pool>> pools);

  /// Asks `attachments`, which outlives the calls, from now on; before that no volume counts as
  /// attached. Call before the first other call.
  void SetAttachments(Attachments* attachments) { attachments_ = attachments; }

  /// An empty `pool` means the only one.
  absl::StatusOr<Volume> Create(const std::string& pool, const VolumeRequest& request);
  /// FAILED_PRECONDITION when it is attached.
  absl::Status Delete(const std::string& id);
  absl::StatusOr<Volume> Get(const std::string& id) const;
  /// An empty `pool` means all, `limit` 0 means no limit. INVALID_ARGUMENT for a token that no
  /// earlier call with this `pool` gave.
  absl::StatusOr<VolumePage> List(const std::string& pool, size_t limit,
                                  const std::string& token) const;
  absl::StatusOr<Volume> SetFormat(const std::string& id, Format::State expected,
                                   const Format& format);
  /// Makes a volume larger, also while it is attached; the size it has is success. See Pool::Resize
  /// and Attachments::GrowDisk: after an error of the latter the volume has its new size, and the
  /// same call again goes on with the disk.
  absl::StatusOr<Volume> Resize(const std::string& id, uint64_t size_bytes);

  /// From memory alone.
  absl::StatusOr<VolumeRecord> Describe(const std::string& id) const;
  /// See Pool::Locate.
  absl::StatusOr<std::string> Locate(const std::string& id) const;
  /// The pool that `path` (absolute, no symbolic links) lies in; nullptr for none.
  const Pool* PoolOf(const std::string& path) const;
  std::optional<Attachment> AttachedTo(const std::string& id) const;
  /// Keeps every other call away from the volume; ABORTED when one is running.
  absl::StatusOr<InFlight::Lease> Lock(const std::string& id);

  /// In the order of their names.
  std::vector<const Pool*> Pools() const;

 private:
  VolumeManager() = default;
  /// The pool of a volume's id and the volume's name in it.
  absl::StatusOr<std::pair<Pool*, std::string>> Resolve(const std::string& id) const;
  absl::StatusOr<Pool*> FindPool(const std::string& name) const;

  /// Not changed after Make.
  std::map<std::string, std::unique_ptr<Pool>> pools_;
  Attachments* attachments_ = nullptr;
  InFlight in_flight_;
};

}  // namespace ublkd::volume
