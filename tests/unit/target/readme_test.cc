// SPDX-License-Identifier: Apache-2.0
//
// The example of daemon/target/README.md, cut out of it when the build is configured.
#include "readme_example.h"
#include "tests/unit/target/queue_driver.h"

namespace ublkd::target {
namespace {

class ReadmeTest : public TargetTest {};

TEST_F(ReadmeTest, TheExampleIsADisk) {
  example::MemoryTarget target(1 << 20);
  QueueDriver<example::MemoryTarget> queue(target);
  RequestBuffer data(4096, 'd');
  EXPECT_TRUE(queue.Write(4096, data).ok());
  RequestBuffer read(4096);
  EXPECT_TRUE(queue.Read(4096, read).ok());
  EXPECT_TRUE(read.AllAre('d'));
  EXPECT_TRUE(
      queue.Do({.op = ublk::Op::kWriteZeroes, .offset_bytes = 4096, .length_bytes = 4096}).ok());
  EXPECT_TRUE(queue.Read(4096, read).ok());
  EXPECT_TRUE(read.AllAre(0));
}

TEST(Readme, TheExampleAnnouncesWhatItCan) {
  const auto target = example::MakeMemoryTarget(1 << 20);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_TRUE((*target)->geometry().can_write_zeroes);
  EXPECT_FALSE((*target)->geometry().can_discard);
  EXPECT_FALSE((*target)->geometry().can_flush);
}

}  // namespace
}  // namespace ublkd::target
