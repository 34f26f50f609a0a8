// SPDX-License-Identifier: Apache-2.0
//
// The end of a server while data is copied from and to its requests, by itself and by others.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/user_copy.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kUserCopy = UBLK_F_USER_COPY;
// What is promised is one second; an emulated, shared machine gets some slack.
constexpr std::chrono::milliseconds kNoticeLimit{5000};

// A server with all kinds of copies under way is killed.
class UserCopyDeath : public testing::Test {
 protected:
  void StartServer(const Geometry& geometry, Handler handler) {
    ram_ = std::make_unique<SharedMemory>(geometry.bytes);
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    ServeAgain(std::move(handler));
    ASSERT_EQ(control_.Start(device_->id(), process_->pid()), 0) << "START_DEV failed";
  }
  void ServeAgain(Handler handler) {
    process_ = std::make_unique<ServerProcess>(device_->id(), device_->geometry(),
                                               std::move(handler), ServerOptions{});
  }
  bool BecomesSoon(int state) {
    return Eventually([&] { return control_.State(device_->id()) == state; }, kNoticeLimit);
  }
  void Recover(Handler handler) {
    ASSERT_TRUE(Eventually([&] {
      return control_.Run(UBLK_U_CMD_START_USER_RECOVERY, {.dev_id = device_->id()}) == 0;
    })) << "START_USER_RECOVERY stays refused";
    ServeAgain(std::move(handler));
    ASSERT_EQ(
        control_.Run(UBLK_U_CMD_END_USER_RECOVERY,
                     {.dev_id = device_->id(), .data = static_cast<uint64_t>(process_->pid())}),
        0);
  }

  Control control_;
  std::unique_ptr<SharedMemory> ram_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<ServerProcess> process_;
};

// Starts copies in threads of the server, with its first request. They spoil what users read.
Handler WithCopiers(Handler inner) {
  struct Shared {
    std::once_flag once;
    std::unique_ptr<Copiers> readers;
    std::unique_ptr<Copiers> writers;
  };
  return [shared = std::make_shared<Shared>(),
          inner = std::move(inner)](const Request& request) -> std::optional<int> {
    std::call_once(shared->once, [&] {
      shared->readers =
          std::make_unique<Copiers>(request.fd, Copiers::Way::kFromRequest, std::byte{0});
      shared->writers =
          std::make_unique<Copiers>(request.fd, Copiers::Way::kIntoRequest, std::byte{0});
    });
    return inner(request);
  };
}

