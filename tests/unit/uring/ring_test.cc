// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/ring.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "daemon/base/file.h"
#include "daemon/uring/clock.h"
#include "tests/unit/uring/test_ring.h"

namespace ublkd::uring {
namespace {

constexpr size_t kBlockBytes = 4096;

UniqueFd MakeScratchFile() {
  std::string path = testing::TempDir() + "/ring_test_XXXXXX";
  UniqueFd file(mkstemp(path.data()));
  EXPECT_TRUE(file.valid()) << "a scratch file in " << testing::TempDir();
  unlink(path.c_str());
  return file;
}

Buffer AsBuffer(std::string& text) {
  return {.data = reinterpret_cast<std::byte*>(text.data()),
          .bytes = static_cast<uint32_t>(text.size())};
}

TEST_F(RingTest, WhatIsWrittenIsReadBack) {
  const auto ring = MakeRing();
  const UniqueFd fd = MakeScratchFile();
  std::string written(kBlockBytes, 'w');
  std::string read(kBlockBytes, 'r');
  std::vector<Result> results;
  Run(*ring, [](Ring& r, File file, Buffer out, Buffer in, std::vector<Result>& got) -> RootTask {
    got.push_back(co_await r.Write(file, out, kBlockBytes));
    got.push_back(co_await r.DataSync(file));
    got.push_back(co_await r.Read(file, in, kBlockBytes));
  }(*ring, ring->RegisterFile(fd.get()), AsBuffer(written), AsBuffer(read), results));
  EXPECT_EQ(results, (std::vector<Result>(3, Result::Ok())));
  EXPECT_EQ(read, written);
}

TEST_F(RingTest, EverySetupTheKernelMayTakeWorks) {
  for (unsigned skipped = 0; skipped < 4; ++skipped) {
    const auto ring = MakeRing({.skip_setups = skipped});
    int32_t result = -1;
    Run(*ring, [](Ring& r, int32_t& got) -> RootTask { got = co_await r.Yield(); }(*ring, result));
    EXPECT_EQ(result, 0) << "with the first " << skipped << " set-ups left out (flags "
                         << ring->setup_flags() << ")";
  }
}

TEST_F(RingTest, IsAtRestWhenNothingIsPreparedOrToBeTaken) {
  const auto ring = MakeRing();
  if ((ring->setup_flags() & IORING_SETUP_DEFER_TASKRUN) == 0) GTEST_SKIP() << "an old kernel";
  EXPECT_TRUE(ring->at_rest());
  UniqueFd event(eventfd(0, EFD_CLOEXEC));
  uint64_t count = 0;
  auto reader = [](Ring& r, File file, uint64_t& got) -> RootTask {
    co_await r.ReadSome(file, &got, sizeof(got));
  }(*ring, {.fd = event.get()}, count);
  reader.Start();
  EXPECT_FALSE(ring->at_rest()) << "prepared";
  ring->RunOnce(/*wait=*/false);
  EXPECT_TRUE(ring->at_rest()) << "the kernel waits";
  ASSERT_EQ(eventfd_write(event.get(), 1), 0);
  EXPECT_TRUE(ring->at_rest()) << "what has come is done at the next entry";
  ring->RunUntil([&reader] { return reader.done(); });
  EXPECT_EQ(count, 1u);
  EXPECT_TRUE(ring->at_rest());
  const auto other = MakeRing({.skip_setups = 3});
  EXPECT_FALSE(other->at_rest()) << "the kernel may work at any time";
}

TEST_F(RingTest, ReadBeyondTheEndIsAnError) {
  const auto ring = MakeRing();
  const UniqueFd fd = MakeScratchFile();
  ASSERT_EQ(ftruncate(fd.get(), kBlockBytes), 0);
  std::string data(2 * kBlockBytes, 'r');
  Result result;
  Run(*ring, [](Ring& r, File file, Buffer in, Result& got) -> RootTask {
    got = co_await r.Read(file, in, 0);
  }(*ring, {.fd = fd.get()}, AsBuffer(data), result));
  EXPECT_EQ(result, Result::Error(EIO)) << "half of the range is there, half is not";
}

TEST_F(RingTest, ShortTransfersAreContinued) {
  // The kernel hands out its symbol list in pieces of less than a page.
  const UniqueFd symbols(open("/proc/kallsyms", O_RDONLY));
  std::string data(16 * kBlockBytes, '?');
  const ssize_t piece = pread(symbols.get(), data.data(), data.size(), 0);
  if (piece <= 0) GTEST_SKIP() << "no /proc/kallsyms here";
  ASSERT_LT(piece, static_cast<ssize_t>(data.size()));
  const auto ring = MakeRing();
  data.assign(data.size(), '?');
  Result result = Result::Error(EIO);
  Run(*ring, [](Ring& r, File file, Buffer in, Result& got) -> RootTask {
    got = co_await r.Read(file, in, 0);
  }(*ring, {.fd = symbols.get()}, AsBuffer(data), result));
  EXPECT_EQ(result, Result::Ok());
  std::string expected;
  while (expected.size() < data.size()) {
    std::string part(data.size() - expected.size(), '\0');
    const ssize_t got = read(symbols.get(), part.data(), part.size());
    ASSERT_GT(got, 0);
    expected.append(part, 0, static_cast<size_t>(got));
  }
  EXPECT_TRUE(data == expected) << "the pieces were not put together in order";
}

TEST_F(RingTest, AnErrorAfterAShortWriteIsTheResult) {
  const UniqueFd fd = MakeScratchFile();
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit = {.rlim_cur = kBlockBytes, .rlim_max = old_limit.rlim_max};
  (void)signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto ring = MakeRing();
  std::string data(2 * kBlockBytes, 'w');
  Result result;
  Run(*ring, [](Ring& r, File file, Buffer out, Result& got) -> RootTask {
    got = co_await r.Write(file, out, 0);
  }(*ring, {.fd = fd.get()}, AsBuffer(data), result));
  setrlimit(RLIMIT_FSIZE, &old_limit);
  EXPECT_EQ(result, Result::Error(EFBIG)) << "the first half was written, the second was refused";
}

TEST_F(RingTest, ErrorsOfTheKernelComeThrough) {
  const auto ring = MakeRing();
  std::string data(kBlockBytes, 'x');
  const UniqueFd full(open("/dev/full", O_RDWR));
  Result written;
  Result unknown;
  Run(*ring, [](Ring& r, File file, Buffer out, Result& first, Result& second) -> RootTask {
    first = co_await r.Write(file, out, 0);
    second = co_await r.DataSync({.fd = -1});
  }(*ring, {.fd = full.get()}, AsBuffer(data), written, unknown));
  EXPECT_EQ(written, Result::Error(ENOSPC));
  EXPECT_EQ(unknown, Result::Error(EBADF));
}

/// A pipe with room for a block, and full.
class FullPipe {
 public:
  FullPipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    reader_ = UniqueFd(ends[0]);
    writer_ = UniqueFd(ends[1]);
    EXPECT_EQ(fcntl(writer_.get(), F_SETPIPE_SZ, kBlockBytes), static_cast<int>(kBlockBytes));
    const std::string block(kBlockBytes, 'f');
    EXPECT_EQ(write(writer_.get(), block.data(), block.size()), static_cast<ssize_t>(kBlockBytes));
  }
  std::string Take() const {
    std::string block(kBlockBytes, '?');
    EXPECT_EQ(read(reader_.get(), block.data(), block.size()), static_cast<ssize_t>(kBlockBytes));
    return block;
  }
  /// Writes a block, and never waits in the kernel.
  RootTask WriteAtOnce(Ring& ring, Buffer block, Result& result) const {
    result = co_await ring.Write({.fd = writer_.get()}, block, 0, RWF_NOWAIT);
  }

