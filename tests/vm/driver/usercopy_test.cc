// SPDX-License-Identifier: Apache-2.0
//
// UBLK_F_USER_COPY: the server reads and writes the data of its requests at places in the char
// device, from any thread, and whatever else happens to the request meanwhile.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/user_copy.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kUserCopy = UBLK_F_USER_COPY;
// Runs what it is given in a thread of its own, one at a time.
class OtherThread {
 public:
  int Run(const std::function<int()>& action) {
    const std::lock_guard lock(mutex_);
    action_ = &action;
    Wake(kWork);
    while (turn_ == kWork) turn_.wait(kWork);
    return result_;
  }
  OtherThread()
      : thread_([this] {
          for (;;) {
            turn_.wait(kIdle);
            if (turn_ == kEnd) return;
            result_ = (*action_)();
            Wake(kIdle);
          }
        }) {}
  ~OtherThread() {
    Wake(kEnd);
    thread_.join();
  }
  OtherThread(const OtherThread&) = delete;
  OtherThread& operator=(const OtherThread&) = delete;

 private:
  enum Turn { kIdle, kWork, kEnd };
  void Wake(Turn turn) {
    turn_ = turn;
    turn_.notify_all();
  }

  std::mutex mutex_;
  std::atomic<Turn> turn_ = kIdle;
  const std::function<int()>* action_ = nullptr;
  int result_ = 0;
  std::thread thread_;
};

enum class Copier {
  kOwnThread,
  kOtherThread,
  kPieces,  // of odd sizes, now by the one, now by the other
};

struct Shape {
  uint16_t queues;
  Copier copier;
  unsigned ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
};

class UserCopyData : public testing::TestWithParam<Shape> {};

// Copies the data of a request piece by piece.
int CopyInPieces(const Request& request, std::byte* place, OtherThread& other) {
  constexpr size_t kPiece = 5000;
  const bool write = request.op() == UBLK_IO_OP_WRITE;
  bool mine = true;
  for (size_t done = 0; done < request.bytes(); mine = !mine) {
    const std::function<int()> copy = [&] {
      const size_t bytes = std::min(kPiece, request.bytes() - done);
      const off_t at = UserCopyAt(request.queue, request.tag, done);
      return write ? ReadAt(request.fd, place + done, bytes, at)
                   : WriteAt(request.fd, place + done, bytes, at);
    };
    const int n = mine ? copy() : other.Run(copy);
    if (n <= 0) return n < 0 ? n : -EIO;
    done += static_cast<size_t>(n);
  }
  return static_cast<int>(request.bytes());
}

TEST_P(UserCopyData, RandomWritesAreReadBack_R33) {
  const Shape shape = GetParam();
  const Geometry geometry = {.queues = shape.queues, .depth = 32, .flags = kUserCopy};
  SharedMemory ram(geometry.bytes);
  OtherThread other;
  const Handler direct = UserCopyRam(ram.data());
  const Handler handler = [&](const Request& request) -> std::optional<int> {
    const bool has_data = request.op() == UBLK_IO_OP_READ || request.op() == UBLK_IO_OP_WRITE;
    if (shape.copier == Copier::kOtherThread) {
      return other.Run([&] { return *direct(request); });
    }
    if (shape.copier == Copier::kPieces && has_data) {
      return CopyInPieces(request, ram.data() + request.offset(), other);
    }
    return direct(request);
  };
  const LiveDevice live(geometry, handler, {.ring_flags = shape.ring_flags});
  ASSERT_NE(live.device->info().flags & kUserCopy, 0U) << "ADD_DEV must grant USER_COPY";
  EXPECT_EQ(CountWrongIos(live.fd, geometry.bytes, kSectorBytes, 120), 0)
      << "I/Os that failed or returned other data than was written";
}

INSTANTIATE_TEST_SUITE_P(Shapes, UserCopyData,
                         testing::Values(Shape{1, Copier::kOwnThread}, Shape{4, Copier::kOwnThread},
                                         Shape{1, Copier::kOtherThread},
                                         Shape{4, Copier::kOtherThread}, Shape{2, Copier::kPieces},
                                         Shape{2, Copier::kOwnThread, 0}),
                         [](const testing::TestParamInfo<Shape>& shape) {
                           return "queues" + std::to_string(shape.param.queues) + "_case" +
                                  std::to_string(shape.index);
                         });

