// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/volume/volume.h"

namespace ublkd::volume {

/// Space in a pool, in bytes.
struct PoolCapacity {
  uint64_t total_bytes = 0;
  /// What can still be given to new volumes.
  uint64_t available_bytes = 0;
  uint64_t volumes = 0;
};

/// Where volumes live. Any thread may call; for one volume the caller lets only one of Create,
/// Delete, SetFormat and Resize run at a time. Every call that changes something is durable when it
/// answers, and after a kill at any point it has happened or not happened.
class Pool {
 public:
  virtual ~Pool() = default;

  virtual const std::string& name() const = 0;
  /// Such as "file".
  virtual absl::string_view type() const = 0;
  /// Where it lives, in the words of its type.
  virtual const std::string& path() const = 0;

  /// Makes a volume that reads as zeroes. The same request again returns the same volume;
  /// ALREADY_EXISTS when the name is taken by another one, RESOURCE_EXHAUSTED when it does not fit.
  /// `request` has passed CheckRequest.
  virtual absl::StatusOr<Volume> Create(const VolumeRequest& request) = 0;
  /// Deletes a volume and its data; one that is not there is success.
  virtual absl::Status Delete(absl::string_view name) = 0;
  /// NOT_FOUND when there is none, FAILED_PRECONDITION when its record cannot be read.
  virtual absl::StatusOr<Volume> Get(absl::string_view name) = 0;
  /// What is recorded, from memory alone: never waits for the backend. Same errors as Get.
  virtual absl::StatusOr<VolumeRecord> Describe(absl::string_view name) const = 0;
  /// Names of the volumes whose records can be read, in order, from memory alone.
  virtual std::vector<std::string> Names() const = 0;
  /// Replaces the format when its state is `expected`; see CheckFormatChange for the errors.
  virtual absl::StatusOr<Volume> SetFormat(absl::string_view name, Format::State expected,
                                           const Format& format) = 0;
  /// Makes a volume larger, which may be in use; the size it has is success. INVALID_ARGUMENT when
  /// the volume is larger or the size is no multiple of its block, RESOURCE_EXHAUSTED when that
  /// does not fit, FAILED_PRECONDITION as Locate.
  virtual absl::StatusOr<Volume> Resize(absl::string_view name, uint64_t size_bytes) = 0;
  virtual absl::StatusOr<PoolCapacity> Capacity() const = 0;
  /// Path of the file that holds a volume's data, checked to be what the record says:
  /// FAILED_PRECONDITION when it is gone, not a regular file or of another size.
  virtual absl::StatusOr<std::string> Locate(absl::string_view name) const = 0;
  /// True when `path` (absolute, no symbolic links) lies in the pool.
  virtual bool Contains(absl::string_view path) const = 0;
};

}  // namespace ublkd::volume