 private:
  UniqueFd reader_;
  UniqueFd writer_;
};

TEST_F(RingTest, WhatTheKernelIsShortOfForAMomentIsTriedAgain) {
  const auto ring = MakeRing();
  const FullPipe pipe;
  std::string data(kBlockBytes, 'w');
  Result result;
  RootTask task = pipe.WriteAtOnce(*ring, AsBuffer(data), result);
  task.Start();
  ring->RunOnce();
  if (result == Result::Error(EOPNOTSUPP)) GTEST_SKIP() << "this kernel always waits for pipes";
  EXPECT_FALSE(task.done()) << "a full pipe is no failure yet";
  EXPECT_EQ(pipe.Take(), std::string(kBlockBytes, 'f'));
  ring->RunUntil([&task] { return task.done(); });
  EXPECT_EQ(result, Result::Ok());
  EXPECT_EQ(pipe.Take(), data);
}

TEST_F(RingTest, WhatStaysAwayIsAnErrorAfterSomeRetries) {
  const auto ring = MakeRing();
  const FullPipe pipe;
  std::string data(kBlockBytes, 'w');
  Result result;
  Run(*ring, pipe.WriteAtOnce(*ring, AsBuffer(data), result));
  if (result == Result::Error(EOPNOTSUPP)) GTEST_SKIP() << "this kernel always waits for pipes";
  EXPECT_EQ(result, Result::Error(EAGAIN));
}

TEST_F(RingTest, TenThousandOperationsGoThroughEightEntries) {
  constexpr int kTasks = 500;
  constexpr int kRounds = 20;
  const auto ring = MakeRing({.entries = 8});
  const UniqueFd fd = MakeScratchFile();
  const File file = ring->RegisterFile(fd.get());
  std::vector<std::string> data;
  std::vector<RootTask> tasks;
  int done = 0;
  for (int i = 0; i < kTasks; ++i) data.emplace_back(kBlockBytes, static_cast<char>(i));
  for (int i = 0; i < kTasks; ++i) {
    tasks.push_back([](Ring& r, File f, Buffer buffer, int number, int& count) -> RootTask {
      const uint64_t offset = static_cast<uint64_t>(number) * kBlockBytes;
      for (int round = 0; round < kRounds / 2; ++round) {
        const Result written = co_await r.Write(f, buffer, offset);
        const Result read = co_await r.Read(f, buffer, offset);
        count += (written.ok() ? 1 : 0) + (read.ok() ? 1 : 0);
      }
    }(*ring, file, AsBuffer(data[static_cast<size_t>(i)]), i, done));
  }
  for (RootTask& task : tasks) task.Start();
  ring->RunUntil([&ring] { return ring->in_flight() == 0; });
  EXPECT_EQ(done, kTasks * kRounds);
  for (int i = 0; i < kTasks; ++i) {
    EXPECT_EQ(data[static_cast<size_t>(i)], std::string(kBlockBytes, static_cast<char>(i)));
  }
}

TEST_F(RingTest, SignalsDoNotDisturb) {
  const auto ring = MakeRing();
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, nullptr), 0);
  const pthread_t self = pthread_self();
  std::atomic<bool> stop = false;
  std::thread noise([&] {
    while (!stop) {
      pthread_kill(self, SIGUSR1);
      std::this_thread::yield();
    }
  });
  constexpr uint64_t kNapNs = 20'000'000;
  const uint64_t start_ns = MonotonicNs();
  Run(*ring, [](Ring& r) -> RootTask { co_await r.Sleep(kNapNs); }(*ring));
  stop = true;
  noise.join();
  EXPECT_GE(MonotonicNs() - start_ns, kNapNs) << "a sleep that is interrupted goes on";
}

