// SPDX-License-Identifier: Apache-2.0
//
// Layers, by the one that makes things go wrong.
#include <cerrno>
#include <thread>
#include <vector>

#include "daemon/target/file_target.h"
#include "daemon/target/null_target.h"
#include "tests/support/fault_layer.h"
#include "tests/unit/target/queue_driver.h"

namespace ublkd::target {
namespace {

using ublk::Op;

static_assert(Target<FaultLayer<FileTarget>>);
static_assert(CanFlush<QueueOf<FaultLayer<FileTarget>>>, "a layer can what is below it can");
static_assert(!CanFlush<QueueOf<FaultLayer<NullTarget>>>, "and no more");

/// Remembers what comes, and does not look at the data.
struct Recorder {
  struct Queue {
    std::vector<Request>* seen;
    Result Read(const Request& request) { return Record(request); }
    Result Write(const Request& request) { return Record(request); }
    Result Flush(const Request& request) { return Record(request); }
    Result Record(const Request& request) {
      seen->push_back(request);
      return Result::Ok();
    }
  };
  std::vector<Request>* seen;
  Geometry geometry() const { return {.size_bytes = 1 << 20}; }
  absl::StatusOr<Queue> OpenQueue(uring::Ring&) { return Queue{seen}; }
};

class LayerTest : public TargetTest {
 protected:
  using Faulty = FaultLayer<Recorder>;

  /// One whose data is not in our memory.
  static Request At(Op op, uint64_t offset_bytes, uint32_t length_bytes = 4096) {
    return {.op = op,
            .offset_bytes = offset_bytes,
            .length_bytes = length_bytes,
            .buffer = {.data = nullptr, .bytes = length_bytes, .registered_index = 7}};
  }

  std::shared_ptr<Faults> faults_ = std::make_shared<Faults>();
  std::vector<Request> seen_;
};

TEST_F(LayerTest, WithoutAFaultRequestsPassUntouched) {
  Faulty target({&seen_}, faults_);
  QueueDriver<Faulty> queue(target);
  EXPECT_TRUE(queue.Do(At(Op::kWrite, 8192)).ok());
  ASSERT_EQ(seen_.size(), 1u);
  EXPECT_EQ(seen_[0].offset_bytes, 8192u);
  EXPECT_EQ(seen_[0].buffer.data, nullptr);
  EXPECT_EQ(seen_[0].buffer.registered_index, 7);
}

TEST_F(LayerTest, FaultsMeetWhatTheyAreFor) {
  Faulty target({&seen_}, faults_);
  QueueDriver<Faulty> queue(target);
  faults_->Add({.op = Op::kWrite, .begin_bytes = 8192, .end_bytes = 12288, .error_number = ENOSPC});
  EXPECT_EQ(queue.Do(At(Op::kWrite, 8192)), Result::Error(ENOSPC));
  EXPECT_EQ(queue.Do(At(Op::kWrite, 4096, 8192)), Result::Error(ENOSPC));
  EXPECT_EQ(queue.Do(At(Op::kWrite, 4096)), Result::Ok());
  EXPECT_EQ(queue.Do(At(Op::kWrite, 12288)), Result::Ok());
  EXPECT_EQ(queue.Do(At(Op::kRead, 8192)), Result::Ok());
  faults_->Clear();
  EXPECT_EQ(queue.Do(At(Op::kWrite, 8192)), Result::Ok());
  faults_->Add({.op = Op::kFlush, .begin_bytes = 4096, .error_number = EIO});
  EXPECT_EQ(queue.Do({.op = Op::kFlush}), Result::Error(EIO)) << "a flush is of the whole disk";
  EXPECT_EQ(faults_->met(), 3u);
}

TEST_F(LayerTest, EachNthAndOnlySomeAreMet) {
  Faulty target({&seen_}, faults_);
  QueueDriver<Faulty> queue(target);
  faults_->Add({.every = 3, .times = 2, .error_number = EIO});
  std::vector<bool> good;
  for (int i = 0; i < 9; ++i) good.push_back(queue.Do(At(Op::kRead, 0)).ok());
  EXPECT_EQ(good, std::vector<bool>({true, true, false, true, true, false, true, true, true}));
}

TEST_F(LayerTest, ShortTransfersComeInOrderAndMayFailHalfway) {
  Faulty target({&seen_}, faults_);
  QueueDriver<Faulty> queue(target);
  faults_->Add({.op = Op::kRead, .piece_bytes = 1536});
  EXPECT_TRUE(queue.Do(At(Op::kRead, 4096)).ok());
  ASSERT_EQ(seen_.size(), 3u);
  EXPECT_EQ(seen_[2].offset_bytes, 4096u + 3072u);
  EXPECT_EQ(seen_[2].length_bytes, 1024u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(seen_[2].buffer.data), 3072u);
  EXPECT_EQ(seen_[2].buffer.bytes, 1024u);
  faults_->Add({.op = Op::kWrite, .piece_bytes = 512, .error_number = EIO});
  EXPECT_EQ(queue.Do(At(Op::kWrite, 0)), Result::Error(EIO));
  ASSERT_EQ(seen_.size(), 4u) << "one piece was written";
  EXPECT_EQ(seen_[3].length_bytes, 512u);
}

TEST_F(LayerTest, WhatHangsIsReleasedByAnotherThread) {
  Faulty target({&seen_}, faults_);
  QueueDriver<Faulty> queue(target);
  for (const int error : {0, EIO}) {
    faults_->Clear();
    faults_->Add({.delay_ns = 1000, .hang = true, .error_number = error});
    std::thread other([this] {
      while (faults_->hanging() == 0) std::this_thread::yield();
      faults_->Release();
    });
    EXPECT_EQ(queue.Do(At(Op::kRead, 0)), error == 0 ? Result::Ok() : Result::Error(error));
    other.join();
    EXPECT_EQ(faults_->hanging(), 0u);
  }
}

TEST_F(LayerTest, LayersStack) {
  using Twice = FaultLayer<FaultLayer<NullTarget>>;
  const auto upper = std::make_shared<Faults>();
  Twice target(FaultLayer<NullTarget>(NullTarget{{.size_bytes = 1 << 20}}, faults_), upper);
  QueueDriver<Twice> queue(target);
  faults_->Add({.end_bytes = 4096, .error_number = EIO});
  upper->Add({.begin_bytes = 4096, .end_bytes = 8192, .error_number = ENOSPC});
  RequestBuffer buffer(4096);
  EXPECT_EQ(queue.Read(0, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Read(4096, buffer), Result::Error(ENOSPC));
  EXPECT_EQ(queue.Read(8192, buffer), Result::Ok());
  EXPECT_TRUE(MakeDeviceTarget(target).ok());
}

}  // namespace
}  // namespace ublkd::target
