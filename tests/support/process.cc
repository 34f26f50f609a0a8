// SPDX-License-Identifier: Apache-2.0
#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <thread>

#include "absl/strings/str_join.h"
#include "daemon/base/file.h"
#include "daemon/base/status.h"

extern char** environ;

namespace ublkd::test {
namespace {

absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& argv, int output) {
  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("cannot start ", argv[0]));
  return pid;
}

int ExitCode(int wait_status) {
  constexpr int kSignalBase = 128;
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : kSignalBase + WTERMSIG(wait_status);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Process>> Process::Start(const std::vector<std::string>& argv,
                                                        const std::string& log_path) {
  UBLKD_ASSIGN_OR_RETURN(const UniqueFd log, OpenFile(log_path, O_WRONLY | O_CREAT | O_APPEND));
  UBLKD_ASSIGN_OR_RETURN(const pid_t pid, Spawn(argv, log.get()));
  return std::unique_ptr<Process>(new Process(pid));
}

Process::~Process() {
  if (reaped_) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool Process::Running() {
  if (!reaped_ && waitpid(pid_, &wait_status_, WNOHANG) == pid_) reaped_ = true;
  return !reaped_;
}

void Process::Signal(int signal_number) const {
  if (!reaped_) kill(pid_, signal_number);
}

absl::StatusOr<int> Process::Wait(std::chrono::milliseconds limit) {
  if (!Eventually([this] { return !Running(); }, limit)) {
    return absl::DeadlineExceededError(
        absl::StrCat("process ", pid_, " still runs after ", limit.count(), " ms"));
  }
  return ExitCode(wait_status_);
}

void PauseBeforeNextLook() { std::this_thread::sleep_for(std::chrono::milliseconds(5)); }

absl::StatusOr<std::string> RunCommand(const std::vector<std::string>& argv,
                                       std::chrono::seconds limit) {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus(errno, "cannot make a pipe");
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  UBLKD_ASSIGN_OR_RETURN(const pid_t pid, Spawn(argv, writer.get()));
  writer.Reset();

  const std::string command = absl::StrJoin(argv, " ");
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::string output;
  std::array<char, 4096> piece;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd readable{reader.get(), POLLIN, 0};
    if (left.count() <= 0 || poll(&readable, 1, static_cast<int>(left.count())) == 0) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
      return absl::DeadlineExceededError(
          absl::StrCat("'", command, "' still ran after ", limit.count(), " s; so far:\n", output));
    }
    const ssize_t got = read(reader.get(), piece.data(), piece.size());
    if (got <= 0) break;
    output.append(piece.data(), static_cast<size_t>(got));
  }
  int wait_status = 0;
  waitpid(pid, &wait_status, 0);
  if (const int code = ExitCode(wait_status); code != 0) {
    return absl::InternalError(
        absl::StrCat("'", command, "' ended with exit code ", code, ":\n", output));
  }
  return output;
}

}  // namespace ublkd::test