// A device whose server keeps its requests for as long as the test wants.
class UserCopy : public testing::Test {
 protected:
  void StartDevice(Geometry geometry) {
    geometry.flags |= kUserCopy;
    ram_ = std::make_unique<SharedMemory>(geometry.bytes);
    live_ = std::make_unique<LiveDevice>(geometry, KeepIf(&keep_, UserCopyRam(ram_->data())));
    chan_ = live_->server->fd();
  }
  // A request that the server keeps from now on; returns its tag.
  uint16_t Keep(bool write, size_t bytes, std::byte* buffer) {
    keep_ = true;
    const size_t count = ios_.size() + 1;
    ios_.push_back(std::async(std::launch::async, [this, write, bytes, buffer] {
      return write ? WriteAt(live_->fd, buffer, bytes, 0) : ReadAt(live_->fd, buffer, bytes, 0);
    }));
    const uint16_t tag = live_->KeptTag(0, count).value_or(0);
    keep_ = false;
    return tag;
  }
  // Results of the kept requests, all committed with success.
  std::vector<int> Finish() {
    live_->CommitKept();
    std::vector<int> results;
    for (auto& io : ios_) results.push_back(io.get());
    ios_.clear();
    return results;
  }
  void TearDown() override {
    if (!ios_.empty()) Finish();
    live_.reset();
  }

  std::atomic<bool> keep_ = false;
  std::unique_ptr<SharedMemory> ram_;
  std::unique_ptr<LiveDevice> live_;
  int chan_ = -1;
  std::vector<std::future<int>> ios_;
};

TEST_F(UserCopy, PlacesOutsideOfRequestsAreRefused_R33) {
  StartDevice({.queues = 1, .depth = 4});
  const PageBuffer buffer(16384);
  std::vector<char> memory(65536);
  const uint16_t tag = Keep(true, 16384, buffer.data());
  const auto expect_refused = [&](off_t at, const char* what) {
    EXPECT_EQ(ReadAt(chan_, memory.data(), 512, at), -EINVAL) << what;
    EXPECT_EQ(WriteAt(chan_, memory.data(), 512, at), -EINVAL) << what;
  };
  const auto try_all = [&] {
    expect_refused(0, "offset 0");
    expect_refused(UBLKSRV_IO_BUF_OFFSET - 512, "below the first place");
    expect_refused(UserCopyAt(live_->geometry().queues, 0), "no such queue");
    expect_refused(UserCopyAt(UBLK_MAX_NR_QUEUES - 1, tag), "no such queue");
    expect_refused(UserCopyAt(0, live_->geometry().depth), "no such tag");
    expect_refused(UserCopyAt(0, UBLK_TAG_BITS_MASK), "no such tag");
    expect_refused(UserCopyAt(0, tag) + off_t(UBLKSRV_IO_BUF_TOTAL_SIZE), "beyond all places");
    expect_refused(UserCopyAt(0, tag) | off_t(UBLKSRV_IO_INTEGRITY_FLAG), "integrity bytes");
    expect_refused(INT64_MAX - 512, "at the end of all numbers");
    expect_refused(UserCopyAt(0, (tag + 1) % 4), "a tag without a request");
    EXPECT_EQ(ReadAt(chan_, memory.data(), 512, UserCopyAt(0, tag, 16385)), -EINVAL)
        << "beyond the request";
    EXPECT_EQ(ReadAt(chan_, memory.data(), 512, UserCopyAt(0, tag, UBLK_IO_BUF_BITS_MASK)), -EINVAL)
        << "beyond the request";
    EXPECT_EQ(ReadAt(chan_, memory.data(), 512, UserCopyAt(0, tag, 16384)), 0)
        << "at the end of the request";
    EXPECT_EQ(ReadAt(chan_, memory.data(), 65536, UserCopyAt(0, tag, 16000)), 384)
        << "no more than the request has";
    EXPECT_EQ(ReadAt(chan_, memory.data(), 0, UserCopyAt(0, tag)), 0) << "nothing at all";
  };
  try_all();
  live_->server->InThread(0, [&](QueueServer&) { try_all(); });
  EXPECT_EQ(Finish(), std::vector<int>{16384}) << "refused copies must not harm the request";
  EXPECT_EQ(ReadAt(chan_, memory.data(), 512, UserCopyAt(0, tag)), -EINVAL)
      << "the request of the tag is over";
}

