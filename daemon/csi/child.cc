// SPDX-License-Identifier: Apache-2.0
#include "daemon/csi/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "daemon/base/file.h"
#include "daemon/base/log.h"
#include "daemon/base/status.h"

namespace ublkd::csi {
namespace {

using Clock = std::chrono::steady_clock;

// How long a killed child gets to die before it is left behind.
constexpr std::chrono::milliseconds kDeathGrace{1000};
constexpr int kSignalExitBase = 128;
constexpr int kCannotExecute = 127;
constexpr int kFirstFreeFd = 3;

class StuckChildren {
 public:
  static StuckChildren& Get() {
    static auto* const instance = new StuckChildren;
    return *instance;
  }

  void Add(const std::string& owner, pid_t pid) {
    const std::lock_guard lock(mutex_);
    children_.emplace(owner, pid);
  }

  bool Contains(const std::string& owner) {
    const std::lock_guard lock(mutex_);
    for (auto child = children_.begin(); child != children_.end();) {
      const bool ended = waitpid(child->second, nullptr, WNOHANG) != 0;
      child = ended ? children_.erase(child) : std::next(child);
    }
    return children_.count(owner) != 0;
  }

 private:
  std::mutex mutex_;
  std::multimap<std::string, pid_t> children_;
};

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "cannot make a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// In the child, right after fork: it must not outlive its parent, must be killable as a group and
// must hold nothing of the parent's. Leaves `keep` as descriptor 3.
void IsolateChild(pid_t parent, int keep) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kCannotExecute);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  (void)signal(SIGPIPE, SIG_DFL);
  if (keep != kFirstFreeFd) dup2(keep, kFirstFreeFd);
  close_range(kFirstFreeFd + 1, UINT_MAX, 0);
}

int RemainingMs(Clock::time_point deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX));
}

// Appends what is there to read; false at the end of the stream.
bool Drain(int fd, size_t keep_bytes, std::string& text) {
  char buffer[1024];
  const ssize_t got = read(fd, buffer, sizeof(buffer));
  if (got < 0) return errno == EINTR || errno == EAGAIN;
  text.append(buffer, static_cast<size_t>(got));
  if (text.size() > keep_bytes) text.erase(0, text.size() - keep_bytes);
  return got > 0;
}

// The wait status of `pid`, or nothing when it did not end by `deadline`. What it writes to
// `output` meanwhile is collected.
std::optional<int> WaitForEnd(pid_t pid, int output, Clock::time_point deadline, size_t keep_bytes,
                              std::string& text) {
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  bool open = true;
  for (;;) {
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) == pid) {
      // What it wrote last is in the pipe; somebody it started may hold the other end open.
      fcntl(output, F_SETFL, O_NONBLOCK);
      while (open && Drain(output, keep_bytes, text) && errno != EAGAIN) errno = 0;
      return status;
    }
    const int wait_ms = RemainingMs(deadline);
    if (wait_ms == 0) return std::nullopt;
    pollfd events[] = {{process.get(), POLLIN, 0}, {open ? output : -1, POLLIN, 0}};
    poll(events, 2, wait_ms);
    if (events[1].revents != 0) open = Drain(output, keep_bytes, text);
  }
}

// Ends a child that is late; true when it is gone.
bool Kill(pid_t pid, int output, const std::string& owner) {
  kill(-pid, SIGKILL);
  kill(pid, SIGKILL);
  std::string ignored;
  if (WaitForEnd(pid, output, Clock::now() + kDeathGrace, 0, ignored).has_value()) return true;
  StuckChildren::Get().Add(owner, pid);
  LogError("a child hangs in the kernel and is left behind", {{"owner", owner}, {"pid", pid}});
  return false;
}