TEST_F(RingTest, PunchedRangesReadAsZeroes) {
  const auto ring = MakeRing();
  const UniqueFd fd = MakeScratchFile();
  std::string data(2 * kBlockBytes, 'x');
  Result punched;
  Run(*ring, [](Ring& r, File file, Buffer buffer, Result& got) -> RootTask {
    (void)co_await r.Write(file, buffer, 0);
    got = co_await r.Fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlockBytes);
    (void)co_await r.Read(file, buffer, 0);
  }(*ring, ring->RegisterFile(fd.get()), AsBuffer(data), punched));
  if (punched == Result::Error(EOPNOTSUPP)) GTEST_SKIP() << "no holes on this filesystem";
  EXPECT_EQ(punched, Result::Ok());
  EXPECT_EQ(data, std::string(kBlockBytes, '\0') + std::string(kBlockBytes, 'x'));
}

TEST_F(RingTest, PollTellsWhatIsThere) {
  const auto ring = MakeRing();
  const UniqueFd event(eventfd(1, 0));
  int32_t events = 0;
  Run(*ring, [](Ring& r, File file, int32_t& got) -> RootTask {
    got = co_await r.Poll(file, POLLIN);
  }(*ring, {.fd = event.get()}, events));
  EXPECT_EQ(events & POLLIN, POLLIN);
}

