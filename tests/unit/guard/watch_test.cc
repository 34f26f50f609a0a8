// SPDX-License-Identifier: Apache-2.0
//
// Guard and ublkd find each other, and agree on who serves.
#include "daemon/guard/watch.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "daemon/base/unix_socket.h"
#include "daemon/volume/guard_link.h"
#include "tests/unit/volume/device_fixture.h"

namespace ublkd::guard {
namespace {

using volume::Eventually;
using volume::FakeDevices;
using volume::GuardLink;
using volume::kThisBoot;

/// A guard and its watch on a thread.
class Running {
 public:
  Running(const std::string& folder, FakeDevices& kernel, WatchOptions options)
      : end_(eventfd(0, EFD_CLOEXEC)),
        guard_({.records_dir = folder, .boot_id = kThisBoot}, kernel, Now),
        watch_(std::move(options), guard_, Now, end_.get()),
        thread_([this] {
          status_ = watch_.Run();
          ended_ = true;
        }) {}
  ~Running() { (void)End(); }

  absl::Status End() {
    eventfd_write(end_.get(), 1);
    if (thread_.joinable()) thread_.join();
    return status_;
  }
  bool ended() const { return ended_; }

 private:
  static absl::Duration Now() {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }

  UniqueFd end_;
  Guard guard_;
  Watch watch_;
  absl::Status status_;
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

class WatchTest : public volume::DeviceFixture {
 protected:
  WatchTest() { factory_.OutliveServers(); }

  std::unique_ptr<Running> StartGuard(bool now = false) {
    return std::make_unique<Running>(
        dir_.File("devices"), factory_,
        WatchOptions{.socket = socket(), .now = now, .grace = absl::ZeroDuration()});
  }
  /// A device of a dead server, whose users wait so long.
  void LeaveDevice(uint32_t id, uint32_t fail_after_seconds) {
    volume::DeviceRecord record = LeaveRecord(id, "p/a");
    record.fail_after_seconds = fail_after_seconds;
    record.spec.fail_after_seconds = fail_after_seconds;
    dir_.Write("devices/" + std::to_string(id) + ".json", EncodeDeviceRecord(record));
    factory_.AddLeft(id);
  }
  bool IsServed(uint32_t id) const { return factory_.kernel().at(id) == getpid(); }
  std::string socket() const { return dir_.File("guard.sock"); }
};

TEST_F(WatchTest, AServerThatComesGetsItsDevicesBack) {
  MakeVolume("a");
  LeaveDevice(0, 1);
  const auto guard = StartGuard();
  ASSERT_TRUE(Eventually([&] { return IsServed(0); }));
  for (int i = 0; i < 2; ++i) {
    GuardLink link(socket());
    link.Start();
    guard_ = &link;
    Start();
    const auto device = devices_->Get(0);
    ASSERT_THAT(device, volume::IsOk());
    EXPECT_EQ(device->state, volume::DeviceState::kLive);
    EXPECT_TRUE(devices_->guarded());
    EXPECT_EQ(devices_->Recoveries().failed, 0u) << "the guard has let go before";
    devices_.reset();
    guard_ = nullptr;
    EXPECT_FALSE(IsServed(0)) << "it is left, and has not waited for its time";
  }
  EXPECT_TRUE(Eventually([&] { return IsServed(0); })) << "that server stays away, too";
  ASSERT_THAT(guard->End(), volume::IsOk());
  EXPECT_FALSE(IsServed(0)) << "who sees that the guard has ended finds no device of it";
}

TEST_F(WatchTest, WhileAServerIsThereNothingIsTakenOver) {
  const auto guard = StartGuard();
  GuardLink link(socket());
  link.Start();
  ASSERT_TRUE(Eventually([&] { return link.state() == GuardLink::State::kClear; }));
  LeaveDevice(0, 1);
  // A stranger's call makes the watch go round.
  for (int i = 0; i < 3; ++i) {
    const auto stranger = DialUnixSocket(socket());
    ASSERT_THAT(stranger, volume::IsOk());
    const std::string nonsense(1000, 'x');
    ASSERT_GT(send(stranger->get(), nonsense.data(), nonsense.size(), MSG_NOSIGNAL), 0);
    char byte = 0;
    EXPECT_TRUE(Eventually([&] {
      return recv(stranger->get(), &byte, 1, 0) == 0 || errno != EAGAIN;
    })) << "it is hung up on";
  }
  EXPECT_FALSE(IsServed(0));
  EXPECT_TRUE(link.connected());
}

TEST_F(WatchTest, NowEndsWhenNothingIsInUse) {
  LeaveDevice(0, 0);
  factory_.SetInUse(0, true);
  const auto guard = StartGuard(/*now=*/true);
  ASSERT_TRUE(Eventually([&] { return IsServed(0); }));
  EXPECT_FALSE(guard->ended());
  factory_.SetInUse(0, false);
  ASSERT_TRUE(Eventually([&] { return guard->ended(); }));
  EXPECT_THAT(guard->End(), volume::IsOk());
  EXPECT_FALSE(IsServed(0));
}

TEST_F(WatchTest, NowHasAGuardThatIsThereActAndTakesItsPlaceWhenItEnds) {
  LeaveDevice(0, 0);
  factory_.SetInUse(0, true);
  auto first = StartGuard();
  ASSERT_TRUE(Eventually([&] { return DialUnixSocket(socket()).ok(); }));
  const auto now = StartGuard(/*now=*/true);
  ASSERT_TRUE(Eventually([&] { return IsServed(0); })) << "the first one has done it";
  EXPECT_THAT(first->End(), volume::IsOk());
  first.reset();
  ASSERT_TRUE(Eventually([&] { return IsServed(0); })) << "now it is the other one's turn";
  factory_.SetInUse(0, false);
  EXPECT_TRUE(Eventually([&] { return now->ended(); }));
}

TEST_F(WatchTest, AnotherGuardWaitsForItsTurn) {
  LeaveDevice(0, 1);
  auto first = StartGuard();
  ASSERT_TRUE(Eventually([&] { return IsServed(0); }));
  const auto second = StartGuard();
  first.reset();
  EXPECT_TRUE(Eventually([&] { return IsServed(0); }));
  EXPECT_FALSE(second->ended());
}

TEST_F(WatchTest, ASocketThatCannotBeIsRefused) {
  Running guard(dir_.File("devices"), factory_, {.socket = dir_.File("no/such/folder/guard.sock")});
  ASSERT_TRUE(Eventually([&] { return guard.ended(); }));
  EXPECT_THAT(guard.End(), volume::Refused(absl::StatusCode::kNotFound, "no/such/folder"));
}

}  // namespace
}  // namespace ublkd::guard
