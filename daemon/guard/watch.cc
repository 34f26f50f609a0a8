// SPDX-License-Identifier: Apache-2.0
#include "daemon/guard/watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"
#include "daemon/base/unix_socket.h"
#include "daemon/volume/guard_link.h"

namespace ublkd::guard {
namespace {

/// The longest line that means anything, and some more.
constexpr size_t kMaxLineBytes = 64;
constexpr absl::Duration kForEver = absl::InfiniteDuration();

int PollTime(absl::Duration limit) {
  return limit == kForEver ? -1 : static_cast<int>(absl::ToInt64Milliseconds(limit));
}

}  // namespace

absl::StatusOr<bool> Watch::TryLock() {
  const std::string path = absl::StrCat(options_.socket, ".lock");
  UBLKD_ASSIGN_OR_RETURN(UniqueFd lock, OpenFile(path, O_RDWR | O_CREAT));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) == 0) {
    lock_ = std::move(lock);
    return true;
  }
  if (errno == EWOULDBLOCK) return false;
  return ErrnoStatus(errno, absl::StrCat("cannot lock ", path));
}

// Returns false when the watch is to end before its turn has come.
absl::StatusOr<bool> Watch::AwaitTurn() {
  UniqueFd other;
  bool said = false;
  for (;;) {
    UBLKD_ASSIGN_OR_RETURN(const bool locked, TryLock());
    if (locked) return true;
    if (!std::exchange(said, true)) {
      LogInfo("another guard is there: this one waits for its turn", {{"socket", options_.socket}});
    }
    if (options_.now && !other.valid()) {
      // It does meanwhile what this one would do.
      absl::StatusOr<UniqueFd> connection = DialUnixSocket(options_.socket);
      if (connection.ok()) {
        const absl::string_view line = volume::kNowLine;
        (void)send(connection->get(), line.data(), line.size(), MSG_NOSIGNAL);
        other = *std::move(connection);
      }
    }
    if (!WaitForEvents(kTurnPause)) return false;
    if (options_.now && !guard_.AnyInUse()) return false;
  }
}

absl::Status Watch::Run() {
  UBLKD_ASSIGN_OR_RETURN(const bool its_turn, AwaitTurn());
  if (!its_turn) return absl::OkStatus();
  // Before an ublkd, or the next guard, sees that this one is gone.
  const absl::Cleanup let_go = [this] { (void)guard_.LetGo(); };
  UBLKD_ASSIGN_OR_RETURN(listener_, ListenOnUnixSocket(options_.socket));
  LogInfo("ublkd-guard watches", {{"socket", options_.socket}, {"now", options_.now}});
  const absl::Duration first_look = clock_() + options_.grace;
  for (;;) {
    if (!served()) {
      if (now() || clock_() >= first_look) {
        guard_.Look(now() ? Guard::Policy::kNow : Guard::Policy::kAsRecorded);
      }
    }
    if (options_.now && !guard_.AnyInUse()) {
      LogInfo("no device is in use: there is nothing to guard");
      return absl::OkStatus();
    }
    if (!WaitForEvents(served() && !options_.now ? kForEver : kLookPause)) return absl::OkStatus();
  }
}

bool Watch::served() const {
  return std::any_of(callers_.begin(), callers_.end(),
                     [](const Caller& caller) { return caller.serves; });
}

bool Watch::now() const {
  return options_.now || std::any_of(callers_.begin(), callers_.end(),
                                     [](const Caller& caller) { return caller.wants_errors; });
}

bool Watch::WaitForEvents(absl::Duration limit) {
  std::vector<pollfd> events = {{.fd = end_, .events = POLLIN, .revents = 0},
                                {.fd = listener_.get(), .events = POLLIN, .revents = 0}};
  for (const Caller& caller : callers_) {
    events.push_back({.fd = caller.connection.get(), .events = POLLIN, .revents = 0});
  }
  // A negative descriptor is passed over.
  if (poll(events.data(), events.size(), PollTime(limit)) < 0) return true;
  if (events[0].revents != 0) return false;
  size_t at = 2;
  for (Caller& caller : callers_) {
    if (events[at++].revents != 0) Listen(caller);
  }
  callers_.remove_if([](const Caller& caller) { return !caller.connection.valid(); });
  if (events[1].revents != 0) Accept();
  return true;
}

void Watch::Accept() {
  UniqueFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection.valid()) return;
  callers_.emplace_back().connection = std::move(connection);
  // An ublkd says at once that it serves: no device may be taken over from under it.
  Listen(callers_.back());
}

// Takes what the caller has said; one that has hung up has no connection afterwards.
void Watch::Listen(Caller& caller) {
  std::array<char, kMaxLineBytes> piece;
  const ssize_t got = recv(caller.connection.get(), piece.data(), piece.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) caller.line.append(piece.data(), static_cast<size_t>(got));
  if (got <= 0 || caller.line.size() > kMaxLineBytes) {
    if (caller.serves) LogWarning("ublkd is gone: its devices wait");
    caller.connection.Reset();
    caller.serves = false;
    return;
  }
  for (size_t end = caller.line.find('\n'); end != std::string::npos;
       end = caller.line.find('\n')) {
    const std::string line = caller.line.substr(0, end + 1);
    caller.line.erase(0, end + 1);
    Obey(caller, line);
  }
}

void Watch::Obey(Caller& caller, const std::string& line) {
  if (line == volume::kNowLine) caller.wants_errors = true;
  if (line != volume::kServingLine) return;
  LogInfo("ublkd is there", {{"devices_held", guard_.held()}});
  caller.serves = true;
  if (!guard_.LetGo()) return;
  const absl::string_view clear = volume::kClearLine;
  (void)send(caller.connection.get(), clear.data(), clear.size(), MSG_NOSIGNAL);
}

}  // namespace ublkd::guard
