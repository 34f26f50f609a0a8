// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "daemon/ublk/features.h"

namespace ublkd::ublk {

/// How the data of a device's requests gets to its target; one for all of a device's life.
enum class BufferMode : uint8_t {
  /// The driver copies it to and from memory of each tag.
  kCopy,
  /// The target copies it, as much of it as it wants and where it wants it.
  kUserCopy,
  /// The pages of a request are a registered buffer of the ring; nobody copies.
  kZeroCopy,
};

/// "copy", "user-copy", "zero-copy".
absl::string_view BufferModeName(BufferMode mode);
/// The mode of such a name; nullopt for any other text.
std::optional<BufferMode> ParseBufferMode(absl::string_view name);

/// What a target does with the data of a request, which decides the modes that it can be served in.
enum class DataUse : uint8_t {
  /// It looks at `Request::bytes()`: copy.
  kBytes,
  /// It calls `Request::Load` and `Request::Store`, and nothing else: user copy and copy.
  kCopies,
  /// It hands `Request::buffer` to operations of its ring, and nothing else: zero copy and copy.
  kForwards,
  /// It answers without the data: any mode.
  kNothing,
};

/// The mode that was asked for, else the cheapest that the target and the driver can do.
/// FAILED_PRECONDITION: not the one that was asked for.
absl::StatusOr<BufferMode> ChooseBufferMode(std::optional<BufferMode> asked, DataUse use,
                                            Features offered);

/// What the driver has to grant for a mode.
Features FeaturesOf(BufferMode mode);
/// The mode of a device that has these features.
BufferMode BufferModeOf(Features granted);

}  // namespace ublkd::ublk