TEST_F(RingTest, FullFileTableFallsBackToPlainDescriptors) {
  const auto ring = MakeRing({.registered_files = 1});
  const UniqueFd first = MakeScratchFile();
  const UniqueFd second = MakeScratchFile();
  const File registered = ring->RegisterFile(first.get());
  const File plain = ring->RegisterFile(second.get());
  EXPECT_TRUE(registered.registered);
  EXPECT_FALSE(plain.registered);
  std::string data(kBlockBytes, 'x');
  Result result = Result::Error(EIO);
  Run(*ring, [](Ring& r, File file, Buffer out, Result& got) -> RootTask {
    got = co_await r.Write(file, out, 0);
  }(*ring, plain, AsBuffer(data), result));
  EXPECT_EQ(result, Result::Ok());
  ring->UnregisterFile(registered);
  EXPECT_TRUE(ring->RegisterFile(second.get()).registered) << "the place is free again";
}

TEST_F(RingTest, RegisteredBuffersCarryData) {
  const auto ring = MakeRing({.registered_buffers = 4});
  const UniqueFd fd = MakeScratchFile();
  void* memory =
      mmap(nullptr, kBlockBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 'b', kBlockBytes);
  constexpr int kIndex = 3;
  ASSERT_TRUE(ring->RegisterBuffer(kIndex, memory, kBlockBytes).ok());
  const Buffer fixed = {
      .data = static_cast<std::byte*>(memory), .bytes = kBlockBytes, .registered_index = kIndex};
  Result result = Result::Error(EIO);
  Run(*ring, [](Ring& r, File file, Buffer out, Result& got) -> RootTask {
    got = co_await r.Write(file, out, 0);
  }(*ring, ring->RegisterFile(fd.get()), fixed, result));
  EXPECT_EQ(result, Result::Ok());
  std::string back(kBlockBytes, '?');
  EXPECT_EQ(pread(fd.get(), back.data(), back.size(), 0), static_cast<ssize_t>(kBlockBytes));
  EXPECT_EQ(back, std::string(kBlockBytes, 'b'));
  munmap(memory, kBlockBytes);
}

Task<Result> Nested(Ring& ring, int depth) {
  if (depth == 0) {
    (void)co_await ring.Yield();
    co_return Result::Error(ENOSPC);
  }
  co_return co_await Nested(ring, depth - 1);
}

TEST_F(RingTest, TasksHandResultsUp) {
  const auto ring = MakeRing();
  Result result;
  Run(*ring, [](Ring& r, Result& got) -> RootTask { got = co_await Nested(r, 50); }(*ring, result));
  EXPECT_EQ(result, Result::Error(ENOSPC));
}

Task<Result> Throwing(Ring& ring) {
  (void)co_await ring.Yield();
  throw std::runtime_error("from a task");
}

TEST_F(RingTest, ExceptionsReachWhoAwaits) {
  const auto ring = MakeRing();
  std::string caught;
  Run(*ring, [](Ring& r, std::string& got) -> RootTask {
    try {
      (void)co_await Throwing(r);
    } catch (const std::runtime_error& error) {
      got = error.what();
    }
  }(*ring, caught));
  EXPECT_EQ(caught, "from a task");
}

}  // namespace
}  // namespace ublkd::uring
