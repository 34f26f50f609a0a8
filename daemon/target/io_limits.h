// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace ublkd::target {

/// How much a device may do, reads and writes together. A rate of 0 is no limit; without a rate
/// its burst means nothing.
///
/// Over any time, a device does at most rate x time + burst (throttle.h has the exact promise).
struct IoLimits {
  /// Reads, writes, discards and write-zeroes a second.
  uint64_t iops = 0;
  /// As many at once after idling.
  uint64_t burst_ios = 0;
  /// Bytes read and written a second.
  uint64_t bytes_per_second = 0;
  /// As many at once after idling; what is not a whole sector counts for nothing.
  uint64_t burst_bytes = 0;

  bool limited() const { return iops != 0 || bytes_per_second != 0; }

  friend bool operator==(const IoLimits&, const IoLimits&) = default;
};

/// Beyond these nothing is a limit, and below them no count overflows.
inline constexpr uint64_t kMaxIops = uint64_t{1} << 30;
inline constexpr uint64_t kMaxBytesPerSecond = uint64_t{1} << 40;
inline constexpr uint64_t kMaxBurstIos = uint64_t{1} << 40;
inline constexpr uint64_t kMaxBurstBytes = uint64_t{1} << 50;
/// The smallest burst of bytes: one request of a small block.
inline constexpr uint64_t kMinBurstBytes = 4096;

/// The same with the bursts that were left open: a tenth of a second's worth.
inline IoLimits CompleteLimits(IoLimits limits) {
  constexpr uint64_t kBurstsPerSecond = 10;
  if (limits.burst_ios == 0 && limits.iops != 0) {
    limits.burst_ios = std::max<uint64_t>(limits.iops / kBurstsPerSecond, 1);
  }
  if (limits.burst_bytes == 0 && limits.bytes_per_second != 0) {
    limits.burst_bytes = std::max(limits.bytes_per_second / kBurstsPerSecond, kMinBurstBytes);
  }
  return limits;
}

}  // namespace ublkd::target
