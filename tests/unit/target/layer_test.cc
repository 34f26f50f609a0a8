// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/file_target.h"
#include "daemon/target/null_target.h"
#include "tests/unit/target/fault_layer.h"
#include "tests/unit/target/queue_driver.h"

namespace ublkd::target {
namespace {

class LayerTest : public TargetTest {};

static_assert(Target<FaultLayer<FileTarget>>);
static_assert(CanFlush<QueueOf<FaultLayer<FileTarget>>>, "a layer can what is below it can");
static_assert(!CanFlush<QueueOf<FaultLayer<NullTarget>>>, "and no more");

TEST_F(LayerTest, ALayerChangesOnlyWhatItIsFor) {
  using Faulty = FaultLayer<NullTarget>;
  Faulty target(NullTarget{{.size_bytes = 1 << 20}}, 8192);
  QueueDriver<Faulty> queue(target);
  RequestBuffer buffer(4096, 'x');
  EXPECT_EQ(queue.Read(8192, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Write(8192, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Read(4096, buffer), Result::Ok());
  EXPECT_TRUE(buffer.AllAre(0));
}

TEST_F(LayerTest, LayersStack) {
  using Twice = FaultLayer<FaultLayer<NullTarget>>;
  Twice target(FaultLayer<NullTarget>(NullTarget{{.size_bytes = 1 << 20}}, 0), 4096);
  QueueDriver<Twice> queue(target);
  RequestBuffer buffer(4096);
  EXPECT_EQ(queue.Read(0, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Read(4096, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Read(8192, buffer), Result::Ok());
  EXPECT_TRUE(MakeDeviceTarget(target).ok());
}

}  // namespace
}  // namespace ublkd::target
