// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "daemon/target/target.h"

namespace ublkd::target {

/// Reads as zeroes and forgets what is written.
struct NullTarget {
  struct Queue {
    Result Read(const Request& request) {
      std::ranges::fill(request.bytes(), std::byte{0});
      return Result::Ok();
    }
    Result Write(const Request&) { return Result::Ok(); }
    Result Discard(const Request&) { return Result::Ok(); }
    Result WriteZeroes(const Request&) { return Result::Ok(); }
  };

  Geometry look;
  Geometry geometry() const { return look; }
  /// Nothing is kept, so there is room for any disk.
  absl::StatusOr<uint64_t> AvailableBytes() const { return std::numeric_limits<int64_t>::max(); }
  absl::StatusOr<Queue> OpenQueue(uring::Ring&) { return Queue(); }
};

}  // namespace ublkd::target
