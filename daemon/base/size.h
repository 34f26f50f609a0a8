// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ublkd {

/// Reads "4096", "64MiB", "10G" or "1.5TiB" as bytes. K, M, G, T are powers of 1024 with and
/// without "iB"; "KB", "MB", ... are powers of 1000. INVALID_ARGUMENT names what was read.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);

/// "64 MiB", "1.5 GiB", "512 B".
std::string FormatBytes(uint64_t bytes);

}  // namespace ublkd