TEST_F(UserCopy, DataFlowsOneWayOnly_R33) {
  StartDevice({.queues = 1, .depth = 4});
  const PageBuffer written(kPage);
  const PageBuffer read(kPage);
  FillPattern(written.data(), kPage, 1);
  std::vector<std::byte> memory(kPage, std::byte{0x55});
  const uint16_t write_tag = Keep(true, kPage, written.data());
  const uint16_t read_tag = Keep(false, kPage, read.data());
  const auto try_both = [&] {
    EXPECT_EQ(WriteAt(chan_, memory.data(), kPage, UserCopyAt(0, write_tag)), -EACCES)
        << "data of a write belongs to its user";
    EXPECT_EQ(ReadAt(chan_, memory.data(), kPage, UserCopyAt(0, read_tag)), -EACCES)
        << "pages of a read hold whatever was there before";
  };
  try_both();
  live_->server->InThread(0, [&](QueueServer&) { try_both(); });
  EXPECT_TRUE(HoldsPattern(written.data(), kPage, 1)) << "the user's data was changed";
  EXPECT_EQ(WriteAt(chan_, memory.data(), kPage, UserCopyAt(0, read_tag)), 4096);
  EXPECT_EQ(Finish(), (std::vector<int>{4096, 4096}));
  EXPECT_TRUE(HoldsOnly(read.data(), kPage, std::byte{0x55}));
}

TEST_F(UserCopy, RequestsWithoutDataHaveNothingToCopy_R33) {
  StartDevice({.queues = 1, .depth = 4});
  char memory[512] = {};
  keep_ = true;
  ios_.push_back(std::async(std::launch::async, [this] {
    uint64_t range[2] = {0, kPage};
    return ioctl(live_->fd, BLKDISCARD, range);
  }));
  const uint16_t tag = live_->KeptTag().value_or(0);
  keep_ = false;
  EXPECT_EQ(ReadAt(chan_, memory, 512, UserCopyAt(0, tag)), -EACCES);
  EXPECT_EQ(WriteAt(chan_, memory, 512, UserCopyAt(0, tag)), -EACCES);
  EXPECT_EQ(Finish(), std::vector<int>{0});
}

// Pages of the page cache, or of another request, are not the server's memory.
TEST_F(UserCopy, OnlyTheServersMemoryTakesPart_R33) {
  StartDevice({.queues = 1, .depth = 4});
  const PageBuffer buffer(kPage);
  const PageBuffer fixed(kPage);
  const uint16_t tag = Keep(true, kPage, buffer.data());

  Ring ring(8, 0);
  iovec memory = {.iov_base = fixed.data(), .iov_len = kPage};
  ASSERT_EQ(io_uring_register_buffers(ring.get(), &memory, 1), 0);
  io_uring_prep_read_fixed(io_uring_get_sqe(ring.get()), chan_, fixed.data(), kPage,
                           static_cast<uint64_t>(UserCopyAt(0, tag)), 0);
  EXPECT_EQ(ring.Finish(), -EACCES) << "a registered buffer is pages of the kernel's choice";
  io_uring_prep_read(io_uring_get_sqe(ring.get()), chan_, fixed.data(), kPage,
                     static_cast<uint64_t>(UserCopyAt(0, tag)));
  EXPECT_EQ(ring.Finish(), 4096) << "a read by io_uring into plain memory is as good as pread()";

  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  off_t at = UserCopyAt(0, tag);
  EXPECT_EQ(splice(chan_, &at, pipe_fds[1], nullptr, kPage, 0), -1) << "splice from the request";
  at = UserCopyAt(0, tag);
  ASSERT_EQ(write(pipe_fds[1], "x", 1), 1);
  EXPECT_EQ(splice(pipe_fds[0], nullptr, chan_, &at, 1, 0), -1) << "splice into the request";
  const int file = memfd_create("target", MFD_CLOEXEC);
  at = UserCopyAt(0, tag);
  EXPECT_EQ(sendfile(file, chan_, &at, kPage), -1) << "sendfile from the request";
  close(file);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  EXPECT_EQ(Finish(), std::vector<int>{4096});
}

