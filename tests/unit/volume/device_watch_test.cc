// SPDX-License-Identifier: Apache-2.0
//
// What the log says about backends in trouble.
#include "daemon/volume/device_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "tests/unit/volume/device_fixture.h"

namespace ublkd::volume {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ublk::Op;

/// The counters of one device, as its queue threads would have them.
class Counters {
 public:
  explicit Counters(uint32_t id) {
    snapshot_.view.id = id;
    snapshot_.view.spec = VolumeDevice("p/a");
    snapshot_.stats.queues.resize(2);
  }
  void Fail(Op op, int error_number, uint64_t times = 1) {
    ublk::OpStats& stats = snapshot_.stats.queues[1].ops[static_cast<size_t>(op)];
    stats.ios += times;
    stats.errors += times;
    stats.last_errno = error_number;
    stats.last_error_ns = ++clock_;
  }
  void HoldFor(absl::Duration time) {
    snapshot_.stats.queues[0].oldest_request_ns =
        static_cast<uint64_t>(absl::ToInt64Nanoseconds(time));
    snapshot_.stats.queues[0].ops[0].in_flight = time > absl::ZeroDuration() ? 3 : 0;
  }
  void MakeAgain() {
    const uint32_t id = snapshot_.view.id;
    *this = Counters(id);
    snapshot_.view.created_at = absl::Now();
  }
  void TakeOver() {
    const WatchedDevice before = Watched();
    *this = Counters(before.id);
    snapshot_.view.created_at = before.created_at;
    generation_ = before.generation + 1;
  }
  const ublk::DeviceStats& stats() const { return snapshot_.stats; }
  WatchedDevice Watched() {
    uint64_t requests = snapshot_.stats.in_flight();
    for (const Op op : ublk::kAllOps) requests += snapshot_.stats.Total(op).ios;
    return {snapshot_.view.id,
            snapshot_.view.created_at,
            generation_,
            snapshot_.view.spec,
            requests,
            [this] {
              ++reads_;
              return snapshot_.stats;
            },
            [this] { ++given_back_; }};
  }
  /// How often the counters were read.
  int reads() const { return reads_; }
  /// How often it was to give its memory back.
  int given_back() const { return given_back_; }

 private:
  DeviceSnapshot snapshot_;
  uint64_t generation_ = 1;
  uint64_t clock_ = 0;
  int reads_ = 0;
  int given_back_ = 0;
};

class DeviceWatchTest : public ::testing::Test {
 protected:
  /// The lines of a look that comes `later` than the one before.
  std::vector<std::string> Look(absl::Duration later = absl::Seconds(1)) {
    now_ += later;
    testing::internal::CaptureStderr();
    watch_.Look({first_.Watched(), second_.Watched()}, now_);
    return absl::StrSplit(testing::internal::GetCapturedStderr(), '\n', absl::SkipEmpty());
  }

