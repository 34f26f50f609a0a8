// SPDX-License-Identifier: Apache-2.0
#include "daemon/target/throttle.h"

#include <gmock/gmock.h>

#include <atomic>
#include <barrier>
#include <cerrno>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/target/file_target.h"
#include "daemon/target/limit_layer.h"
#include "daemon/target/null.h"
#include "daemon/target/null_target.h"
#include "tests/support/fault_layer.h"
#include "tests/unit/target/queue_driver.h"

namespace ublkd::target {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kSecond = uring::kNsPerSecond;
constexpr uint64_t kMs = kSecond / 1000;

/// One queue thread's part, driven by hand. Requests that have passed are named in `passed`.
class Line {
 public:
  Line(const std::shared_ptr<Throttle>& throttle, std::vector<std::string>& passed)
      : passed_(passed),
        ring_(*uring::Ring::Create({})),
        gate_(std::make_unique<Gate>(throttle, *ring_)) {}

  void Send(const std::string& name, const Request& request) {
    requests_.push_back(request);
    tasks_.push_back(Run(name, requests_.back()));
    tasks_.back().Start();
  }
  void SendReads(int count, const std::string& name = "r", uint64_t bytes = 4096) {
    for (int i = 0; i < count; ++i) {
      Send(absl::StrCat(name, i), {.op = ublk::Op::kRead, .length_bytes = bytes});
    }
  }
  /// Has those who wait look at the time and the limits.
  void Look() {
    if (waits()) ring_->RunOnce();
  }
  /// The gate sleeps for somebody.
  bool waits() const { return ring_->in_flight() > 0; }
  int held_back() const { return held_back_; }

 private:
  uring::RootTask Run(std::string name, const Request& request) {
    const bool held_back = co_await gate_->Admit(request);
    held_back_ += held_back ? 1 : 0;
    passed_.push_back(std::move(name));
  }

  std::vector<std::string>& passed_;
  std::unique_ptr<uring::Ring> ring_;
  std::unique_ptr<Gate> gate_;
  std::deque<Request> requests_;
  std::deque<uring::RootTask> tasks_;
  int held_back_ = 0;
};

class ThrottleTest : public TargetTest {
 protected:
  ~ThrottleTest() override {
    if (throttle_ == nullptr) return;
    throttle_->Release();
    while (std::any_of(lines_.begin(), lines_.end(), [](auto& line) { return line->waits(); })) {
      Look();
    }
  }
  Line& Make(const IoLimits& limits) {
    throttle_ = std::make_shared<Throttle>(CompleteLimits(limits), [this] { return now_ns_; });
    return AddLine();
  }
  Line& AddLine() {
    lines_.push_back(std::make_unique<Line>(throttle_, passed_));
    return *lines_.back();
  }
  void Look() {
    for (const auto& line : lines_) line->Look();
  }
  void Advance(uint64_t ns) {
    now_ns_ += ns;
    Look();
  }

