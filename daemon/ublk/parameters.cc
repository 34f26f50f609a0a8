// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/parameters.h"

#include <sys/sysmacros.h>

#include <bit>

namespace ublkd::ublk {
namespace {

uint8_t Shift(uint32_t power_of_two) {
  return static_cast<uint8_t>(std::countr_zero(power_of_two));
}

uint32_t Sectors(uint64_t bytes) { return static_cast<uint32_t>(bytes / kSectorBytes); }

uint64_t Bytes(uint64_t sectors) { return sectors * kSectorBytes; }

}  // namespace

ublk_params EncodeParameters(const Geometry& geometry, uint32_t max_io_bytes) {
  ublk_params params = {};
  params.len = sizeof(params);
  params.types = UBLK_PARAM_TYPE_BASIC;

  uint32_t attributes = 0;
  if (geometry.read_only) attributes |= UBLK_ATTR_READ_ONLY;
  if (geometry.rotational) attributes |= UBLK_ATTR_ROTATIONAL;
  // FUA spares the flush after a write, so it only has a meaning where there is a cache.
  if (geometry.volatile_cache) attributes |= UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
  params.basic.attrs = attributes;
  params.basic.logical_bs_shift = Shift(geometry.logical_block_bytes);
  params.basic.physical_bs_shift = Shift(geometry.physical_block_bytes);
  params.basic.io_min_shift = Shift(geometry.io_min_bytes);
  params.basic.io_opt_shift = Shift(geometry.io_opt_bytes);
  params.basic.max_sectors = Sectors(max_io_bytes);
  params.basic.dev_sectors = geometry.size_bytes / kSectorBytes;

  if (geometry.memory_alignment_bytes != 0) {
    params.types |= UBLK_PARAM_TYPE_DMA_ALIGN;
    params.dma.alignment = geometry.memory_alignment_bytes - 1;
  }
  if (geometry.can_discard || geometry.can_write_zeroes) {
    params.types |= UBLK_PARAM_TYPE_DISCARD;
    params.discard.discard_granularity = geometry.discard_granularity_bytes;
    params.discard.max_discard_segments = 1;
    if (geometry.can_discard) {
      params.discard.max_discard_sectors = Sectors(geometry.max_discard_bytes);
    }
    if (geometry.can_write_zeroes) {
      params.discard.max_write_zeroes_sectors = Sectors(geometry.max_write_zeroes_bytes);
    }
  }
  return params;
}

Parameters DecodeParameters(const ublk_params& params) {
  Parameters decoded;
  Geometry& geometry = decoded.geometry;
  const uint32_t attributes = params.basic.attrs;
  geometry.size_bytes = Bytes(params.basic.dev_sectors);
  geometry.logical_block_bytes = uint32_t{1} << params.basic.logical_bs_shift;
  geometry.physical_block_bytes = uint32_t{1} << params.basic.physical_bs_shift;
  geometry.io_min_bytes = uint32_t{1} << params.basic.io_min_shift;
  geometry.io_opt_bytes = uint32_t{1} << params.basic.io_opt_shift;
  geometry.rotational = (attributes & UBLK_ATTR_ROTATIONAL) != 0;
  geometry.volatile_cache = (attributes & UBLK_ATTR_VOLATILE_CACHE) != 0;
  geometry.can_flush = geometry.volatile_cache;
  geometry.read_only = (attributes & UBLK_ATTR_READ_ONLY) != 0;
  const bool has_discard = (params.types & UBLK_PARAM_TYPE_DISCARD) != 0;
  geometry.can_discard = has_discard && params.discard.max_discard_sectors != 0;
  geometry.can_write_zeroes = has_discard && params.discard.max_write_zeroes_sectors != 0;
  if (has_discard) {
    geometry.discard_granularity_bytes = params.discard.discard_granularity;
    geometry.max_discard_bytes = Bytes(params.discard.max_discard_sectors);
    geometry.max_write_zeroes_bytes = Bytes(params.discard.max_write_zeroes_sectors);
  }
  if ((params.types & UBLK_PARAM_TYPE_DMA_ALIGN) != 0) {
    geometry.memory_alignment_bytes = params.dma.alignment + 1;
  }
  decoded.max_io_bytes = static_cast<uint32_t>(Bytes(params.basic.max_sectors));
  if ((params.types & UBLK_PARAM_TYPE_DEVT) != 0) {
    decoded.block_device = makedev(params.devt.disk_major, params.devt.disk_minor);
    decoded.char_device = makedev(params.devt.char_major, params.devt.char_minor);
  }
  return decoded;
}

}  // namespace ublkd::ublk