  DeviceWatch watch_{DeviceWatch::Options()};
  absl::Time now_ = absl::Now();
  Counters first_{0};
  Counters second_{7};
};

TEST_F(DeviceWatchTest, ErrorsAreOneLineWhenTheyBeginAndOneWhenTheyHaveEnded) {
  EXPECT_THAT(Look(), IsEmpty());
  second_.Fail(Op::kRead, EIO, 2);
  second_.Fail(Op::kWrite, ENOSPC, 10);
  EXPECT_THAT(Look(),
              ElementsAre(AllOf(HasSubstr("\"level\":\"error\""),
                                HasSubstr("\"message\":\"device has I/O errors\""),
                                HasSubstr("\"device\":7"), HasSubstr("\"target\":\"volume p/a\""),
                                HasSubstr("\"op\":\"read write\""), HasSubstr("\"errors\":12"),
                                HasSubstr("\"last_error\":\"No space left on device\""))));
  for (int i = 0; i < 100; ++i) {
    second_.Fail(Op::kWrite, ENOSPC);
    EXPECT_THAT(Look(), IsEmpty()) << "no line for each error";
  }
  EXPECT_THAT(Look(absl::Seconds(29)), IsEmpty());
  EXPECT_THAT(Look(),
              ElementsAre(AllOf(HasSubstr("\"level\":\"info\""), HasSubstr("no more I/O errors"),
                                HasSubstr("\"device\":7"), HasSubstr("\"errors\":112"))));
  EXPECT_THAT(Look(absl::Seconds(100)), IsEmpty());
  second_.Fail(Op::kFlush, EIO);
  EXPECT_THAT(Look(), ElementsAre(HasSubstr("\"op\":\"flush\"")));
}

TEST_F(DeviceWatchTest, ABackendThatHangsIsOneLineAndOneWhenItAnswers) {
  first_.HoldFor(absl::Seconds(29));
  EXPECT_THAT(Look(), IsEmpty());
  first_.HoldFor(absl::Seconds(30));
  EXPECT_THAT(Look(),
              ElementsAre(AllOf(HasSubstr("does not answer"), HasSubstr("\"device\":0"),
                                HasSubstr("\"requests\":3"), HasSubstr("\"oldest_seconds\":30"))));
  first_.HoldFor(absl::Seconds(95));
  EXPECT_THAT(Look(), IsEmpty());
  first_.HoldFor(absl::ZeroDuration());
  EXPECT_THAT(Look(),
              ElementsAre(AllOf(HasSubstr("answers again"), HasSubstr("\"waited_seconds\":95"))));
  EXPECT_THAT(Look(), IsEmpty());
}

TEST_F(DeviceWatchTest, CountersOfADeviceThatNobodyUsesAreNotRead) {
  for (int i = 0; i < 5; ++i) Look();
  EXPECT_EQ(first_.reads(), 1);
  first_.HoldFor(absl::Seconds(1));
  for (int i = 0; i < 5; ++i) Look();
  EXPECT_EQ(first_.reads(), 6) << "a request that is held may hang";
  first_.HoldFor(absl::ZeroDuration());
  first_.Fail(Op::kRead, EIO);
  EXPECT_EQ(Look().size(), 1u);
  EXPECT_EQ(Look(absl::Seconds(31)).size(), 1u) << "the errors are over";
  for (int i = 0; i < 5; ++i) Look();
  EXPECT_EQ(first_.reads(), 8);
  EXPECT_EQ(second_.reads(), 1);
}

TEST_F(DeviceWatchTest, MemoryIsGivenBackOnceAfterEachUse) {
  Look();
  Look(absl::Seconds(29));
  EXPECT_EQ(first_.given_back(), 0);
  Look();
  EXPECT_EQ(first_.given_back(), 1) << "the search for partitions has used some";
  Look(absl::Hours(1));
  EXPECT_EQ(first_.given_back(), 1);
  first_.HoldFor(absl::Seconds(1));
  Look();
  Look(absl::Minutes(1));
  EXPECT_EQ(first_.given_back(), 1) << "it is held";
  first_.HoldFor(absl::ZeroDuration());
  Look();
  Look(absl::Seconds(30));
  EXPECT_EQ(first_.given_back(), 2);
  EXPECT_EQ(second_.given_back(), 1);
}

TEST_F(DeviceWatchTest, ADeviceThatWasMadeAnewBeginsAnew) {
  first_.Fail(Op::kRead, EIO, 5);
  EXPECT_EQ(Look().size(), 1u);
  first_.MakeAgain();
  EXPECT_THAT(Look(), IsEmpty());
  first_.Fail(Op::kRead, EIO);
  EXPECT_THAT(Look(), ElementsAre(HasSubstr("\"errors\":1,")));
  first_.Fail(Op::kRead, EIO, 5);
  EXPECT_THAT(Look(), IsEmpty());
  first_.TakeOver();
  EXPECT_THAT(Look(), IsEmpty());
  first_.Fail(Op::kRead, EIO);
  EXPECT_THAT(Look(), ElementsAre(HasSubstr("\"errors\":1,")));
}

/// What is logged as long as it lives, by all threads.
class LogReader {
 public:
  LogReader()
      : log_(memfd_create("log", MFD_CLOEXEC)), before_(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) {
    dup2(log_.get(), STDERR_FILENO);
  }
  ~LogReader() { dup2(before_.get(), STDERR_FILENO); }
  std::string Read() const {
    std::string text(64 << 10, '\0');
    const ssize_t length = pread(log_.get(), text.data(), text.size(), 0);
    text.resize(length > 0 ? static_cast<size_t>(length) : 0);
    return text;
  }

 private:
  UniqueFd log_;
  UniqueFd before_;
};

class WatchedDevicesTest : public DeviceFixture {};

TEST_F(WatchedDevicesTest, TroubleIsInTheLogAndInWhatIsShown) {
  Start();
  ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  EXPECT_THAT(devices_->Get(0)->errors, IsEmpty());
  Counters counters(0);
  counters.Fail(Op::kWrite, ENOSPC, 12);
  counters.HoldFor(absl::Seconds(40));
  const LogReader log;
  factory_.SetStats(0, counters.stats());
  const auto view = devices_->Get(0);
  ASSERT_THAT(view, IsOk());
  ASSERT_EQ(view->errors.size(), 1u);
  EXPECT_EQ(view->errors[0].op, Op::kWrite);
  EXPECT_EQ(view->errors[0].count, 12u);
  EXPECT_EQ(view->errors[0].last_errno, ENOSPC);
  EXPECT_EQ(view->oldest_request, absl::Seconds(40));
  // The watch looks each millisecond here.
  EXPECT_TRUE(Eventually([&log] {
    return absl::StrContains(log.Read(), "does not answer") &&
           absl::StrContains(log.Read(), "I/O errors");
  })) << log.Read();
}

TEST_F(WatchedDevicesTest, ABackendThatHangsKeepsNobodyElseFromBeingLeft) {
  factory_.OutliveServers();
  Start();
  for (int i = 0; i < 3; ++i) ASSERT_THAT(devices_->Create(NullDevice()), IsOk());
  factory_.SetStuck(1, true);
  EXPECT_FALSE(devices_->Shutdown(std::chrono::milliseconds(0)));
  EXPECT_EQ(factory_.kernel()[0], -1) << "left to the next server";
  EXPECT_EQ(factory_.kernel()[1], getpid());
  EXPECT_EQ(factory_.kernel()[2], -1);
  factory_.SetStuck(1, false);
}

}  // namespace
}  // namespace ublkd::volume