TEST_F(UserCopy, BadMemoryIsReported_R33) {
  StartDevice({.queues = 1, .depth = 4});
  const PageBuffer buffer(2 * kPage);
  FillPattern(buffer.data(), 2 * kPage, 3);
  const uint16_t tag = Keep(true, 2 * kPage, buffer.data());
  auto* memory = static_cast<std::byte*>(
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_EQ(mprotect(memory + kPage, kPage, PROT_NONE), 0);
  EXPECT_EQ(ReadAt(chan_, memory + kPage, 512, UserCopyAt(0, tag)), -EFAULT);
  EXPECT_EQ(ReadAt(chan_, memory, 2 * kPage, UserCopyAt(0, tag)), 4096)
      << "what was copied before the fault counts";
  EXPECT_TRUE(HoldsPattern(memory, kPage, 3));
  munmap(memory, 2 * kPage);
  EXPECT_EQ(Finish(), std::vector<int>{8192});
}

TEST_F(UserCopy, NeedsALiveDevice_R33) {
  char memory[512];
  Control control;
  Device device(control, {.flags = kUserCopy});
  ASSERT_EQ(device.error(), 0);
  const int chan = open(CharPath(device.id()).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(chan, 0);
  EXPECT_EQ(ReadAt(chan, memory, 512, UserCopyAt(0, 0)), -EACCES) << "before START_DEV";
  EXPECT_EQ(WriteAt(chan, memory, 512, UserCopyAt(0, 0)), -EACCES) << "before START_DEV";
  close(chan);

  StartDevice({.queues = 1, .depth = 4});
  const int kept_open = dup(chan_);
  close(live_->fd);
  live_->fd = -1;
  ASSERT_EQ(live_->control.Stop(live_->id()), 0);
  EXPECT_EQ(ReadAt(kept_open, memory, 512, UserCopyAt(0, 0)), -EACCES) << "after STOP_DEV";
  close(kept_open);
  live_->server->Close();
  live_->server.reset();
}

TEST_F(UserCopy, NeedsItsFlag_R33) {
  const Geometry geometry;
  SharedMemory ram(geometry.bytes);
  std::atomic<bool> keep = false;
  LiveDevice live(geometry, KeepIf(&keep, RamHandler(ram.data())));
  keep = true;
  const PageBuffer buffer(kPage);
  auto io =
      std::async(std::launch::async, [&] { return WriteAt(live.fd, buffer.data(), kPage, 0); });
  const uint16_t tag = live.KeptTag().value_or(0);
  keep = false;
  char memory[512];
  EXPECT_EQ(ReadAt(live.server->fd(), memory, 512, UserCopyAt(0, tag)), -EACCES);
  live.CommitKept();
  EXPECT_EQ(io.get(), 4096);
}

TEST_F(UserCopy, IsNothingForOrdinaryUsers_R06_R35) {
  Control control;
  const uint64_t features = control.Features();
  for (const uint64_t flag : {UBLK_F_USER_COPY, UBLK_F_SUPPORT_ZERO_COPY, UBLK_F_AUTO_BUF_REG}) {
    if ((features & flag) == 0) continue;
    ublksrv_ctrl_dev_info info = InfoOf({.flags = flag | UBLK_F_UNPRIVILEGED_DEV});
    const int err = control.Add(info);
    EXPECT_EQ(err, -EINVAL) << "flag " << flag << " lets a server see pages of the kernel";
    if (err == 0) control.Delete(info.dev_id);
  }
}

TEST_F(UserCopy, CommandsCarryNoBuffer_R40) {
  {
    Control control;
    const Device device(control, {.queues = 1, .depth = 4, .flags = kUserCopy});
    Server server(device.id(), device.geometry(), UserCopyRam(nullptr), {.fetch_only = 2});
    server.InThread(0, [&](QueueServer& q) {
      EXPECT_EQ(q.Try(UBLK_U_IO_FETCH_REQ, 0, 2, 0, q.Buffer(0)), -EINVAL) << "FETCH with a buffer";
    });
    ASSERT_EQ(control.Stop(device.id()), 0);
  }
  StartDevice({.queues = 1, .depth = 4});
  const PageBuffer buffer(kPage);
  const uint16_t tag = Keep(true, kPage, buffer.data());
  live_->server->InThread(0, [&](QueueServer& q) {
    EXPECT_EQ(q.Try(UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0, tag, 4096, q.Buffer(0)), -EINVAL)
        << "COMMIT with a buffer";
    EXPECT_EQ(q.Try(UBLK_U_IO_NEED_GET_DATA, 0, tag, 0, q.Buffer(0)), -EBUSY)
        << "there is no data to get";
  });
  EXPECT_EQ(ReadAt(chan_, buffer.data(), 512, UserCopyAt(0, tag)), 512)
      << "a refused COMMIT must leave the request where it is";
  EXPECT_EQ(Finish(), std::vector<int>{4096});
}

TEST_F(UserCopy, ShortResultsAreContinued_R48) {
  constexpr size_t kAtMost = 1536;
  const Geometry geometry = {.flags = kUserCopy};
  SharedMemory ram(geometry.bytes);
  const LiveDevice live(geometry, [&](const Request& request) -> std::optional<int> {
    const size_t bytes = std::min(request.bytes(), kAtMost);
    const off_t at = UserCopyAt(request.queue, request.tag);
    std::byte* place = ram.data() + request.offset();
    return request.op() == UBLK_IO_OP_WRITE ? ReadAt(request.fd, place, bytes, at)
                                            : WriteAt(request.fd, place, bytes, at);
  });
  const PageBuffer buffer(4 * kPage);
  FillPattern(buffer.data(), 4 * kPage, 9);
  ASSERT_EQ(WriteAt(live.fd, buffer.data(), 4 * kPage, kPage), 16384);
  EXPECT_TRUE(HoldsPattern(ram.data() + kPage, 4 * kPage, 9))
      << "the rest of a short write is lost";
  std::memset(buffer.data(), 0, 4 * kPage);
  ASSERT_EQ(ReadAt(live.fd, buffer.data(), 4 * kPage, kPage), 16384);
  EXPECT_TRUE(HoldsPattern(buffer.data(), 4 * kPage, 9)) << "the rest of a short read is lost";
}

TEST_F(UserCopy, ReadOfNothingIsAnError_R36_R48) {
  const Geometry geometry = {.flags = kUserCopy};
  const LiveDevice live(geometry, [](const Request&) -> std::optional<int> { return 0; });
  const PageBuffer buffer(kPage);
  EXPECT_EQ(ReadAt(live.fd, buffer.data(), kPage, 0), -EIO);
}

// The reader of a request stands still in the middle of its copy.
TEST_F(UserCopy, AHeldReferenceStopsNoCommitButTheEnd_R34) {
  StartDevice({.queues = 1, .depth = 1});
  LazyMemory lazy(kPage);
  if (!lazy.works()) GTEST_SKIP() << "no userfaultfd";
  const PageBuffer buffer(kPage);
  FillPattern(buffer.data(), kPage, 4);
  const uint16_t tag = Keep(true, kPage, buffer.data());
  auto copy = std::async(std::launch::async,
                         [&] { return ReadAt(chan_, lazy.data(), kPage, UserCopyAt(0, tag)); });
  ASSERT_TRUE(lazy.IsTouched()) << "the copy never began";

  live_->Commit(tag, 4096);
  EXPECT_EQ(ios_[0].wait_for(std::chrono::milliseconds(200)), std::future_status::timeout)
      << "the request ended while somebody read its pages";
  lazy.Provide();
  EXPECT_EQ(copy.get(), 4096);
  EXPECT_TRUE(HoldsPattern(lazy.data(), kPage, 4)) << "the copy has other data than the request";
  ASSERT_EQ(ios_[0].wait_for(std::chrono::seconds(10)), std::future_status::ready)
      << "the request must end with the last reference";
  EXPECT_EQ(ios_[0].get(), 4096);
  ios_.clear();
  EXPECT_EQ(WriteAt(live_->fd, buffer.data(), kPage, kPage), 4096) << "the only tag must be free";
}

TEST_F(UserCopy, AnErrorIsNotForgottenOverAHeldReference_R34) {
  StartDevice({.queues = 1, .depth = 2});
  LazyMemory lazy(kPage);
  if (!lazy.works()) GTEST_SKIP() << "no userfaultfd";
  const PageBuffer buffer(kPage);
  const uint16_t tag = Keep(true, kPage, buffer.data());
  auto copy = std::async(std::launch::async,
                         [&] { return ReadAt(chan_, lazy.data(), kPage, UserCopyAt(0, tag)); });
  ASSERT_TRUE(lazy.IsTouched()) << "the copy never began";
  live_->Commit(tag, -ENOSPC);
  lazy.Provide();
  EXPECT_EQ(copy.get(), 4096);
  EXPECT_EQ(ios_[0].get(), -ENOSPC);
  ios_.clear();
}

TEST_F(UserCopy, StopWaitsForAHeldReference_R34) {
  StartDevice({.queues = 1, .depth = 2});
  LazyMemory lazy(kPage);
  if (!lazy.works()) GTEST_SKIP() << "no userfaultfd";
  const PageBuffer buffer(kPage);
  const uint16_t tag = Keep(true, kPage, buffer.data());
  auto copy = std::async(std::launch::async,
                         [&] { return ReadAt(chan_, lazy.data(), kPage, UserCopyAt(0, tag)); });
  ASSERT_TRUE(lazy.IsTouched()) << "the copy never began";
  live_->Commit(tag, 4096);
  Control other;
  other.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = live_->id()});
  EXPECT_EQ(other.Finish(std::chrono::milliseconds(200)), std::nullopt);
  lazy.Provide();
  EXPECT_EQ(copy.get(), 4096);
  EXPECT_EQ(ios_[0].get(), 4096) << "a request that was committed is not lost by a stop";
  ios_.clear();
  EXPECT_EQ(other.Finish(std::chrono::seconds(10)), 0);
  close(live_->fd);
  live_->server->Close();
  live_->server.reset();
}

