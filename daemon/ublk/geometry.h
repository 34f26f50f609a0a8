// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace ublkd::ublk {

inline constexpr uint32_t kSectorBytes = 512;

/// What a device looks like to the block layer. A target fills it in when it is opened and it does
/// not change while the device lives.
///
/// The three capabilities are "the target has the method and can serve it": a method that is
/// missing clears its bit whatever the target says (target/target.h), so that nothing is ever
/// advertised and then refused.
struct Geometry {
  /// Positive multiple of `logical_block_bytes`.
  uint64_t size_bytes = 0;
  /// Smallest unit of a request: 512, 1024, 2048 or 4096.
  uint32_t logical_block_bytes = kSectorBytes;
  /// Unit that is written without read-modify-write; power of two, at least the logical block.
  /// 0 means the same as the logical block.
  uint32_t physical_block_bytes = 0;
  /// Preferred smallest request; power of two. 0 means the physical block.
  uint32_t io_min_bytes = 0;
  /// Preferred request for streaming; power of two. 0 means `io_min_bytes`.
  uint32_t io_opt_bytes = 0;

  /// Memory that users transfer directly must begin at a multiple of it where a target gets that
  /// very memory (zero copy): power of two up to 4096. 0 means the kernel's usual 512.
  uint32_t memory_alignment_bytes = 0;

  bool rotational = false;
  /// Written data is durable only after a flush (or by FUA). Needs `can_flush`.
  bool volatile_cache = false;
  /// The target refuses writes, discards and write-zeroes.
  bool read_only = false;

  bool can_flush = true;
  bool can_discard = true;
  bool can_write_zeroes = true;

  /// Power of two; 0 means the physical block.
  uint32_t discard_granularity_bytes = 0;
  /// Largest single discard and write-zeroes request; multiples of the logical block.
  uint64_t max_discard_bytes = uint64_t{1} << 30;
  uint64_t max_write_zeroes_bytes = uint64_t{1} << 30;
};

/// The same geometry with every "0 means" filled in, and with what a read-only device cannot do
/// cleared. INVALID_ARGUMENT names the first field that is out of range.
absl::Status CompleteGeometry(Geometry& geometry);

}  // namespace ublkd::ublk
