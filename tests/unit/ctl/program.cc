// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/ctl/program.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "daemon/base/file.h"

namespace ublkd::ctl {
namespace {

struct Ends {
  UniqueFd ours;
  UniqueFd theirs;
};

Ends MakePipe() {
  std::array<int, 2> fds{};
  if (pipe2(fds.data(), O_CLOEXEC) != 0) abort();
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Ends MakeStdout(Stdout kind) {
  if (kind == Stdout::kPipe) return MakePipe();
  if (kind == Stdout::kFull) {
    Ends ends = MakePipe();
    ends.theirs.Reset(open("/dev/full", O_WRONLY | O_CLOEXEC));
    return ends;
  }
  int ours = -1;
  int theirs = -1;
  if (openpty(&ours, &theirs, nullptr, nullptr, nullptr) != 0) abort();
  fcntl(ours, F_SETFD, FD_CLOEXEC);
  fcntl(theirs, F_SETFD, FD_CLOEXEC);
  return {UniqueFd(ours), UniqueFd(theirs)};
}

[[noreturn]] void Become(const std::vector<std::string>& command,
                         const std::map<std::string, std::string>& environment, int out, int err) {
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  constexpr int kCannotRun = 127;
  _exit(kCannotRun);
}

// Reads both until their other ends are closed.
void ReadAll(int out_fd, int err_fd, Result& result) {
  std::array<pollfd, 2> fds = {pollfd{out_fd, POLLIN, 0}, pollfd{err_fd, POLLIN, 0}};
  const std::array<std::string*, 2> texts = {&result.out, &result.err};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    if (poll(fds.data(), fds.size(), -1) < 0) continue;
    for (size_t i = 0; i < fds.size(); ++i) {
      if (fds[i].revents == 0) continue;
      std::array<char, 4096> chunk{};
      const ssize_t length = read(fds[i].fd, chunk.data(), chunk.size());
      // A terminal reports EIO when its last user has gone.
      if (length <= 0) {
        fds[i].fd = -1;
      } else {
        texts[i]->append(chunk.data(), static_cast<size_t>(length));
      }
    }
  }
}

}  // namespace

Result RunProgram(const std::vector<std::string>& command,
                  const std::map<std::string, std::string>& environment, Stdout stdout_kind) {
  Ends out = MakeStdout(stdout_kind);
  Ends err = MakePipe();
  const pid_t child = fork();
  if (child == 0) Become(command, environment, out.theirs.get(), err.theirs.get());
  out.theirs.Reset();
  err.theirs.Reset();
  Result result;
  ReadAll(out.ours.get(), err.ours.get(), result);
  int status = 0;
  waitpid(child, &status, 0);
  constexpr int kSignalBase = 128;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : kSignalBase + WTERMSIG(status);
  return result;
}

bool IsInstalled(const std::string& program) {
  return RunProgram({"sh", "-c", "command -v " + program}).exit_code == 0;
}

}  // namespace ublkd::ctl