absl::StatusOr<std::string> FindProgram(const std::string& name) {
  const char* path = getenv("PATH");
  if (path == nullptr) path = "/usr/sbin:/usr/bin:/sbin:/bin";
  for (const auto folder : absl::StrSplit(path, ':', absl::SkipEmpty())) {
    std::string candidate = absl::StrCat(folder, "/", name);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return absl::NotFoundError(absl::StrCat("cannot run ", name, ": it is not installed in ", path,
                                          "; install it in the image of ublkd-csi"));
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

[[noreturn]] void Execute(const char* program, char* const* argv, char* const* environment) {
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  dup2(kFirstFreeFd, STDOUT_FILENO);
  dup2(kFirstFreeFd, STDERR_FILENO);
  close_range(kFirstFreeFd, UINT_MAX, 0);
  execve(program, argv, environment);
  _exit(kCannotExecute);
}

}  // namespace

absl::StatusOr<CommandResult> RunCommand(const std::string& owner,
                                         const std::vector<std::string>& arguments,
                                         std::chrono::milliseconds deadline) {
  UBLKD_ASSIGN_OR_RETURN(const std::string program, FindProgram(arguments.front()));
  UBLKD_ASSIGN_OR_RETURN(Pipe output, MakePipe());
  // The child may not allocate, so everything it needs is made here.
  std::vector<std::string> argv_text = arguments;
  const char* path = getenv("PATH");
  std::vector<std::string> environment_text = {absl::StrCat("PATH=", path == nullptr ? "" : path),
                                               "LC_ALL=C"};
  const std::vector<char*> argv = Pointers(argv_text);
  const std::vector<char*> environment = Pointers(environment_text);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, absl::StrCat("cannot start ", arguments.front()));
  if (pid == 0) {
    IsolateChild(parent, output.write_end.get());
    Execute(program.c_str(), argv.data(), environment.data());
  }
  output.write_end.Reset();
  CommandResult result;
  const std::optional<int> status = WaitForEnd(pid, output.read_end.get(), Clock::now() + deadline,
                                               CommandResult::kMaxOutputBytes, result.output);
  if (!status.has_value()) {
    const bool dead = Kill(pid, output.read_end.get(), owner);
    return absl::DeadlineExceededError(absl::StrCat(
        absl::StrJoin(arguments, " "), ": did not end in ", deadline.count(), " ms and ",
        dead ? "was killed" : "hangs in the kernel", "; look at the state of its device"));
  }
  result.exit_status =
      WIFEXITED(*status) ? WEXITSTATUS(*status) : kSignalExitBase + WTERMSIG(*status);
  return result;
}

absl::Status RunInChild(const std::string& owner, absl::string_view what,
                        std::chrono::milliseconds deadline, const std::function<int()>& body,
                        void* result, size_t result_bytes) {
  UBLKD_ASSIGN_OR_RETURN(Pipe answer, MakePipe());
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, absl::StrCat(what, ": cannot start a child"));
  if (pid == 0) {
    IsolateChild(parent, answer.write_end.get());
    const int error = body();
    if (error == 0 && result_bytes != 0 &&
        write(kFirstFreeFd, result, result_bytes) != static_cast<ssize_t>(result_bytes)) {
      _exit(EIO);
    }
    _exit(error);
  }
  answer.write_end.Reset();
  std::string bytes;
  const std::optional<int> status =
      WaitForEnd(pid, answer.read_end.get(), Clock::now() + deadline, result_bytes, bytes);
  if (!status.has_value()) {
    Kill(pid, answer.read_end.get(), owner);
    return absl::DeadlineExceededError(
        absl::StrCat(what, ": did not end in ", deadline.count(),
                     " ms; the device does not answer, look at its state with ublkctl"));
  }
  if (!WIFEXITED(*status)) {
    return absl::InternalError(absl::StrCat(what, ": the child that does it was killed"));
  }
  if (WEXITSTATUS(*status) != 0) return ErrnoStatus(WEXITSTATUS(*status), what);
  if (bytes.size() != result_bytes) {
    return absl::InternalError(absl::StrCat(what, ": the child that does it gave no answer"));
  }
  std::copy(bytes.begin(), bytes.end(), static_cast<char*>(result));
  return absl::OkStatus();
}

bool HasStuckChild(const std::string& owner) { return StuckChildren::Get().Contains(owner); }

}  // namespace ublkd::csi
