// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/crew.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "tests/vm/fuzz/disk_users.h"
#include "tests/vm/fuzz/intruder.h"
#include "tests/vm/fuzz/server.h"
#include "tests/vm/fuzz/vandal.h"

namespace ublkd::driver_fuzz {
namespace {

constexpr uint64_t kShortestLifeMs = 300;

void PrintFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::printf("--- %s\n%s\n", path.c_str(), text.c_str());
}

// The parent's pid in /proc/PID/stat.
pid_t ParentOf(const std::filesystem::path& process) {
  std::string line;
  std::getline(std::ifstream(process / "stat"), line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  char state = 0;
  pid_t parent = 0;
  std::istringstream(line.substr(name_end + 1)) >> state >> parent;
  return parent;
}

}  // namespace

const Crew::Role Crew::kRoles[] = {
    {"server", RunServer, 4, 5000},
    {"disk user", RunDiskUser, 4, 8000},
    {"vandal", RunVandal, 2, 8000},
    {"intruder", RunIntruder, 1, 4000},
};

Crew::Crew(Board& board, uint64_t features, uint64_t seed, unsigned slowness)
    : board_(board),
      features_(features),
      seed_(seed),
      slowness_(slowness),
      shared_(static_cast<std::byte*>(mmap(nullptr, kSharedBytes, PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0))),
      dice_(seed) {
  // Children of children come to us when their parents die.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, socket_) != 0) {
    socket_[0] = socket_[1] = -1;
  }
}

Crew::~Crew() { munmap(shared_, kSharedBytes); }

void Crew::Work(const Role& role, uint64_t seed) {
  constexpr rlimit kNone = {.rlim_cur = 0, .rlim_max = 0};
  // A group of its own, to be killed with its children.
  setpgid(0, 0);
  setrlimit(RLIMIT_CORE, &kNone);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Context context = {.board = board_,
                     .features = features_,
                     .socket = {socket_[0], socket_[1]},
                     .shared = shared_,
                     .dice = Dice(seed)};
  role.run(context);
  _exit(0);
}

void Crew::Hire(const Role& role) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // so that neighbours have nothing in common
  const uint64_t seed = seed_ ^ ++hired_ * kOdd;
  const uint64_t life = (kShortestLifeMs + dice_.Below(role.longest_life_ms)) * slowness_;
  const pid_t pid = fork();
  if (pid == 0) Work(role, seed);
  if (pid < 0) return;
  setpgid(pid, pid);
  members_.push_back({pid, &role, Clock::now() + std::chrono::milliseconds(life), false});
}

void Crew::Bury() {
  pid_t pid;
  while ((pid = waitpid(-1, nullptr, WNOHANG)) > 0) {
    const auto member = std::find_if(members_.begin(), members_.end(),
                                     [pid](const Member& m) { return m.pid == pid; });
    if (member != members_.end()) members_.erase(member);
  }
}

void Crew::Tend() {
  Bury();
  for (Member& member : members_) {
    if (member.killed || Clock::now() < member.end) continue;
    kill(dice_.OneIn(4) ? member.pid : -member.pid, SIGKILL);
    member.killed = true;
    board_.tally.Count(Kind::kKill, true);
  }
  for (const Role& role : kRoles) {
    auto count = std::count_if(members_.begin(), members_.end(),
                               [&role](const Member& m) { return m.role == &role; });
    for (; count < role.count; ++count) Hire(role);
  }
}

void Crew::Dismiss() {
  for (const Member& member : members_) kill(-member.pid, SIGKILL);
  // Descriptors may be on their way.
  for (int& end : socket_) {
    close(end);
    end = -1;
  }
}

void Crew::Tell() const {
  for (const auto& process : std::filesystem::directory_iterator("/proc")) {
    if (ParentOf(process.path()) != getpid()) continue;
    const auto pid = static_cast<pid_t>(std::stol(process.path().filename()));
    const auto member = std::find_if(members_.begin(), members_.end(),
                                     [pid](const Member& m) { return m.pid == pid; });
    std::printf("process %d, %s, does not end\n", pid,
                member != members_.end() ? member->role->name : "a child of another");
    for (const auto& task : std::filesystem::directory_iterator(process.path() / "task")) {
      PrintFile(task.path() / "stack");
    }
  }
}

bool Crew::AllGone(std::chrono::seconds limit) {
  const bool gone = driver_test::Eventually(
      [this] {
        // Children of those that are dead already have other groups' leaders, or none.
        for (const auto& process : std::filesystem::directory_iterator("/proc")) {
          if (ParentOf(process.path()) == getpid()) {
            kill(static_cast<pid_t>(std::stol(process.path().filename())), SIGKILL);
          }
        }
        Bury();
        return waitpid(-1, nullptr, WNOHANG) < 0;
      },
      limit);
  if (!gone) Tell();
  return gone;
}

}  // namespace ublkd::driver_fuzz
