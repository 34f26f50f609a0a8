// SPDX-License-Identifier: Apache-2.0
//
// Servers that spread the tags of a queue over threads and rings.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>

#include "tests/vm/driver/disk_user.h"
#include "tests/vm/driver/raw_server.h"

namespace ublkd::driver_test {
namespace {

constexpr uint16_t kDepth = 8;

TEST(Lanes, EachTagIsServedByTheThreadThatFetchedIt_R41) {
  Control control;
  if ((control.Features() & UBLK_F_PER_IO_DAEMON) == 0) GTEST_SKIP() << "no such feature";
  const Geometry geometry = {.queues = 1, .depth = kDepth, .flags = UBLK_F_PER_IO_DAEMON};
  SharedMemory ram(geometry.bytes);
  Device device(control, geometry);
  std::mutex mutex;
  std::vector<std::set<std::thread::id>> served_by(kDepth);
  const Handler inner = RamHandler(ram.data());
  Server server(device.id(), device.geometry(),
                [&](const Request& request) {
                  {
                    const std::lock_guard lock(mutex);
                    served_by[request.tag].insert(std::this_thread::get_id());
                  }
                  return inner(request);
                },
                {.threads_per_queue = 3});
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  {
    VerifiedLoad load(device.disk(), 6);
    ASSERT_TRUE(Eventually([&] {
      const std::lock_guard lock(mutex);
      return std::none_of(served_by.begin(), served_by.end(),
                          [](const auto& threads) { return threads.empty(); });
    })) << "not every tag was used";
    load.Finish();
    EXPECT_EQ(load.errors(), 0);
    EXPECT_EQ(load.wrong(), 0);
  }
  const std::lock_guard lock(mutex);
  std::set<std::thread::id> all;
  for (int tag = 0; tag < kDepth; ++tag) {
    EXPECT_EQ(served_by[size_t(tag)].size(), 1U) << "tag " << tag << " went to several threads";
    all.merge(served_by[size_t(tag)]);
  }
  EXPECT_EQ(all.size(), 3U);
  EXPECT_EQ(control.Stop(device.id()), 0);
}

TEST(Lanes, OtherThreadsOfTheQueueMayNotCommit_R41) {
  Control control;
  if ((control.Features() & UBLK_F_PER_IO_DAEMON) == 0) GTEST_SKIP() << "no such feature";
  const Geometry geometry = {
      .depth = 2, .flags = UBLK_F_PER_IO_DAEMON | UBLK_F_NO_AUTO_PART_SCAN, .discard = false};
  Device device(control, geometry);
  Valve valve;
  Server server(device.id(), device.geometry(), ValveHandler(&valve, AnswerAll()),
                {.threads_per_queue = 2});
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  OpenDisk disk(device.disk());
  valve.setting = Valve::kHold;
  // Both tags: tag 0 is with the first thread, tag 1 with the second.
  const PendingIo first(disk, PendingIo::Op::kRead, 0);
  const PendingIo second(disk, PendingIo::Op::kRead, 8192);
  ASSERT_TRUE(Eventually([&] { return valve.held == 2; }));
  server.InThread(0, [&](QueueServer& queue) {
    EXPECT_EQ(queue.Try(UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0, 1, 4096, queue.Buffer(1)), -EINVAL)
        << "the other thread's tag";
  });
  for (const uint16_t tag : {0, 1}) {
    server.InThread(
        0, [&](QueueServer& queue) { queue.Commit(tag, 4096); }, tag);
  }
  EXPECT_EQ(first.Result(), 4096);
  EXPECT_EQ(second.Result(), 4096);
  disk.Close();
  EXPECT_EQ(control.Stop(device.id()), 0);
}

// A server of one thread that commits every request through the ring that it did not come from.
class TwoRings {
 public:
  TwoRings(uint32_t id, uint64_t max_io_bytes, Handler handler, unsigned ring_flags)
      : handler_(std::move(handler)), max_io_bytes_(max_io_bytes) {
    fd_ = open(CharPath(id).c_str(), O_RDWR | O_CLOEXEC);
    descs_ = static_cast<ublksrv_io_desc*>(
        mmap(nullptr, 4096, PROT_READ, MAP_SHARED | MAP_POPULATE, fd_, 0));
    buffers_ = std::vector<std::byte>(kDepth * max_io_bytes);
    thread_ = std::thread([this, ring_flags] { Run(ring_flags); });
  }
  ~TwoRings() {
    thread_.join();
    munmap(descs_, 4096);
    close(fd_);
  }
  TwoRings(const TwoRings&) = delete;
  TwoRings& operator=(const TwoRings&) = delete;

  int commits(int ring) const { return commits_[ring]; }

 private:
  void Send(Ring& ring, uint32_t op, uint16_t tag, int result) {
    io_uring_sqe* sqe = ring.Command(fd_, op);
    const ublksrv_io_cmd command = {
        .q_id = 0,
        .tag = tag,
        .result = result,
        .addr = reinterpret_cast<uintptr_t>(buffers_.data() + tag * max_io_bytes_)};
    std::memcpy(sqe->cmd, &command, sizeof(command));
    sqe->user_data = tag;
    ++armed_;
  }

