// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ublkd::csi {

/// What reading a block device shows.
struct DeviceContents {
  enum class Kind {
    /// No signature, and every byte looked at is zero and was really read.
    kBlank,
    /// A filesystem or another known content, named by `type`.
    kFilesystem,
    /// A partition table, named by `type`.
    kPartitionTable,
    /// Signatures of more than one kind.
    kAmbivalent,
    /// No signature, but bytes that are not zero.
    kUnknownData,
  };
  Kind kind = Kind::kUnknownData;
  /// libblkid's name, such as "ext4", "crypto_LUKS" or "gpt".
  std::string type;
  std::string uuid;
};

/// Looks at the device through an exclusive open. "Cannot tell", a read that fails for example, is
/// an error (UNAVAILABLE) and never kBlank; ABORTED when the device is in use.
absl::StatusOr<DeviceContents> ProbeDevice(const std::string& path);

/// Overwrites with zeroes every place that ProbeDevice looks at. Only for the remains of a mkfs
/// that was ended before anything was stored.
absl::Status WipeSignatures(const std::string& path);

/// "an ext4 filesystem", "data without a known signature", ...
std::string Describe(const DeviceContents& contents);

}  // namespace ublkd::csi
