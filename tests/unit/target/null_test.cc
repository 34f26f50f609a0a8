// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/null.h"

#include "daemon/target/null_target.h"
#include "tests/unit/target/queue_driver.h"

namespace ublkd::target {
namespace {

class NullTargetTest : public TargetTest {};

TEST_F(NullTargetTest, ReadsZeroesWhateverWasWritten) {
  NullTarget target{{.size_bytes = 1 << 20}};
  QueueDriver<NullTarget> queue(target);
  RequestBuffer buffer(8192, 'x');
  EXPECT_TRUE(queue.Write(0, buffer).ok());
  EXPECT_TRUE(queue.Read(0, buffer).ok());
  EXPECT_TRUE(buffer.AllAre(0));
  EXPECT_EQ(queue.Do({.op = ublk::Op::kFlush}), Result::Error(EOPNOTSUPP));
}

TEST(NullTarget, HasNoCacheToFlush) {
  const auto target = MakeNullTarget(1 << 20, 512);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_FALSE((*target)->geometry().can_flush) << "it has no method for it";
  EXPECT_TRUE((*target)->geometry().can_discard);
  EXPECT_FALSE((*target)->geometry().volatile_cache);
}

TEST(NullTarget, MayGrow) {
  const auto target = MakeNullTarget(1 << 20, 512);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_GT(*(*target)->AvailableBytes(), uint64_t{1} << 50);
  EXPECT_EQ((*target)->geometry().size_bytes, 1u << 20);
}

TEST(NullTarget, OddSizesAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(MakeNullTarget(0, 512).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MakeNullTarget(1000, 512).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MakeNullTarget(4096 + 512, 4096).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MakeNullTarget(1 << 20, 1000).status()));
}

}  // namespace
}  // namespace ublkd::target
