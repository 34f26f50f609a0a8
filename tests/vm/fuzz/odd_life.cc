// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/odd_life.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/vm/driver/zero_copy.h"
#include "tests/vm/fuzz/descriptors.h"

namespace ublkd::driver_fuzz {

using driver_test::Geometry;
using driver_test::QueueServer;
using driver_test::Ring;

namespace {

constexpr unsigned kEntries = 32;
constexpr unsigned kDeath = 400;  // one in so many steps is the last

std::unique_ptr<Ring> NewRing() {
  auto ring = std::make_unique<Ring>(kEntries, 0);
  if (ring->error() == 0) io_uring_register_buffers_sparse(ring->get(), driver_test::kPlaces);
  return ring;
}

// Takes the descriptors of a queue away from under the server.
void UnmapOne(uint32_t id) {
  std::ifstream maps("/proc/self/maps");
  const std::string path = driver_test::CharPath(id);
  std::string line;
  while (std::getline(maps, line)) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char dash = 0;
    if (line.find(path) == std::string::npos) continue;
    if (!(std::istringstream(line) >> std::hex >> begin >> dash >> end)) continue;
    munmap(reinterpret_cast<void*>(begin), end - begin);
    return;
  }
}

}  // namespace

OddLife::OddLife(Context& context, uint32_t id, const Geometry& geometry, int chan)
    : context_(context),
      dice_(context.dice),
      id_(id),
      geometry_(geometry),
      chan_(chan),
      attack_(context.board.tally, context.dice, chan, geometry),
      ring_(NewRing()) {}

void OddLife::AnswerSome(driver_test::Server& server) {
  if (!dice_.OneIn(8)) return;
  const auto queue = static_cast<uint16_t>(dice_.Below(geometry_.queues));
  const bool wrong = dice_.OneIn(8);
  // Its thread may be dead: nobody waits for it.
  server.Post(queue, [wrong](QueueServer& q) {
    for (const uint16_t tag : q.kept()) {
      const auto bytes = static_cast<int>(q.Desc(tag).nr_sectors * driver_test::kSectorBytes);
      q.Commit(tag, wrong ? -EIO : bytes);
    }
  });
}

void OddLife::Fork() {
  const bool executes = dice_.OneIn(2);
  const bool keeps = dice_.OneIn(4);
  const auto time = static_cast<useconds_t>(dice_.Below(300'000));
  const int ring = ring_->get()->ring_fd;
  fcntl(chan_, F_SETFD, keeps ? 0 : FD_CLOEXEC);
  const pid_t child = fork();
  if (child == 0) {
    // Other threads of the parent may have held locks: only system calls from here on.
    if (executes) execl("/bin/sleep", "sleep", "0.2", nullptr);
    syscall(SYS_io_uring_enter, ring, 1, 0, IORING_ENTER_GETEVENTS, nullptr, 0);
    usleep(time);
    _exit(0);
  }
  context_.board.tally.Count(Kind::kFork, child > 0);
}

void OddLife::Pass() {
  if (dice_.OneIn(2)) {
    PassOn(context_.socket[0], {.fd = chan_, .kind = PassedKind::kChan, .device = id_});
    return;
  }
  // With commands on it.
  attack_.SendBurst(*ring_);
  PassOn(context_.socket[0],
         {.fd = ring_->get()->ring_fd, .kind = PassedKind::kRing, .device = id_});
}

void OddLife::ShareMemory() {
  if (dice_.OneIn(3)) {
    const int err = control_.Run(UBLK_U_CMD_UNREG_BUF, {.dev_id = id_, .data = dice_.Below(4)});
    context_.board.tally.Count(Kind::kUnshareMemory, err == 0);
    return;
  }
  const ublk_shmem_buf_reg share = RandomShare(context_);
  const int index =
      control_.Run(UBLK_U_CMD_REG_BUF, {.dev_id = id_, .len = sizeof(share), .addr = &share});
  context_.board.tally.Count(Kind::kShareMemory, index >= 0);
}

void OddLife::Die() {
  constexpr std::chrono::milliseconds kPatience{500};
  switch (dice_.Below(9)) {
    case 0:
      _exit(0);
    case 1:
      kill(getpid(), SIGKILL);
      break;
    case 2:
      control_.Send(UBLK_U_CMD_STOP_DEV, {.dev_id = id_});
      context_.board.tally.Count(Kind::kStop, control_.Finish(kPatience).value_or(-ETIME) == 0);
      break;
    case 3:
      control_.Send(UBLK_U_CMD_DEL_DEV_ASYNC, {.dev_id = id_});
      context_.board.tally.Count(Kind::kDelete, control_.Finish(kPatience).value_or(-ETIME) == 0);
      break;
    case 4:
      control_.Send(UBLK_U_CMD_QUIESCE_DEV, {.dev_id = id_, .data = 400});
      context_.board.tally.Count(Kind::kQuiesce, control_.Finish(kPatience).value_or(-ETIME) == 0);
      break;
    case 5:
      close(chan_);
      ring_.reset();
      break;
    case 6:
      UnmapOne(id_);
      break;
    case 7:
      // The other threads go on.
      syscall(SYS_exit, 0);
      break;
    default:
      execl("/bin/sleep", "sleep", "0.1", nullptr);
      break;
  }
  _exit(0);
}

void OddLife::DoSomething() {
  if (dice_.OneIn(kDeath)) Die();
  switch (dice_.Below(12)) {
    case 0:
      if (dice_.OneIn(8)) Fork();
      break;
    case 1:
      if (dice_.OneIn(3)) Pass();
      break;
    case 2:
      if ((geometry_.flags & UBLK_F_SHMEM_ZC) != 0) ShareMemory();
      break;
    case 3:
      attack_.Anything(*ring_);
      break;
    case 4:
      if (dice_.OneIn(8)) ring_ = NewRing();
      break;
    case 5:
      if (dice_.OneIn(kDeath / 8)) UnmapOne(id_);
      break;
    default:
      break;
  }
}

}  // namespace ublkd::driver_fuzz