  // Answers one request of a ring through the other.
  bool ServeOne(Ring& from, Ring& to, std::atomic<int>& commits) {
    io_uring_cqe* cqe = nullptr;
    if (io_uring_peek_cqe(from.get(), &cqe) != 0) return false;
    const auto tag = static_cast<uint16_t>(cqe->user_data);
    const int res = cqe->res;
    io_uring_cqe_seen(from.get(), cqe);
    --armed_;
    if (res != UBLK_IO_RES_OK) return true;
    const Request request = {.queue = 0,
                             .tag = tag,
                             .desc = &descs_[tag],
                             .buffer = buffers_.data() + tag * max_io_bytes_};
    Send(to, UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, *handler_(request));
    ++commits;
    return true;
  }

  void Run(unsigned ring_flags) {
    Ring rings[2] = {Ring(kDepth * 2, ring_flags), Ring(kDepth * 2, ring_flags)};
    const int wake_fd = eventfd(0, EFD_CLOEXEC);
    for (Ring& ring : rings) io_uring_register_eventfd(ring.get(), wake_fd);
    for (uint16_t tag = 0; tag < kDepth; ++tag) Send(rings[0], UBLK_U_IO_FETCH_REQ, tag, 0);
    for (;;) {
      for (Ring& ring : rings) io_uring_submit_and_get_events(ring.get());
      bool served = false;
      while (ServeOne(rings[0], rings[1], commits_[1])) served = true;
      while (ServeOne(rings[1], rings[0], commits_[0])) served = true;
      if (armed_ == 0) break;
      uint64_t wakes = 0;
      if (!served && read(wake_fd, &wakes, sizeof(wakes)) < 0) break;
    }
    close(wake_fd);
  }

  const Handler handler_;
  const uint64_t max_io_bytes_;
  int fd_ = -1;
  ublksrv_io_desc* descs_ = nullptr;
  std::vector<std::byte> buffers_;
  int armed_ = 0;
  std::atomic<int> commits_[2] = {0, 0};
  std::thread thread_;
};

class OtherRing : public testing::TestWithParam<unsigned> {};

TEST_P(OtherRing, OfTheSameThreadMayCommit_R41) {
  if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers take one ring";
  const Geometry geometry = {.queues = 1, .depth = kDepth};
  Control control;
  SharedMemory ram(geometry.bytes);
  Device device(control, geometry);
  TwoRings server(device.id(), geometry.max_io_bytes, RamHandler(ram.data()), GetParam());
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  VerifiedLoad load(device.disk(), 4);
  EXPECT_TRUE(Eventually([&] { return load.done() > 200; })) << "I/O hangs";
  load.Finish();
  EXPECT_EQ(load.errors(), 0);
  EXPECT_EQ(load.wrong(), 0);
  EXPECT_GT(server.commits(0), 100);
  EXPECT_GT(server.commits(1), 100);
  EXPECT_EQ(control.Stop(device.id()), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Rings, OtherRing,
    testing::Values(0U, unsigned{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN}),
    [](const auto& flags) { return std::string(flags.param == 0 ? "Plain" : "Deferred"); });

// The ring that the tags were fetched with is closed; the other one goes on.
TEST(Lanes, ACommittedTagDoesNotNeedItsFirstRing_R41_R74) {
  if (!DriverIsOurs()) GTEST_SKIP() << "stock drivers take one ring";
  Control control;
  const Geometry geometry = {.depth = 1, .flags = UBLK_F_NO_AUTO_PART_SCAN};
  Device device(control, geometry);
  ASSERT_EQ(device.error(), 0);
  std::atomic<bool> moved = false;
  std::thread server([&] {
    const int fd = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
    std::vector<std::byte> buffer(geometry.max_io_bytes);
    auto first = std::make_unique<Ring>(8, 0);
    Ring second(8, 0);
    const auto send = [&](Ring& ring, uint32_t op) {
      io_uring_sqe* sqe = ring.Command(fd, op);
      const ublksrv_io_cmd command = {
          .q_id = 0, .tag = 0, .result = 4096, .addr = reinterpret_cast<uintptr_t>(buffer.data())};
      std::memcpy(sqe->cmd, &command, sizeof(command));
    };
    send(*first, UBLK_U_IO_FETCH_REQ);
    EXPECT_EQ(first->Finish(), UBLK_IO_RES_OK);
    send(second, UBLK_U_IO_COMMIT_AND_FETCH_REQ);
    io_uring_submit(second.get());
    first.reset();
    moved = true;
    while (second.Finish() == UBLK_IO_RES_OK) send(second, UBLK_U_IO_COMMIT_AND_FETCH_REQ);
    close(fd);
  });
  ASSERT_EQ(control.Start(device.id(), getpid()), 0);
  {
    const OpenDisk disk(device.disk());
    EXPECT_EQ(disk.Read(0), 4096);
    ASSERT_TRUE(Eventually([&] { return moved.load(); }));
    for (int i = 0; i < 5; ++i) {
      const PendingIo io(disk, PendingIo::Op::kRead, 4096 * i);
      ASSERT_EQ(io.Result(), 4096) << "I/O must go to the ring that is left";
    }
  }
  EXPECT_EQ(control.State(device.id()), UBLK_S_DEV_LIVE);
  EXPECT_EQ(control.Stop(device.id()), 0);
  server.join();
}

}  // namespace
}  // namespace ublkd::driver_test
