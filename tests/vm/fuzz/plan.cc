// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/plan.h"

#include <cstring>

namespace ublkd::driver_fuzz {

using driver_test::Control;
using driver_test::Geometry;
using driver_test::kSectorBytes;

namespace {

// How data comes to the server.
constexpr uint64_t kWays[] = {
    0,
    UBLK_F_NEED_GET_DATA,
    UBLK_F_USER_COPY,
    UBLK_F_USER_COPY | UBLK_F_ZONED,
    UBLK_F_USER_COPY | UBLK_F_INTEGRITY,
    UBLK_F_SUPPORT_ZERO_COPY,
    UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_BUF_REG_OFF_DAEMON,
    UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG,
    UBLK_F_BATCH_IO,
    UBLK_F_BATCH_IO,
    UBLK_F_BATCH_IO | UBLK_F_USER_COPY,
    UBLK_F_BATCH_IO | UBLK_F_USER_COPY | UBLK_F_ZONED,
};
constexpr uint64_t kRecoveries[] = {
    0,
    UBLK_F_USER_RECOVERY,
    UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE,
    UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
    UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_QUIESCE,
    UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO,
};
constexpr uint64_t kExtras[] = {
    UBLK_F_UPDATE_SIZE, UBLK_F_PER_IO_DAEMON,     UBLK_F_SAFE_STOP_DEV,
    UBLK_F_SHMEM_ZC,    UBLK_F_NO_AUTO_PART_SCAN, UBLK_F_URING_CMD_COMP_IN_TASK,
};
constexpr unsigned kWildParams = 12;  // one in so many is nonsense
constexpr unsigned kUnprivileged = 10;

}  // namespace

Geometry RandomGeometry(Dice& dice, uint64_t features) {
  Geometry geometry;
  geometry.queues = static_cast<uint16_t>(1 + dice.Below(4));
  geometry.depth = dice.Of<uint16_t>({1, 2, 8, 16, 64, 128});
  geometry.bytes = dice.Of<uint64_t>({1 << 20, 8 << 20, 16 << 20});
  geometry.block_shift = dice.Of<uint8_t>({9, 9, 12});
  geometry.max_io_bytes = dice.Of<uint32_t>({4 << 10, 64 << 10, 512 << 10, 1 << 20});
  geometry.discard = !dice.OneIn(4);
  geometry.attrs = dice.OneIn(3) ? UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA : 0;
  if (dice.OneIn(16)) geometry.attrs |= UBLK_ATTR_READ_ONLY;

  uint64_t way = dice.Of(kWays);
  if ((way & ~features) != 0) way = 0;
  geometry.flags = way;
  if (way == 0 && dice.OneIn(kUnprivileged)) {
    geometry.flags |= UBLK_F_UNPRIVILEGED_DEV;
  } else {
    geometry.flags |= dice.Of(kRecoveries) & features;
  }
  for (const uint64_t extra : kExtras) {
    if (dice.OneIn(2)) geometry.flags |= extra & features;
  }
  if ((way & UBLK_F_BATCH_IO) == 0 && dice.OneIn(4)) {
    geometry.flags |= UBLK_F_IO_DESC_SIZE & features;
    geometry.desc_bytes = dice.Of<uint16_t>({24, 32, 64, 256});
  }
  if ((way & UBLK_F_ZONED) != 0) {
    geometry.block_shift = 12;
    geometry.discard = false;
    geometry.zone_bytes = dice.Of<uint64_t>({256 << 10, 1 << 20});
  }
  return geometry;
}

ublk_params RandomParams(Dice& dice, const Geometry& geometry) {
  ublk_params params = driver_test::ParamsOf(geometry);
  if (dice.OneIn(4)) {
    params.types |= UBLK_PARAM_TYPE_DMA_ALIGN;
    params.dma.alignment = dice.Of<uint32_t>({3, 511, 4095});
  }
  if (dice.OneIn(4)) {
    params.types |= UBLK_PARAM_TYPE_SEGMENT;
    params.seg.seg_boundary_mask = dice.Of<uint64_t>({4095, 65535, UINT64_MAX});
    params.seg.max_segment_size = dice.Of<uint32_t>({4096, 65536, UINT32_MAX});
    params.seg.max_segments = dice.Of<uint16_t>({1, 16, 128, UINT16_MAX});
  }
  if (geometry.zone_bytes == 0 && dice.OneIn(8)) {
    params.basic.chunk_sectors = dice.Of<uint32_t>({8, 24, 128, 1 << 20});
  }
  if (dice.OneIn(8)) params.basic.virt_boundary_mask = 4095;
  if ((geometry.flags & UBLK_F_INTEGRITY) != 0) {
    params.types |= UBLK_PARAM_TYPE_INTEGRITY;
    params.integrity.metadata_size = dice.Of<uint8_t>({8, 16, 64});
    params.integrity.interval_exp = geometry.block_shift;
    params.integrity.csum_type = dice.Of<uint8_t>({UBLK_PI_CSUM_NONE, UBLK_PI_CSUM_CRC16});
    params.integrity.tag_size = dice.Of<uint8_t>({0, 2});
  }
  if (dice.OneIn(kWildParams)) {
    auto* bytes = reinterpret_cast<unsigned char*>(&params);
    for (uint64_t i = 1 + dice.Below(4); i > 0; --i) {
      bytes[dice.Below(sizeof(params))] = static_cast<unsigned char>(dice.Bits());
    }
  }
  return params;
}

std::optional<Geometry> GeometryOf(Control& control, uint32_t id) {
  ublksrv_ctrl_dev_info info = {};
  ublk_params params = {};
  if (control.GetInfo(id, info) != 0 || control.GetParams(id, params) != 0) return std::nullopt;
  Geometry geometry;
  geometry.queues = info.nr_hw_queues;
  geometry.depth = info.queue_depth;
  geometry.flags = info.flags;
  geometry.max_io_bytes = info.max_io_buf_bytes;
  geometry.bytes = params.basic.dev_sectors * kSectorBytes;
  geometry.block_shift = params.basic.logical_bs_shift;
  geometry.attrs = params.basic.attrs;
  geometry.desc_bytes = (info.flags & UBLK_F_IO_DESC_SIZE) != 0 ? info.io_desc_size : 0;
  if ((info.flags & UBLK_F_ZONED) != 0) {
    geometry.zone_bytes = params.basic.chunk_sectors * kSectorBytes;
  }
  return geometry;
}

}  // namespace ublkd::driver_fuzz
