// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/parameters.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>

namespace ublkd::ublk {
namespace {

constexpr uint32_t kMaxIoBytes = 512 << 10;

Geometry Complete(Geometry geometry) {
  EXPECT_TRUE(CompleteGeometry(geometry).ok());
  return geometry;
}

TEST(Parameters, WhatIsSetIsWhatIsRead) {
  const Geometry geometry = Complete({.size_bytes = uint64_t{10} << 30,
                                      .logical_block_bytes = 512,
                                      .physical_block_bytes = 4096,
                                      .io_opt_bytes = 64 << 10,
                                      .memory_alignment_bytes = 4096,
                                      .rotational = true,
                                      .volatile_cache = true});
  const Parameters decoded = DecodeParameters(EncodeParameters(geometry, kMaxIoBytes));
  EXPECT_EQ(decoded.geometry.size_bytes, geometry.size_bytes);
  EXPECT_EQ(decoded.geometry.logical_block_bytes, 512u);
  EXPECT_EQ(decoded.geometry.physical_block_bytes, 4096u);
  EXPECT_EQ(decoded.geometry.io_opt_bytes, 64u << 10);
  EXPECT_EQ(decoded.geometry.memory_alignment_bytes, 4096u);
  EXPECT_TRUE(decoded.geometry.rotational);
  EXPECT_TRUE(decoded.geometry.volatile_cache);
  EXPECT_TRUE(decoded.geometry.can_discard);
  EXPECT_EQ(decoded.geometry.max_discard_bytes, geometry.max_discard_bytes);
  EXPECT_EQ(decoded.max_io_bytes, kMaxIoBytes);
  EXPECT_EQ(decoded.block_device, dev_t{0}) << "the driver has not told";
}

TEST(Parameters, ACacheMeansFlushAndFua) {
  const auto with = EncodeParameters(Complete({.size_bytes = 4096, .volatile_cache = true}), 4096);
  EXPECT_EQ(with.basic.attrs, unsigned{UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA});
  const auto without = EncodeParameters(Complete({.size_bytes = 4096}), 4096);
  EXPECT_EQ(without.basic.attrs, 0u);
}

TEST(Parameters, WhatATargetCannotIsNotAnnounced) {
  const auto none = EncodeParameters(
      Complete({.size_bytes = 4096, .can_discard = false, .can_write_zeroes = false}), 4096);
  EXPECT_EQ(none.types, unsigned{UBLK_PARAM_TYPE_BASIC});
  const auto zeroes_only =
      EncodeParameters(Complete({.size_bytes = 4096, .can_discard = false}), 4096);
  EXPECT_EQ(zeroes_only.discard.max_discard_sectors, 0u);
  EXPECT_GT(zeroes_only.discard.max_write_zeroes_sectors, 0u);
  EXPECT_EQ(zeroes_only.discard.max_discard_segments, 1u) << "the driver insists on it";
}

TEST(Parameters, DeviceNumbersComeFromTheDriver) {
  ublk_params params = EncodeParameters(Complete({.size_bytes = 4096}), 4096);
  params.types |= UBLK_PARAM_TYPE_DEVT;
  params.devt.disk_major = 259;
  params.devt.disk_minor = 3;
  EXPECT_EQ(DecodeParameters(params).block_device, makedev(259, 3));
}

}  // namespace
}  // namespace ublkd::ublk
