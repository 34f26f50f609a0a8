// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/geometry.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "absl/strings/str_cat.h"

namespace ublkd::ublk {
namespace {

constexpr uint32_t kLargestLogicalBlockBytes = 4096;
/// The driver takes these sizes as shifts of at most 28.
constexpr uint32_t kLargestHintBytes = uint32_t{1} << 28;
/// The ABI counts discards and write-zeroes in 32-bit sectors; below that we stay in 32-bit bytes
/// for targets that keep a length in one.
constexpr uint64_t kLargestRangeBytes = uint64_t{2} << 30;

absl::Status OutOfRange(absl::string_view field, uint64_t value, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", value, ": ", why));
}

absl::Status CheckHint(absl::string_view field, uint32_t value, uint32_t smallest) {
  if (std::has_single_bit(value) && value >= smallest && value <= kLargestHintBytes) {
    return absl::OkStatus();
  }
  return OutOfRange(
      field, value,
      absl::StrCat("must be a power of two from ", smallest, " to ", kLargestHintBytes, " or 0"));
}

}  // namespace

absl::Status CompleteGeometry(Geometry& geometry) {
  const uint32_t block = geometry.logical_block_bytes;
  if (!std::has_single_bit(block) || block < kSectorBytes || block > kLargestLogicalBlockBytes) {
    return OutOfRange("logical block size", block, "must be 512, 1024, 2048 or 4096");
  }
  if (geometry.size_bytes == 0 || geometry.size_bytes % block != 0) {
    return OutOfRange("size", geometry.size_bytes,
                      absl::StrCat("must be a positive multiple of the block size ", block));
  }
  if (geometry.size_bytes > std::numeric_limits<int64_t>::max()) {
    return OutOfRange("size", geometry.size_bytes, "must be less than 8 EiB");
  }
  if (geometry.volatile_cache && !geometry.can_flush) {
    return absl::InvalidArgumentError(
        "volatile cache: the target cannot flush; give it a Flush or declare no cache");
  }
  if (geometry.read_only) {
    geometry.can_discard = false;
    geometry.can_write_zeroes = false;
  }

  if (geometry.physical_block_bytes == 0) geometry.physical_block_bytes = block;
  if (geometry.io_min_bytes == 0) geometry.io_min_bytes = geometry.physical_block_bytes;
  if (geometry.io_opt_bytes == 0) geometry.io_opt_bytes = geometry.io_min_bytes;
  if (geometry.discard_granularity_bytes == 0) {
    geometry.discard_granularity_bytes = geometry.physical_block_bytes;
  }
  const auto round_range = [block](uint64_t bytes) {
    return std::max<uint64_t>(std::min(bytes, kLargestRangeBytes) / block * block, block);
  };
  geometry.max_discard_bytes = round_range(geometry.max_discard_bytes);
  geometry.max_write_zeroes_bytes = round_range(geometry.max_write_zeroes_bytes);

  for (const auto& [field, value] : {
           std::pair<absl::string_view, uint32_t>{"physical block size",
                                                  geometry.physical_block_bytes},
           {"smallest preferred request", geometry.io_min_bytes},
           {"preferred request", geometry.io_opt_bytes},
           {"discard granularity", geometry.discard_granularity_bytes},
       }) {
    if (absl::Status status = CheckHint(field, value, block); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace ublkd::ublk
