// SPDX-License-Identifier: Apache-2.0
#include "daemon/volume/guard_link.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"
#include "daemon/base/unix_socket.h"

namespace ublkd::volume {
namespace {

constexpr char kSocketName[] = "guard.sock";

}  // namespace

std::string GuardSocketOf(const std::string& state_dir) {
  return absl::StrCat(state_dir, "/", kSocketName);
}

void GuardLink::Start() {
  end_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  thread_ = std::thread([this] { Run(); });
}

GuardLink::~GuardLink() {
  if (!thread_.joinable()) return;
  eventfd_write(end_.get(), 1);
  thread_.join();
}

GuardLink::State GuardLink::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool GuardLink::connected() const {
  const State now = state();
  return now == State::kAsked || now == State::kClear;
}

void GuardLink::WaitUntilClear(absl::Duration limit) {
  std::unique_lock lock(mutex_);
  const bool clear = changed_.wait_for(lock, absl::ToChronoMilliseconds(limit), [this] {
    return state_ == State::kAbsent || state_ == State::kClear;
  });
  if (!clear) LogWarning("ublkd-guard does not let go of its devices", {{"socket", socket_path_}});
}

void GuardLink::SetState(State state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  changed_.notify_all();
}

void GuardLink::Run() {
  do {
    const absl::StatusOr<UniqueFd> connection = DialUnixSocket(socket_path_);
    if (connection.ok()) Attend(*connection);
    SetState(State::kAbsent);
  } while (Pause(kPoll));
}

bool GuardLink::Pause(absl::Duration time) const {
  pollfd end = {.fd = end_.get(), .events = POLLIN, .revents = 0};
  return poll(&end, 1, static_cast<int>(absl::ToInt64Milliseconds(time))) <= 0;
}

// Returns when the guard, or the link, has ended.
void GuardLink::Attend(const UniqueFd& connection) {
  SetState(State::kAsked);
  const auto size = static_cast<ssize_t>(kServingLine.size());
  if (send(connection.get(), kServingLine.data(), kServingLine.size(), MSG_NOSIGNAL) != size)
    return;
  LogInfo("ublkd-guard is there", {{"socket", socket_path_}});
  std::string said;
  for (;;) {
    std::array<pollfd, 2> events = {{{.fd = connection.get(), .events = POLLIN, .revents = 0},
                                     {.fd = end_.get(), .events = POLLIN, .revents = 0}}};
    if (poll(events.data(), events.size(), -1) < 0) continue;
    if (events[1].revents != 0) return;
    std::array<char, 64> piece;
    const ssize_t got = recv(connection.get(), piece.data(), piece.size(), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) break;
    if (said.size() < piece.size()) said.append(piece.data(), static_cast<size_t>(got));
    if (absl::StartsWith(said, kClearLine)) SetState(State::kClear);
  }
  LogWarning("ublkd-guard has ended", {{"socket", socket_path_}});
}

}  // namespace ublkd::volume