// Rounds of a race: enough of them, and more until copies met requests at all, which chance
// decides.
bool GoesOn(int round, const Copiers& copiers) {
  constexpr int kRounds = 2000;
  constexpr int kMostRounds = 50 * kRounds;
  return round < kRounds || (round < kMostRounds && copiers.copied() == 0);
}

TEST_F(UserCopy, ReadersNeverSeePagesOfAnEndedRequest_R34) {
  StartDevice({.queues = 1, .depth = 1});
  Copiers copiers(chan_, Copiers::Way::kFromRequest, std::byte{0xee});
  const PageBuffer buffer(kPage);
  for (int round = 0; GoesOn(round, copiers); ++round) {
    std::memset(buffer.data(), round % 200 + 1, kPage);
    ASSERT_EQ(WriteAt(live_->fd, buffer.data(), kPage, 0), 4096);
    // It is the user's again.
    std::memset(buffer.data(), 0xee, kPage);
  }
  copiers.Stop();
  EXPECT_GT(copiers.copied(), 0) << "no copy met a request: this was no test";
  EXPECT_EQ(copiers.torn(), 0) << "copies that saw the user's memory after the end of its write";
  EXPECT_EQ(copiers.strange(), 0) << "copies with an unexpected result";
}

TEST_F(UserCopy, WritersNeverTouchPagesOfAnEndedRequest_R34) {
  StartDevice({.queues = 1, .depth = 1});
  Copiers copiers(chan_, Copiers::Way::kIntoRequest, std::byte{0xdd});
  const PageBuffer buffer(kPage);
  int touched = 0;
  for (int round = 0; GoesOn(round, copiers); ++round) {
    ASSERT_EQ(ReadAt(live_->fd, buffer.data(), kPage, 0), 4096);
    std::memset(buffer.data(), 0x11, kPage);
    for (int look = 0; look < 2; ++look) {
      std::this_thread::yield();
      if (!HoldsOnly(buffer.data(), kPage, std::byte{0x11})) ++touched;
    }
  }
  copiers.Stop();
  EXPECT_GT(copiers.copied(), 0) << "no copy met a request: this was no test";
  EXPECT_EQ(touched, 0) << "the user's memory changed after its read had ended";
  EXPECT_EQ(copiers.strange(), 0) << "copies with an unexpected result";
}

}  // namespace
}  // namespace ublkd::driver_test
