// SPDX-License-Identifier: Apache-2.0
//
// Tracepoints: a request is seen when the server gets it and when it answers, a server when it ends
// and when the next one takes over.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <mutex>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/recovery_fixture.h"
#include "tests/vm/driver/trace_log.h"

namespace ublkd::driver_test {
namespace {

using Op = PendingIo::Op;
using Texts = std::vector<std::string>;

template <typename... Args>
std::string Text(const char* format, Args... args) {
  char text[256];
  const int length = std::snprintf(text, sizeof(text), format, args...);
  return {text, static_cast<size_t>(length)};
}

Texts Sorted(Texts texts) {
  std::sort(texts.begin(), texts.end());
  return texts;
}

// What a server got and answered, as the tracepoints should tell it.
class Record {
 public:
  explicit Record(Handler inner) : inner_(std::move(inner)) {}

  Handler handler() {
    return [this](const Request& request) -> std::optional<int> {
      const std::optional<int> result = inner_(request);
      const int bytes = *result < 0 ? 0 : static_cast<int>(request.bytes());
      const std::lock_guard lock(mutex_);
      dispatches_.push_back(Text("ublk%u queue=%u tag=%u op_flags=0x%x start=%llu sectors=%u",
                                 id.load(), request.queue, request.tag, request.desc->op_flags,
                                 static_cast<unsigned long long>(request.desc->start_sector),
                                 request.desc->nr_sectors));
      commits_.push_back(Text("ublk%u queue=%u tag=%u res=%d bytes=%d", id.load(), request.queue,
                              request.tag, *result, bytes));
      return result;
    };
  }
  Texts dispatches() {
    const std::lock_guard lock(mutex_);
    return dispatches_;
  }
  Texts commits() {
    const std::lock_guard lock(mutex_);
    return commits_;
  }

  std::atomic<uint32_t> id = 0;

 private:
  const Handler inner_;
  std::mutex mutex_;
  Texts dispatches_;
  Texts commits_;
};

TEST(Trace, TellsOfEachRequestOnceWhenItGoesAndWhenItIsAnswered) {
  if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers have no tracepoints";
  constexpr off_t kBad = 1 << 20;
  const Geometry geometry = {.queues = 2, .depth = 8};
  SharedMemory ram(geometry.bytes);
  const Handler inner = RamHandler(ram.data());
  Record record([&](const Request& request) -> std::optional<int> {
    return request.offset() == kBad ? -EIO : inner(request);
  });
  LiveDevice live(geometry, record.handler());
  record.id = live.id();
  const PageBuffer buffer(geometry.max_io_bytes * 2);
  {
    TraceLog log("ublk");
    ASSERT_TRUE(log.works()) << "no tracepoints under events/ublk";
    EXPECT_EQ(WriteAt(live.fd, buffer.data(), kPage, 8192), int{kPage});
    EXPECT_EQ(ReadAt(live.fd, buffer.data(), 2 * kPage, 0), int{2 * kPage});
    EXPECT_EQ(ReadAt(live.fd, buffer.data(), kPage, kBad), -EIO);
    // More than a request may have.
    EXPECT_EQ(WriteAt(live.fd, buffer.data(), geometry.max_io_bytes * 2, 4 << 20),
              static_cast<int>(geometry.max_io_bytes * 2));
    log.Stop();
    EXPECT_GE(record.dispatches().size(), 5U);
    EXPECT_EQ(Sorted(log.Of("ublk_dispatch")), Sorted(record.dispatches()));
    EXPECT_EQ(Sorted(log.Of("ublk_commit")), Sorted(record.commits()));
    EXPECT_EQ(log.Of("ublk_abort"), Texts());
    EXPECT_EQ(log.Of("ublk_recover"), Texts());
  }
  // A second look begins empty, and without one nothing is recorded.
  EXPECT_EQ(ReadAt(live.fd, buffer.data(), kPage, 0), int{kPage});
  const TraceLog again("ublk");
  EXPECT_EQ(again.Of("ublk_dispatch"), Texts());
}

using TraceOfServers = RecoveryTest;

TEST_F(TraceOfServers, TellsOfTheirEndsAndOfTheNextOnes) {
  Start({.depth = 4, .flags = kReissue});
  HoldRequests();
  const TraceLog log("ublk");
  ASSERT_TRUE(log.works());
  const auto io = Begin(Op::kWrite, 1);
  ASSERT_TRUE(HoldsRequests(1));
  KillServer();
  ExpectRecoverable();
  const std::string end = Text("ublk%u state=%d", id(), UBLK_S_DEV_LIVE);
  EXPECT_EQ(log.Of("ublk_abort"), Texts{end});
  EXPECT_EQ(log.Of("ublk_commit"), Texts()) << "the dead server has answered nothing";
  Recover();
  EXPECT_EQ(io->Result(), 4096);
  EXPECT_EQ(log.Of("ublk_recover"), Texts{Text("ublk%u server=%d", id(), server_->pid())});
  EXPECT_EQ(log.Of("ublk_dispatch").size(), 2U) << "each server was given the request";
  EXPECT_EQ(log.Of("ublk_commit").size(), 1U);
  disk_->Close();
  EXPECT_EQ(control_.Stop(id()), 0);
  EXPECT_EQ(log.Of("ublk_abort"), (Texts{end, Text("ublk%u state=%d", id(), UBLK_S_DEV_DEAD)}))
      << "a stop ends a server that has no disk any more";
}

// Where io_uring says nothing of the end of servers they have to be looked at now and then.
TEST(Watching, CostsTheSameForManyServersAsForOne) {
  if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers watch each server by itself, or not at all";
  constexpr int kDevices = 20;
  constexpr std::chrono::milliseconds kPeriod{250};
  using Clock = std::chrono::steady_clock;
  std::vector<std::unique_ptr<LiveDevice>> devices;
  for (int i = 0; i < kDevices; ++i) {
    devices.push_back(std::make_unique<LiveDevice>(
        Geometry{.depth = 1, .bytes = 1 << 20, .max_io_bytes = 4096}, AnswerAll()));
  }
  const auto count_works = [&](std::chrono::milliseconds time, size_t& most) {
    TraceLog log("workqueue/workqueue_execute_start");
    EXPECT_TRUE(log.works());
    const auto begin = Clock::now();
    // Not to wait for something, but to count what happens meanwhile.
    std::this_thread::sleep_for(time);
    log.Stop();
    most = static_cast<size_t>((Clock::now() - begin) / kPeriod) + 1;
    const Texts works = log.Of("workqueue_execute_start");
    return static_cast<size_t>(std::count_if(works.begin(), works.end(), [](const auto& text) {
      return text.find("ublk_") != std::string::npos;
    }));
  };
  size_t most = 0;
  const size_t with_servers = count_works(kPeriod * 6, most);
  EXPECT_LE(with_servers, most) << kDevices << " idle servers";
  devices.resize(1);
  EXPECT_LE(count_works(kPeriod * 3, most), most) << "one idle server";
  devices.clear();
  EXPECT_EQ(count_works(kPeriod * 2, most), 0U) << "nobody is there to be watched";
}

}  // namespace
}  // namespace ublkd::driver_test
