// SPDX-License-Identifier: Apache-2.0
//
// The end of a server while pages of its requests are registered with rings.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <future>

#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/zero_copy.h"

namespace ublkd::driver_test {
namespace {

constexpr uint64_t kZeroCopy = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_NO_AUTO_PART_SCAN;
constexpr uint64_t kRecovery = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE;
constexpr std::chrono::milliseconds kShort{200};
// What is promised is one second; an emulated, shared machine gets some slack.
constexpr std::chrono::milliseconds kNoticeLimit{5000};

// What a server process does, in memory that it shares with the test.
struct Orders {
  std::atomic<bool> keep = false;
  std::atomic<int> kept = 0;
  std::atomic<uint16_t> tag = 0;
  std::atomic<int> registered = 0;
};

// Registers what it keeps with its own ring if it is not registered already.
Handler KeepRegistered(Orders* orders, bool registers, Handler inner) {
  return [=, inner = std::move(inner)](const Request& request) -> std::optional<int> {
    if (!orders->keep) return inner(request);
    if (registers && RegisterBuffer(request, request.tag) == 0) ++orders->registered;
    orders->tag = request.tag;
    ++orders->kept;
    return std::nullopt;
  };
}

class ZeroCopyDeath : public testing::Test {
 protected:
  void SetUp() override {
    const uint64_t wanted = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG;
    if ((control_.Features() & wanted) != wanted) GTEST_SKIP() << "not on this kernel";
  }
  void Start(uint64_t flags, bool registers) {
    const Geometry geometry = {.queues = 1, .depth = 4, .flags = flags};
    file_ = std::make_unique<BackingFile>(geometry.bytes);
    device_ = std::make_unique<Device>(control_, geometry);
    ASSERT_EQ(device_->error(), 0);
    Serve(registers);
    ASSERT_EQ(control_.Start(device_->id(), process_->pid()), 0);
    disk_ = open(device_->disk().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    ASSERT_GE(disk_, 0);
  }
  void Serve(bool registers) {
    const bool automatic = (device_->geometry().flags & UBLK_F_AUTO_BUF_REG) != 0;
    ServerOptions options = {.fixed_buffers = kPlaces};
    if (automatic) options.sqe_addr = [](uint16_t tag) { return AutoAddr(tag); };
    process_ = std::make_unique<ServerProcess>(
        device_->id(), device_->geometry(),
        KeepRegistered(orders_, registers,
                       automatic ? AutoFile(file_->fd()) : ZeroCopyFile(file_->fd())),
        options);
  }
  std::future<int> Write(std::byte* page, off_t at = 0) {
    return std::async(std::launch::async, [=, this] { return WriteAt(disk_, page, kPage, at); });
  }
  void TearDown() override {
    if (disk_ >= 0) close(disk_);
  }
  int StartRecovery() {
    return control_.Run(UBLK_U_CMD_START_USER_RECOVERY, {.dev_id = device_->id()});
  }
  int EndRecovery() {
    return control_.Run(UBLK_U_CMD_END_USER_RECOVERY,
                        {.dev_id = device_->id(), .data = static_cast<uint64_t>(process_->pid())});
  }

  Control control_;
  SharedMemory shared_{kPage};
  Orders* const orders_ = new (shared_.data()) Orders;
  std::unique_ptr<BackingFile> file_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<ServerProcess> process_;
  int disk_ = -1;
};

TEST_F(ZeroCopyDeath, KillWithRegisteredBuffersEndsEveryIo_R60_R66) {
  for (const uint64_t automatic : {uint64_t{0}, uint64_t{UBLK_F_AUTO_BUF_REG}}) {
    new (orders_) Orders;
    Start(kZeroCopy | automatic, automatic == 0);
    const PageBuffer page(kPage);
    orders_->keep = true;
    std::vector<std::future<int>> ios;
    for (int i = 0; i < 4; ++i) ios.push_back(Write(page.data(), off_t(kPage) * i));
    EXPECT_TRUE(Eventually([&] { return orders_->kept == 4; }));
    EXPECT_EQ(orders_->registered, automatic == 0 ? 4 : 0);
    process_->Kill();
    for (auto& io : ios) {
      EXPECT_EQ(io.wait_for(kNoticeLimit), std::future_status::ready)
          << "I/O hangs after the server was killed";
      EXPECT_EQ(io.get(), -EIO);
    }
    close(std::exchange(disk_, -1));
    EXPECT_TRUE(
        Eventually([&] { return control_.State(device_->id()) == UBLK_S_DEV_DEAD; }, kNoticeLimit));
    EXPECT_EQ(device_->Delete(), 0);
  }
}

TEST_F(ZeroCopyDeath, TheNextServerFinishesRegisteredRequests_R66_R67) {
  for (const uint64_t automatic : {uint64_t{0}, uint64_t{UBLK_F_AUTO_BUF_REG}}) {
    new (orders_) Orders;
    Start(kZeroCopy | kRecovery | automatic, automatic == 0);
    const PageBuffer page(kPage);
    FillPattern(page.data(), kPage, 3);
    orders_->keep = true;
    auto io = Write(page.data());
    EXPECT_TRUE(Eventually([&] { return orders_->kept == 1; }));
    process_->Kill();
    orders_->keep = false;
    EXPECT_TRUE(Eventually([&] { return StartRecovery() == 0; }));
    Serve(automatic == 0);
    EXPECT_EQ(EndRecovery(), 0);
    EXPECT_EQ(io.get(), 4096);
    EXPECT_TRUE(HoldsPattern(file_->data(), kPage, 3));
    close(std::exchange(disk_, -1));
    process_->Kill();
    EXPECT_EQ(device_->Delete(), 0);
  }
}

// Everybody has closed the char device, but pages of a request are still in a ring.
TEST_F(ZeroCopyDeath, RecoveryWaitsForARingWithABuffer_R66) {
  Start(kZeroCopy | kRecovery, false);
  const PageBuffer page(kPage);
  FillPattern(page.data(), kPage, 4);
  orders_->keep = true;
  auto io = Write(page.data());
  EXPECT_TRUE(Eventually([&] { return orders_->kept == 1; }));
  {
    OtherRing ring;
    const int chan = TakeCharDevice(process_->pid(), device_->id());
    ASSERT_GE(chan, 0);
    ASSERT_EQ(ring.Command(chan, UBLK_U_IO_REGISTER_IO_BUF, orders_->tag, 5), 0);
    close(chan);
    process_->Kill();
    EXPECT_FALSE(Eventually([&] { return StartRecovery() == 0; }, kShort))
        << "the pages are still in use";
    EXPECT_EQ(ring.TransferPage(UBLK_IO_OP_WRITE, file_->fd(), 5), 4096)
        << "and still those of the request";
    EXPECT_TRUE(HoldsPattern(file_->data(), kPage, 4));
    EXPECT_EQ(io.wait_for(kShort), std::future_status::timeout);
  }
  orders_->keep = false;
  EXPECT_TRUE(Eventually([&] { return StartRecovery() == 0; })) << "the ring is closed";
  Serve(false);
  EXPECT_EQ(EndRecovery(), 0);
  EXPECT_EQ(io.get(), 4096);
  close(std::exchange(disk_, -1));
  process_->Kill();
  EXPECT_EQ(device_->Delete(), 0);
}

TEST_F(ZeroCopyDeath, DeletionWaitsForARingWithABuffer_R66) {
  Start(kZeroCopy, false);
  const PageBuffer page(kPage);
  orders_->keep = true;
  auto io = Write(page.data());
  EXPECT_TRUE(Eventually([&] { return orders_->kept == 1; }));
  {
    OtherRing ring;
    const int chan = TakeCharDevice(process_->pid(), device_->id());
    ASSERT_GE(chan, 0);
    ASSERT_EQ(ring.Command(chan, UBLK_U_IO_REGISTER_IO_BUF, orders_->tag, 0), 0);
    close(chan);
    process_->Kill();
    control_.Send(UBLK_U_CMD_DEL_DEV, {.dev_id = device_->id()});
    EXPECT_EQ(control_.Finish(kShort), std::nullopt) << "the pages are still in use";
    EXPECT_EQ(io.wait_for(kShort), std::future_status::timeout);
  }
  EXPECT_EQ(io.get(), -EIO);
  close(std::exchange(disk_, -1));
  EXPECT_EQ(control_.Finish(kNoticeLimit), 0) << "DEL_DEV must end with the ring";
  device_->Forget();
}

}  // namespace
}  // namespace ublkd::driver_test
