// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd {

/// How long the users of a device wait for a server that stays away, in seconds, before they get
/// errors; 0: for ever. Reads "wait" (0), "90s", "5m", "1h30m" or seconds as a bare number, whole
/// seconds only. INVALID_ARGUMENT names what was read.
absl::StatusOr<uint32_t> ParseFailAfter(absl::string_view text);

/// "wait", "1m30s".
std::string FormatFailAfter(uint32_t seconds);

}  // namespace ublkd