TEST_F(UserCopyDeath, KillWhileOtherThreadsCopyEndsEveryIo_R34_R60) {
  for (int round = 0; round < 4; ++round) {
    const Geometry geometry = {.queues = 2, .depth = 8, .flags = kUserCopy};
    SharedMemory ram(geometry.bytes);
    StartServer(geometry, WithCopiers(UserCopyRam(ram.data())));
    std::atomic<int> done = 0;
    std::vector<std::future<void>> users;
    for (int user = 0; user < 6; ++user) {
      users.push_back(std::async(std::launch::async, [&, user] {
        const int fd = open(device_->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
        const PageBuffer page(kPage);
        for (int i = 0;; ++i, ++done) {
          const off_t at = off_t(kPage) * (user * 100 + i % 100);
          const int n =
              i % 2 == 0 ? WriteAt(fd, page.data(), kPage, at) : ReadAt(fd, page.data(), kPage, at);
          if (n != int{kPage}) break;
        }
        close(fd);
      }));
    }
    EXPECT_TRUE(Eventually([&] { return done > 50 + 31 * round; }));
    process_->Kill();
    EXPECT_TRUE(BecomesSoon(UBLK_S_DEV_DEAD)) << "the end of the server was not noticed";
    for (auto& user : users) {
      EXPECT_EQ(user.wait_for(kNoticeLimit), std::future_status::ready)
          << "I/O hangs after the server was killed";
    }
    users.clear();
    EXPECT_EQ(device_->Delete(), 0);
  }
}

// Of which requests a server process keeps, in memory that it shares with the test.
struct KeptIo {
  std::atomic<bool> keep = false;
  std::atomic<int> kept = 0;
  std::atomic<uint32_t> last_tag = 0;
  std::atomic<bool> copying = false;
};

Handler KeepIn(KeptIo* io, Handler inner) {
  return [io, inner = std::move(inner)](const Request& request) -> std::optional<int> {
    if (!io->keep) return inner(request);
    io->last_tag = request.tag;
    ++io->kept;
    return std::nullopt;
  };
}

TEST_F(UserCopyDeath, ACopyThatStandsStillInTheServerDelaysNothing_R34_R60) {
  SharedMemory shared(kPage);
  auto* io = new (shared.data()) KeptIo;
  const Geometry geometry = {
      .queues = 1, .depth = 4, .flags = kUserCopy | UBLK_F_NO_AUTO_PART_SCAN};
  StartServer(geometry, [io](const Request& request) -> std::optional<int> {
    auto lazy = std::make_shared<LazyMemory>(kPage);
    if (!lazy->works()) return -EOPNOTSUPP;
    std::thread([=, fd = request.fd, at = UserCopyAt(0, request.tag)] {
      ReadAt(fd, lazy->data(), kPage, at);
    }).detach();
    io->copying = lazy->IsTouched();
    return std::nullopt;
  });
  const int fd = open(device_->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  const PageBuffer page(kPage);
  auto user = std::async(std::launch::async, [&] { return WriteAt(fd, page.data(), kPage, 0); });
  EXPECT_TRUE(Eventually([&] { return io->copying.load(); })) << "the copy never began";
  process_->Kill();
  EXPECT_EQ(user.wait_for(kNoticeLimit), std::future_status::ready)
      << "I/O hangs after the server was killed";
  EXPECT_EQ(user.get(), -EIO);
  close(fd);
  EXPECT_TRUE(BecomesSoon(UBLK_S_DEV_DEAD));
  EXPECT_EQ(device_->Delete(), 0);
}

TEST_F(UserCopyDeath, TheCopyOfAnotherProcessDelaysItsRequestAlone_R34_R66) {
  SharedMemory shared(kPage);
  auto* io = new (shared.data()) KeptIo;
  const Geometry geometry = {
      .queues = 1, .depth = 4, .flags = kUserCopy | UBLK_F_NO_AUTO_PART_SCAN};
  LazyMemory lazy(kPage);
  if (!lazy.works()) GTEST_SKIP() << "no userfaultfd";
  StartServer(geometry, KeepIn(io, UserCopyRam(nullptr)));
  const int chan = TakeCharDevice(process_->pid(), device_->id());
  ASSERT_GE(chan, 0);
  const int fd = open(device_->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  io->keep = true;
  const PageBuffer page(kPage);
  FillPattern(page.data(), kPage, 6);
  const auto write = [&](off_t at) {
    return std::async(std::launch::async, [&, at] { return WriteAt(fd, page.data(), kPage, at); });
  };
  auto copied = write(0);
  EXPECT_TRUE(Eventually([&] { return io->kept == 1; }));
  const uint32_t tag = io->last_tag;
  auto other = write(kPage);
  EXPECT_TRUE(Eventually([&] { return io->kept == 2; }));
  auto copy = std::async(std::launch::async,
                         [&] { return ReadAt(chan, lazy.data(), kPage, UserCopyAt(0, tag)); });
  EXPECT_TRUE(lazy.IsTouched()) << "the copy never began";

  process_->Kill();
  EXPECT_EQ(other.wait_for(kNoticeLimit), std::future_status::ready)
      << "what nobody copies must fail with the server";
  EXPECT_EQ(copied.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout)
      << "the request ended while somebody read its pages";
  lazy.Provide();
  EXPECT_EQ(copy.get(), 4096);
  EXPECT_TRUE(HoldsPattern(lazy.data(), kPage, 6));
  EXPECT_EQ(copied.wait_for(kNoticeLimit), std::future_status::ready);
  close(chan);
  EXPECT_EQ(copied.get(), -EIO);
  EXPECT_EQ(other.get(), -EIO);
  close(fd);
  EXPECT_TRUE(BecomesSoon(UBLK_S_DEV_DEAD)) << "the char device is closed";
  EXPECT_EQ(device_->Delete(), 0);
}

TEST_F(UserCopyDeath, RecoveryWaitsForTheCopyOfAnotherProcess_R66_R68) {
  SharedMemory shared(kPage);
  auto* io = new (shared.data()) KeptIo;
  const Geometry geometry = {.queues = 1,
                             .depth = 4,
                             .flags = kUserCopy | UBLK_F_NO_AUTO_PART_SCAN | UBLK_F_USER_RECOVERY |
                                      UBLK_F_USER_RECOVERY_REISSUE};
  SharedMemory ram(geometry.bytes);
  LazyMemory lazy(kPage);
  if (!lazy.works()) GTEST_SKIP() << "no userfaultfd";
  StartServer(geometry, KeepIn(io, UserCopyRam(ram.data())));
  const int chan = TakeCharDevice(process_->pid(), device_->id());
  ASSERT_GE(chan, 0);
  const int fd = open(device_->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  io->keep = true;
  const PageBuffer page(kPage);
  FillPattern(page.data(), kPage, 7);
  auto user = std::async(std::launch::async, [&] { return WriteAt(fd, page.data(), kPage, 0); });
  EXPECT_TRUE(Eventually([&] { return io->kept == 1; }));
  auto copy = std::async(std::launch::async, [&, tag = io->last_tag.load()] {
    const int n = ReadAt(chan, lazy.data(), kPage, UserCopyAt(0, tag));
    close(chan);
    return n;
  });
  EXPECT_TRUE(lazy.IsTouched()) << "the copy never began";
  process_->Kill();
  EXPECT_EQ(control_.Run(UBLK_U_CMD_START_USER_RECOVERY, {.dev_id = device_->id()}), -EBUSY)
      << "somebody still reads pages of a request";
  lazy.Provide();
  EXPECT_EQ(copy.get(), 4096);
  io->keep = false;
  Recover(UserCopyRam(ram.data()));
  EXPECT_EQ(user.get(), 4096) << "the next server finishes what the last one had";
  EXPECT_TRUE(HoldsPattern(ram.data(), kPage, 7));
  close(fd);
  process_->Kill();
  EXPECT_EQ(device_->Delete(), 0);
}

// Reads and writes that a disk has done, as /sys/block/*/stat counts them.
uint64_t CountDone(const std::string& stat) {
  uint64_t reads = 0, skip = 0, writes = 0;
  std::ifstream(stat) >> reads >> skip >> skip >> skip >> writes;
  return reads + writes;
}

TEST_F(UserCopyDeath, KillAndRecoverUnderLoadLosesNothing_R34_R67) {
  const Geometry geometry = {
      .queues = 2,
      .depth = 8,
      .flags = kUserCopy | UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE};
  SharedMemory ram(geometry.bytes);
  StartServer(geometry, UserCopyRam(ram.data()));
  const int fd = open(device_->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  std::atomic<bool> ended = false;
  auto load = std::async(std::launch::async, [&] {
    const int wrong = CountWrongIos(fd, geometry.bytes, kSectorBytes, 80, 3);
    ended = true;
    return wrong;
  });
  const std::string stat = "/sys/block/ublkb" + std::to_string(device_->id()) + "/stat";
  int kills = 0;
  while (!ended && kills < 3) {
    const uint64_t goal = CountDone(stat) + 40;
    Eventually([&] { return ended || CountDone(stat) > goal; });
    if (ended) break;
    process_->Kill();
    ++kills;
    Recover(UserCopyRam(ram.data()));
  }
  EXPECT_GT(kills, 1) << "the load was over too soon: this was no test";
  EXPECT_EQ(load.get(), 0) << "I/Os that failed or returned other data than was written";
  close(fd);
  process_->Kill();
  EXPECT_EQ(device_->Delete(), 0);
}

}  // namespace
}  // namespace ublkd::driver_test