  uint64_t now_ns_ = 100 * kSecond;
  std::shared_ptr<Throttle> throttle_;
  std::vector<std::string> passed_;
  std::vector<std::unique_ptr<Line>> lines_;
};

TEST_F(ThrottleTest, WithoutLimitsNothingIsHeldBack) {
  Line& line = Make({});
  line.SendReads(1000);
  EXPECT_EQ(passed_.size(), 1000u);
  EXPECT_EQ(line.held_back(), 0);
  EXPECT_FALSE(line.waits());
}

TEST_F(ThrottleTest, RequestsPassAtTheRateInTheirOrder) {
  Line& line = Make({.iops = 10, .burst_ios = 2});
  line.SendReads(5);
  EXPECT_THAT(passed_, ElementsAre("r0", "r1")) << "the burst";
  Advance(100 * kMs - 1);
  EXPECT_EQ(passed_.size(), 2u);
  Advance(1);
  EXPECT_THAT(passed_, ElementsAre("r0", "r1", "r2"));
  Advance(200 * kMs);
  EXPECT_THAT(passed_, ElementsAre("r0", "r1", "r2", "r3", "r4"));
  EXPECT_EQ(line.held_back(), 3);
  EXPECT_FALSE(line.waits()) << "a queue in which nobody waits does nothing";
}

TEST_F(ThrottleTest, BytesAreLimitedAndALargeRequestPasses) {
  Line& line = Make({.bytes_per_second = 1 << 20, .burst_bytes = 64 << 10});
  line.SendReads(1, "large", 1 << 20);
  line.SendReads(1, "small", 512);
  Advance(kSecond * 15 / 16 - 1);
  EXPECT_THAT(passed_, IsEmpty());
  Advance(1);
  EXPECT_THAT(passed_, ElementsAre("large0")) << "a MiB less the burst";
  Advance(kSecond / 2048 + 1);
  EXPECT_THAT(passed_, ElementsAre("large0", "small0"));
}

TEST_F(ThrottleTest, TheTighterOfTwoLimitsHolds) {
  Line& line = Make({.iops = 10, .burst_ios = 1, .bytes_per_second = 1 << 20, .burst_bytes = 4096});
  line.SendReads(2, "small", 4096);
  line.SendReads(1, "large", 1 << 20);
  EXPECT_THAT(passed_, ElementsAre("small0"));
  Advance(100 * kMs);
  EXPECT_THAT(passed_, ElementsAre("small0", "small1")) << "held by the count";
  Advance(800 * kMs);
  EXPECT_EQ(passed_.size(), 2u);
  Advance(300 * kMs);
  EXPECT_THAT(passed_, ElementsAre("small0", "small1", "large0")) << "held by the bytes";
}

TEST_F(ThrottleTest, AFlushIsNeverHeldBack) {
  Line& line = Make({.iops = 1, .burst_ios = 1});
  line.SendReads(2);
  line.Send("flush", {.op = ublk::Op::kFlush});
  EXPECT_THAT(passed_, ElementsAre("r0", "flush"));
}

TEST_F(ThrottleTest, DiscardsAndZeroesAreIosThatMoveNothing) {
  Line& line = Make({.bytes_per_second = 1 << 20, .burst_bytes = 4096});
  const uint64_t huge = uint64_t{1} << 30;
  line.Send("discard", {.op = ublk::Op::kDiscard, .length_bytes = huge});
  line.Send("zeroes", {.op = ublk::Op::kWriteZeroes, .length_bytes = huge});
  EXPECT_THAT(passed_, ElementsAre("discard", "zeroes"));
  throttle_->Set({.iops = 1, .burst_ios = 1});
  line.Send("discard", {.op = ublk::Op::kDiscard, .length_bytes = huge});
  line.Send("zeroes", {.op = ublk::Op::kWriteZeroes, .length_bytes = huge});
  EXPECT_THAT(passed_, ElementsAre("discard", "zeroes", "discard"));
}

TEST_F(ThrottleTest, QueuesTakeTurns) {
  Line& first = Make({.iops = 10, .burst_ios = 1});
  Line& second = AddLine();
  first.SendReads(100, "a");
  second.SendReads(100, "b");
  for (int i = 0; i < 20; ++i) Advance(100 * kMs);
  EXPECT_EQ(passed_.size(), 21u);
  const auto of_first = std::count_if(passed_.begin(), passed_.end(),
                                      [](const std::string& name) { return name[0] == 'a'; });
  EXPECT_GE(of_first, 10);
  EXPECT_LE(of_first, 12) << "who came later has its share";
}

TEST_F(ThrottleTest, ALargeRequestIsNotStarvedByAnotherQueue) {
  Line& first = Make({.bytes_per_second = 40960, .burst_bytes = 4096});
  Line& second = AddLine();
  first.SendReads(1, "small");
  first.SendReads(1000, "s");
  second.SendReads(1, "LARGE", 409600);
  for (int i = 0; i < 10; ++i) Advance(kSecond);
  EXPECT_EQ(passed_.size(), 2u) << "what came behind it waits";
  Advance(100 * kMs);
  EXPECT_THAT(passed_, ElementsAre("small0", "s0", "LARGE0"));
}

TEST_F(ThrottleTest, RaisingTheLimitHelpsThoseWhoWait) {
  Line& line = Make({.iops = 1, .burst_ios = 1});
  line.SendReads(21);
  throttle_->Set({.iops = 1000, .burst_ios = 10});
  Look();
  EXPECT_EQ(passed_.size(), 10u) << "the new burst, of which one is used";
  Advance(10 * kMs);
  EXPECT_EQ(passed_.size(), 20u);
  Advance(1 * kMs);
  EXPECT_EQ(passed_.size(), 21u);
}

TEST_F(ThrottleTest, LoweringTheLimitHoldsThoseWhoWait) {
  Line& line = Make({.iops = 1000, .burst_ios = 1});
  line.SendReads(21);
  throttle_->Set({.iops = 1, .burst_ios = 1});
  Advance(10 * kMs);
  EXPECT_EQ(passed_.size(), 1u);
  Advance(990 * kMs);
  EXPECT_EQ(passed_.size(), 2u);
}

TEST_F(ThrottleTest, RemovingTheLimitLetsAllGoInTheirOrder) {
  Line& line = Make({.iops = 1, .burst_ios = 1});
  line.SendReads(3);
  throttle_->Set({});
  line.SendReads(1, "new");
  EXPECT_EQ(passed_.size(), 1u) << "a new one does not overtake";
  Look();
  EXPECT_THAT(passed_, ElementsAre("r0", "r1", "r2", "new0"));
  line.SendReads(1000);
  EXPECT_EQ(passed_.size(), 1004u);
  EXPECT_EQ(line.held_back(), 3);
}

TEST_F(ThrottleTest, ALimitMayComeLater) {
  Line& line = Make({});
  line.SendReads(1000);
  throttle_->Set({.iops = 10, .burst_ios = 2});
  line.SendReads(4, "l");
  EXPECT_EQ(passed_.size(), 1002u) << "a new limit begins with its burst";
  Advance(200 * kMs);
  EXPECT_EQ(passed_.size(), 1004u);
}

TEST_F(ThrottleTest, ChangesAllTheTimeStarveNobody) {
  Line& line = Make({.bytes_per_second = 4096, .burst_bytes = 4096});
  line.SendReads(2, "r", 8192);
  for (int i = 0; i < 30; ++i) {
    throttle_->Set({.bytes_per_second = i % 2 == 0 ? 4096u : 4608u, .burst_bytes = 4096});
    Advance(100 * kMs);
  }
  EXPECT_THAT(passed_, ElementsAre("r0", "r1")) << "12 KiB have come in three seconds";
}

TEST_F(ThrottleTest, TheEndOfTheDeviceEndsItsLimits) {
  Line& line = Make({.bytes_per_second = 4096, .burst_bytes = 4096});
  line.SendReads(100, "r", 1 << 20);
  throttle_->Release();
  Look();
  EXPECT_EQ(passed_.size(), 100u);
  throttle_->Set({.iops = 1, .burst_ios = 1});
  line.SendReads(100);
  EXPECT_EQ(passed_.size(), 200u) << "for good";
}

/// Sends a number of requests, a few at a time, as the tags of a queue do.
class Load {
 public:
  static constexpr int kAtATime = 8;
  Load(std::shared_ptr<Throttle> throttle, int requests)
      : left_(requests), thread_([this, throttle] { Run(throttle); }) {}
  void Join() { thread_.join(); }
  int passed() const { return passed_; }

