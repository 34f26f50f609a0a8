// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

/// What a volume is, apart from where it lives. Sizes are bytes.
namespace ublkd::volume {

enum class Provisioning { kThin, kThick };

/// What the backend knows about bytes ever written.
enum class Content { kUnknown, kEmpty, kPresent };

/// What is known about the filesystem on a volume.
struct Format {
  enum class State { kUnknown, kNever, kFormatting, kFormatted };
  State state = State::kUnknown;
  /// "ext4", "xfs", ..., or "block" for a volume that was handed out raw.
  std::string fs_type;
  /// In its usual text form; empty for none.
  std::string fs_uuid;
  absl::Time changed_at = absl::UnixEpoch();
};

using Labels = std::map<std::string, std::string>;

/// What is kept durably about a volume.
struct VolumeRecord {
  std::string name;
  uint64_t size_bytes = 0;
  uint32_t logical_block_bytes = 0;
  Provisioning provisioning = Provisioning::kThin;
  Format format;
  Labels labels;
  absl::Time created_at = absl::UnixEpoch();
  /// Grows by one at each change of the record.
  uint64_t generation = 0;
};

/// A volume as it is now.
struct Volume {
  std::string pool;
  VolumeRecord record;
  /// Space that it takes in its pool.
  uint64_t allocated_bytes = 0;
  Content content = Content::kUnknown;
};

/// What a caller asks for; nullopt leaves the choice to the server.
struct VolumeRequest {
  std::string name;
  uint64_t size_bytes = 0;
  std::optional<uint32_t> logical_block_bytes;
  std::optional<Provisioning> provisioning;
  Labels labels;
};

/// A volume's id in its parts.
struct VolumeId {
  std::string pool;
  std::string name;
};

inline constexpr uint32_t kSmallBlockBytes = 512;
inline constexpr uint32_t kLargeBlockBytes = 4096;
inline constexpr size_t kMaxIdBytes = 128;
inline constexpr size_t kMaxPoolNameBytes = 63;
inline constexpr size_t kMaxLabelsBytes = 4096;

/// "<pool>/<name>".
std::string FormatVolumeId(absl::string_view pool, absl::string_view name);

/// INVALID_ARGUMENT, naming `field`, for what is no volume id.
absl::StatusOr<VolumeId> ParseVolumeId(absl::string_view id, absl::string_view field);

/// 1 to `max_bytes` bytes of [A-Za-z0-9._-], not beginning with a dot: such a name is one component
/// of a path and cannot leave its folder. INVALID_ARGUMENT names `field`.
absl::Status CheckName(absl::string_view name, size_t max_bytes, absl::string_view field);

/// Checks all that can be said without looking at the pool; INVALID_ARGUMENT names the field.
absl::Status CheckRequest(absl::string_view pool, const VolumeRequest& request);

/// The logical block size that a new volume gets: what was asked for, else 4096 when the size
/// allows it, else 512.
uint32_t ChooseBlockBytes(const VolumeRequest& request);

/// OK when `existing` is what `request` asks for, else ALREADY_EXISTS naming the difference.
absl::Status CheckSame(absl::string_view pool, const VolumeRecord& existing,
                       const VolumeRequest& request);

/// Checks the size that an existing volume is to get; INVALID_ARGUMENT when that is smaller than
/// the one it has, no multiple of its block or too large.
absl::Status CheckNewSize(absl::string_view volume_id, const VolumeRecord& existing,
                          uint64_t size_bytes);

/// Checks a new format against the one it replaces. INVALID_ARGUMENT for one that is malformed,
/// FAILED_PRECONDITION when `now` is not `expected` or when the change would allow formatting a
/// volume that may hold data.
absl::Status CheckFormatChange(absl::string_view volume_id, const Format& now,
                               Format::State expected, const Format& wanted);

absl::string_view ProvisioningName(Provisioning provisioning);
absl::string_view FormatStateName(Format::State state);

}  // namespace ublkd::volume
