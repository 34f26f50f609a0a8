// SPDX-License-Identifier: Apache-2.0
//
// ublkd's side of the connection, against a guard that says what the test wants.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "daemon/base/unix_socket.h"
#include "daemon/volume/guard_link.h"
#include "tests/unit/volume/device_fixture.h"

namespace ublkd::volume {
namespace {

using State = GuardLink::State;

class GuardLinkTest : public testing::Test {
 protected:
  std::string socket() const { return dir_.File("guard.sock"); }
  void Listen() {
    auto listener = ListenOnUnixSocket(socket());
    ASSERT_THAT(listener, IsOk());
    listener_ = *std::move(listener);
  }
  /// The next connection, and what was said on it.
  UniqueFd Answer(std::string& said) {
    WaitFor(listener_);
    UniqueFd connection(accept(listener_.get(), nullptr, nullptr));
    std::array<char, 64> text;
    WaitFor(connection);
    const ssize_t got = recv(connection.get(), text.data(), text.size(), 0);
    said.assign(text.data(), got > 0 ? static_cast<size_t>(got) : 0);
    return connection;
  }
  static void WaitFor(const UniqueFd& fd) {
    pollfd event = {.fd = fd.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&event, 1, 20'000), 1);
  }

  TempDir dir_;
  UniqueFd listener_;
};

TEST_F(GuardLinkTest, WithoutAGuardNobodyWaits) {
  GuardLink link(socket());
  EXPECT_EQ(link.state(), State::kUnknown);
  link.Start();
  link.WaitUntilClear(absl::Seconds(20));
  EXPECT_EQ(link.state(), State::kAbsent);
}

TEST_F(GuardLinkTest, IsClearWhenTheGuardSaysSoAndNotBefore) {
  Listen();
  GuardLink link(socket());
  link.Start();
  std::string said;
  const UniqueFd guard = Answer(said);
  EXPECT_EQ(said, kServingLine);
  link.WaitUntilClear(absl::Milliseconds(1));
  EXPECT_EQ(link.state(), State::kAsked);
  EXPECT_TRUE(link.connected());
  // In pieces.
  ASSERT_EQ(write(guard.get(), "cle", 3), 3);
  ASSERT_EQ(write(guard.get(), "ar\n", 3), 3);
  link.WaitUntilClear(absl::Seconds(20));
  EXPECT_EQ(link.state(), State::kClear);
}

TEST_F(GuardLinkTest, AGuardThatEndsAndComesBackIsFoundAgain) {
  Listen();
  GuardLink link(socket());
  link.Start();
  std::string said;
  for (int i = 0; i < 2; ++i) {
    UniqueFd guard = Answer(said);
    ASSERT_EQ(write(guard.get(), kClearLine.data(), kClearLine.size()),
              static_cast<ssize_t>(kClearLine.size()));
    EXPECT_TRUE(Eventually([&] { return link.state() == State::kClear; }));
    listener_.Reset();
    guard.Reset();
    EXPECT_TRUE(Eventually([&] { return link.state() == State::kAbsent; }));
    Listen();
  }
}

TEST_F(GuardLinkTest, HangsUpAtItsEnd) {
  Listen();
  auto link = std::make_unique<GuardLink>(socket());
  link->Start();
  std::string said;
  const UniqueFd guard = Answer(said);
  link.reset();
  WaitFor(guard);
  char byte = 0;
  EXPECT_EQ(recv(guard.get(), &byte, 1, 0), 0);
}

TEST_F(GuardLinkTest, ASocketIsForUsAloneAndReplacesNothingElse) {
  Listen();
  struct stat about;
  ASSERT_EQ(stat(socket().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, mode_t{0600});
  EXPECT_THAT(ListenOnUnixSocket(dir_.Write("file", "x")),
              Refused(absl::StatusCode::kFailedPrecondition, "not a socket"));
  EXPECT_THAT(ListenOnUnixSocket(std::string(200, 'x')),
              Refused(absl::StatusCode::kInvalidArgument, "choose another"));
}

}  // namespace
}  // namespace ublkd::volume
