// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/error.h"

#include "daemon/target/error_target.h"
#include "tests/unit/target/queue_driver.h"

namespace ublkd::target {
namespace {

using ublk::Op;

class ErrorTargetTest : public TargetTest {};

TEST_F(ErrorTargetTest, EveryRequestIsAnsweredWithAnErrorAndNoDataIsTouched) {
  ErrorTarget target{{.size_bytes = 1 << 20}};
  QueueDriver<ErrorTarget> queue(target);
  const RequestBuffer buffer(8192, 'x');
  EXPECT_EQ(queue.Read(0, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Write(4096, buffer), Result::Error(EIO));
  for (const Op op : {Op::kFlush, Op::kDiscard, Op::kWriteZeroes}) {
    EXPECT_EQ(queue.Do({.op = op, .length_bytes = op == Op::kFlush ? 0u : 4096u}),
              Result::Error(EIO));
  }
  EXPECT_TRUE(buffer.AllAre('x'));
}

TEST(ErrorTarget, LooksLikeTheDiskThatItStandsInFor) {
  const ublk::Geometry disk = {.size_bytes = 3 << 20,
                               .logical_block_bytes = 4096,
                               .volatile_cache = true,
                               .read_only = true,
                               .can_discard = false};
  const auto target = MakeErrorTarget(disk);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ((*target)->data_use(), DataUse::kNothing);
  const ublk::Geometry& geometry = (*target)->geometry();
  EXPECT_EQ(geometry.size_bytes, disk.size_bytes);
  EXPECT_EQ(geometry.logical_block_bytes, disk.logical_block_bytes);
  EXPECT_TRUE(geometry.volatile_cache);
  EXPECT_TRUE(geometry.read_only);
  EXPECT_FALSE(geometry.can_discard);
}

TEST(ErrorTarget, WhatIsNoDiskIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(MakeErrorTarget({.size_bytes = 0}).status()));
}

}  // namespace
}  // namespace ublkd::target
