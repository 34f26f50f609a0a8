// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/geometry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace ublkd::ublk {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(Geometry, DefaultsFollowTheBlock) {
  Geometry geometry = {.size_bytes = kMiB, .logical_block_bytes = 4096};
  ASSERT_TRUE(CompleteGeometry(geometry).ok());
  EXPECT_EQ(geometry.physical_block_bytes, 4096u);
  EXPECT_EQ(geometry.io_min_bytes, 4096u);
  EXPECT_EQ(geometry.io_opt_bytes, 4096u);
  EXPECT_EQ(geometry.discard_granularity_bytes, 4096u);
}

TEST(Geometry, CompletingTwiceChangesNothing) {
  Geometry once = {.size_bytes = kMiB, .physical_block_bytes = 4096, .max_discard_bytes = 1};
  ASSERT_TRUE(CompleteGeometry(once).ok());
  Geometry twice = once;
  ASSERT_TRUE(CompleteGeometry(twice).ok());
  EXPECT_EQ(twice.max_discard_bytes, once.max_discard_bytes);
  EXPECT_EQ(once.max_discard_bytes, once.logical_block_bytes) << "at least one block";
}

TEST(Geometry, ReadOnlyDevicesCannotDiscard) {
  Geometry geometry = {.size_bytes = kMiB, .read_only = true};
  ASSERT_TRUE(CompleteGeometry(geometry).ok());
  EXPECT_FALSE(geometry.can_discard);
  EXPECT_FALSE(geometry.can_write_zeroes);
}

TEST(Geometry, WhatIsOutOfRangeIsNamed) {
  struct Case {
    const char* named;
    Geometry geometry;
  };
  const Case cases[] = {
      {"size 0", {.size_bytes = 0}},
      {"size 1000", {.size_bytes = 1000}},
      {"size", {.size_bytes = uint64_t{1} << 63}},
      {"logical block size 256", {.size_bytes = kMiB, .logical_block_bytes = 256}},
      {"logical block size 8192", {.size_bytes = kMiB, .logical_block_bytes = 8192}},
      {"physical block size 1000", {.size_bytes = kMiB, .physical_block_bytes = 1000}},
      {"physical block size 512",
       {.size_bytes = kMiB, .logical_block_bytes = 4096, .physical_block_bytes = 512}},
      {"volatile cache", {.size_bytes = kMiB, .volatile_cache = true, .can_flush = false}},
  };
  for (const Case& bad : cases) {
    Geometry geometry = bad.geometry;
    const absl::Status status = CompleteGeometry(geometry);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad.named;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(bad.named));
  }
}

}  // namespace
}  // namespace ublkd::ublk