 private:
  void Run(const std::shared_ptr<Throttle>& throttle) {
    const auto ring = *uring::Ring::Create({});
    Gate gate(throttle, *ring);
    std::deque<uring::RootTask> tasks;
    for (int i = 0; i < kAtATime; ++i) tasks.push_back(Serve(*ring, gate));
    for (uring::RootTask& task : tasks) task.Start();
    ring->RunUntil([&] {
      return std::all_of(tasks.begin(), tasks.end(), [](const auto& task) { return task.done(); });
    });
  }
  uring::RootTask Serve(uring::Ring& ring, Gate& gate) {
    const Request request = {.op = ublk::Op::kRead, .length_bytes = 4096};
    while (left_-- > 0) {
      (void)co_await gate.Admit(request);
      ++passed_;
      (void)co_await ring.Yield();
    }
  }

  int left_;
  std::atomic<int> passed_ = 0;
  std::thread thread_;
};

TEST_F(ThrottleTest, ThreadsTogetherNeverExceedTheLimit) {
  constexpr uint64_t kRate = 2000;
  constexpr uint64_t kBurst = 50;
  const uint64_t begin_ns = uring::MonotonicNs();
  const auto throttle = std::make_shared<Throttle>(IoLimits{.iops = kRate, .burst_ios = kBurst});
  Load first(throttle, 200);
  Load second(throttle, 200);
  while (first.passed() + second.passed() < 400) {
    const auto passed =
        static_cast<uint64_t>(first.passed()) + static_cast<uint64_t>(second.passed());
    const uint64_t elapsed_ns = uring::MonotonicNs() - begin_ns;
    ASSERT_LE(passed, kBurst + kRate * elapsed_ns / kSecond);
    std::this_thread::yield();
  }
  first.Join();
  second.Join();
}

TEST_F(ThrottleTest, WhatWasSetHoldsInAllQueues) {
  constexpr int kRounds = 5000;
  const auto throttle = std::make_shared<Throttle>();
  std::barrier meet(3);
  std::atomic<int> slipped = 0;
  const auto send = [&] {
    std::vector<std::string> passed;
    Line line(throttle, passed);
    for (int round = 0; round < kRounds; ++round) {
      meet.arrive_and_wait();  // the limit is set
      line.SendReads(1, "r", 64 << 10);
      slipped += line.waits() ? 0 : 1;
      meet.arrive_and_wait();  // both have sent
      meet.arrive_and_wait();  // the limit is lifted
      while (line.waits()) line.Look();
      meet.arrive_and_wait();  // nobody waits
    }
  };
  std::thread first(send);
  std::thread second(send);
  for (int round = 0; round < kRounds; ++round) {
    throttle->Set({.bytes_per_second = 1 << 30, .burst_bytes = 4096});
    meet.arrive_and_wait();
    meet.arrive_and_wait();
    throttle->Set({});
    meet.arrive_and_wait();
    meet.arrive_and_wait();
  }
  first.join();
  second.join();
  EXPECT_EQ(slipped, 0);
}

TEST_F(ThrottleTest, LimitsChangeUnderLoad) {
  const auto throttle = std::make_shared<Throttle>();
  Load first(throttle, 20'000);
  Load second(throttle, 20'000);
  for (uint64_t i = 0; i < 200; ++i) {
    throttle->Set(i % 3 == 0 ? IoLimits()
                             : CompleteLimits({.iops = 1 + i, .bytes_per_second = 1 << 20}));
    std::this_thread::yield();
  }
  throttle->Release();
  first.Join();
  second.Join();
  EXPECT_EQ(first.passed() + second.passed(), 40'000) << "nobody was forgotten";
}

using LimitedFile = LimitLayer<FileTarget>;
static_assert(Target<LimitedFile>);
static_assert(HoldsBack<QueueOf<LimitedFile>>);
static_assert(!HoldsBack<QueueOf<FileTarget>>);
static_assert(CanFlush<QueueOf<LimitedFile>> && CanDiscard<QueueOf<LimitedFile>>);
static_assert(!CanFlush<QueueOf<LimitLayer<NullTarget>>>, "the layer can what is below it can");

TEST_F(ThrottleTest, TheLayerPassesEverythingOn) {
  using Faulty = FaultLayer<NullTarget>;
  throttle_ = std::make_shared<Throttle>(IoLimits{.iops = 1000, .burst_ios = 1});
  const auto faults = std::make_shared<Faults>();
  faults->Add({.begin_bytes = 8192, .end_bytes = 8193, .error_number = EIO});
  LimitLayer<Faulty> target(Faulty(NullTarget{{.size_bytes = 1 << 20}}, faults), throttle_);
  EXPECT_EQ(target.geometry().size_bytes, 1u << 20);
  QueueDriver<LimitLayer<Faulty>> queue(target);
  RequestBuffer buffer(4096, 'x');
  EXPECT_EQ(queue.Read(8192, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Write(8192, buffer), Result::Error(EIO));
  EXPECT_EQ(queue.Read(4096, buffer), Result::Ok()) << "after having waited";
  EXPECT_TRUE(buffer.AllAre(0));
  EXPECT_EQ(queue.Do({.op = ublk::Op::kDiscard, .length_bytes = 4096}), Result::Ok());
  EXPECT_EQ(queue.Do({.op = ublk::Op::kFlush}), Result::Error(EOPNOTSUPP));
}

TEST_F(ThrottleTest, ADeviceThatEndsLetsPass) {
  throttle_ =
      std::make_shared<Throttle>(IoLimits{.iops = 1, .burst_ios = 1}, [this] { return now_ns_; });
  const auto target = MakeNullTarget(1 << 20, 512, throttle_);
  ASSERT_TRUE(target.ok()) << target.status();
  Line& line = AddLine();
  line.SendReads(10);
  EXPECT_EQ(passed_.size(), 1u);
  (*target)->LetPass();
  Look();
  EXPECT_EQ(passed_.size(), 10u);
}

}  // namespace
}  // namespace ublkd::target
