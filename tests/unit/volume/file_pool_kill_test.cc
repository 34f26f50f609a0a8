// SPDX-License-Identifier: Apache-2.0
//
// A process that creates, formats, grows and deletes volumes is killed at random moments; whatever
// it had been told is done must be there afterwards, and nothing half-made.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "daemon/volume/file_pool.h"
#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::volume {
namespace {

constexpr int kKills = 200;
constexpr int kStartMs = 30'000;
constexpr int kMaxDelayUs = 12'000;
constexpr uint64_t kVolumeBytes = 64 << 10;
constexpr uint64_t kGrownBytes = 192 << 10;
constexpr char kUuid[] = "01234567-89ab-cdef-0123-456789abcdef";
constexpr std::array kNames = {'a', 'b', 'c'};

enum class Act : char {
  kCreate = 'C',
  kFormatting = 'F',
  kFormatted = 'D',
  kGrow = 'G',
  kDelete = 'X'
};
constexpr std::array kActs = {Act::kCreate, Act::kFormatting, Act::kFormatted, Act::kGrow,
                              Act::kDelete};

/// What the process reports: "about to" before an act, "done" after it.
struct Report {
  char name;
  Act act;
  bool done;
};

/// A volume's state in the words of its last act; kDelete for one that is not there.
using States = std::map<char, Act>;

VolumeRequest Request(char name) {
  VolumeRequest request;
  request.name = std::string(1, name);
  request.size_bytes = kVolumeBytes;
  // Both ways of making a file are killed.
  request.provisioning = name == 'a' ? Provisioning::kThick : Provisioning::kThin;
  return request;
}

absl::Status Perform(FilePool& pool, char name, Act act) {
  const std::string volume(1, name);
  const Format::State formatting = Format::State::kFormatting;
  switch (act) {
    case Act::kCreate:
      return pool.Create(Request(name)).status();
    case Act::kFormatting:
      return pool.SetFormat(volume, Format::State::kNever, {formatting, "ext4", kUuid, {}})
          .status();
    case Act::kFormatted:
      return pool.SetFormat(volume, formatting, {Format::State::kFormatted, "ext4", kUuid, {}})
          .status();
    case Act::kGrow:
      return pool.Resize(volume, kGrownBytes).status();
    case Act::kDelete:
      return pool.Delete(volume);
  }
  return absl::InternalError("no such act");
}

// Goes through the acts in order, volume after volume, until it is killed.
[[noreturn]] void Work(const std::string& path, States states, int report_fd) {
  auto pool = FilePool::Open({"p", path, 1.0});
  if (!pool.ok()) _exit(1);
  for (size_t turn = 0;; ++turn) {
    const char name = kNames[turn % kNames.size()];
    const auto now = std::find(kActs.begin(), kActs.end(), states[name]);
    const Act next = now + 1 == kActs.end() ? kActs.front() : *(now + 1);
    Report report{name, next, false};
    if (write(report_fd, &report, sizeof(report)) != sizeof(report)) _exit(2);
    if (!Perform(**pool, name, next).ok()) _exit(3);
    report.done = true;
    if (write(report_fd, &report, sizeof(report)) != sizeof(report)) _exit(4);
    states[name] = next;
  }
}

Act StateOf(FilePool& pool, char name) {
  const auto record = pool.Describe(std::string(1, name));
  if (!record.ok()) return Act::kDelete;
  if (record->size_bytes == kGrownBytes) return Act::kGrow;
  switch (record->format.state) {
    case Format::State::kFormatting:
      return Act::kFormatting;
    case Format::State::kFormatted:
      return Act::kFormatted;
    default:
      return Act::kCreate;
  }
}

// Nothing but complete volumes is in the folder.
void CheckNothingIsHalfMade(const TempDir& dir, FilePool& pool) {
  std::set<std::string> expected;
  for (const std::string& name : pool.Names()) {
    expected.insert({name + ".img", name + ".json"});
    EXPECT_THAT(pool.Locate(name), IsOk());
    EXPECT_EQ(pool.Get(name)->content, Content::kEmpty);
  }
  EXPECT_EQ(dir.Names(), expected);
}

TEST(FilePoolKill, TwoHundredKillsLoseNothingAndLeaveNothing) {
  const TempDir dir;
  States states;
  for (const char name : kNames) states[name] = Act::kDelete;
  std::mt19937 random(20260131);
  std::uniform_int_distribution<int> delay_us(0, kMaxDelayUs);
  int interrupted = 0;

  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    int reports[2];
    ASSERT_EQ(pipe(reports), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) Work(dir.path(), states, reports[1]);
    close(reports[1]);
    // Every other worker dies in the middle of its work, however slowly it starts; the rest may die
    // while they open the pool.
    pollfd working = {.fd = reports[0], .events = POLLIN, .revents = 0};
    if (kill_number % 2 == 0) {
      ASSERT_EQ(poll(&working, 1, kStartMs), 1);
    }
    // The random moment of the kill, not a wait for something.
    std::this_thread::sleep_for(std::chrono::microseconds(delay_us(random)));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the worker ended by itself with " << WEXITSTATUS(status);

    std::optional<Report> open;
    Report report;
    while (read(reports[0], &report, sizeof(report)) == sizeof(report)) {
      if (report.done) states[report.name] = report.act;
      open = report.done ? std::nullopt : std::make_optional(report);
    }
    close(reports[0]);
    if (open.has_value()) ++interrupted;

    auto pool = FilePool::Open({"p", dir.path(), 1.0});
    ASSERT_THAT(pool, IsOk());
    for (const char name : kNames) {
      const Act found = StateOf(**pool, name);
      const bool may_be_next = open.has_value() && open->name == name && found == open->act;
      EXPECT_TRUE(found == states[name] || may_be_next)
          << "kill " << kill_number << ": volume " << name << " is in state "
          << static_cast<char>(found) << ", acknowledged was " << static_cast<char>(states[name]);
      states[name] = found;
    }
    CheckNothingIsHalfMade(dir, **pool);
    if (HasFailure()) return;
  }
  EXPECT_GT(interrupted, kKills / 10) << "too few kills hit a running call to mean anything";
}

}  // namespace
}  // namespace ublkd::volume
