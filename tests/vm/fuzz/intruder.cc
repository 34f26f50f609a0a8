// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/intruder.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <memory>

#include "tests/vm/driver/batch_server.h"
#include "tests/vm/driver/live_device.h"
#include "tests/vm/driver/zero_copy.h"
#include "tests/vm/fuzz/descriptors.h"
#include "tests/vm/fuzz/io_commands.h"
#include "tests/vm/fuzz/plan.h"

namespace ublkd::driver_fuzz {

using driver_test::Control;
using driver_test::Geometry;
using driver_test::Ring;

namespace {

constexpr unsigned kRingFlags[] = {
    0,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_SQE128 | IORING_SETUP_CQE32,
    IORING_SETUP_SQPOLL,
    IORING_SETUP_IOPOLL,
};
constexpr unsigned kEntries = 32;

struct Victim {
  uint32_t id;
  int chan;             // -1 if it can't be had
  bool opened = false;  // by us
};

// A ring that is not ours: its entries may be submitted and its answers taken.
void UseRing(Context& context, int ring) {
  Dice& dice = context.dice;
  for (uint64_t i = dice.Below(20); i > 0; --i) {
    const long done = syscall(SYS_io_uring_enter, ring, dice.Below(4), 0,
                              dice.OneIn(2) ? IORING_ENTER_GETEVENTS : 0, nullptr, 0);
    context.board.tally.Count(Kind::kPass, done >= 0);
  }
}

void AttackWith(Attack& attack, Dice& dice, Ring& ring) {
  if (ring.error() != 0) return;
  if (dice.OneIn(2)) io_uring_register_buffers_sparse(ring.get(), driver_test::kPlaces);
  for (uint64_t i = dice.Below(40); i > 0; --i) attack.Anything(ring);
}

// Without a server, we are one, and others may start the device with us.
void BecomeServer(Context& context, Attack& attack, Ring& ring, uint32_t id) {
  if (ring.error() != 0) return;
  context.board.servers[id] = getpid();
  attack.FetchAll(ring);
  // It may wait for longer than we live.
  static Control control;
  control.Send(
      control.State(id) == UBLK_S_DEV_DEAD ? UBLK_U_CMD_START_DEV : UBLK_U_CMD_END_USER_RECOVERY,
      {.dev_id = id, .data = static_cast<uint64_t>(getpid())});
}

void AttackChan(Context& context, const Victim& victim, const Geometry& geometry) {
  Dice& dice = context.dice;
  Attack attack(context.board.tally, dice, victim.chan, geometry);
  if ((geometry.flags & UBLK_F_BATCH_IO) != 0 && !dice.OneIn(4)) {
    driver_test::BatchRing batch(victim.chan);
    if (batch.error() != 0) return;
    for (uint16_t i = 0; i < driver_test::kFetchBuffers; ++i) batch.Provide(i);
    AttackWith(attack, dice, batch.ring());
    return;
  }
  // The rest goes before the ring, or after it.
  auto ring = std::make_unique<Ring>(kEntries, dice.Of(kRingFlags));
  if (victim.opened) BecomeServer(context, attack, *ring, victim.id);
  AttackWith(attack, dice, *ring);
  if (dice.OneIn(2)) ring.reset();
}

Victim Choose(Context& context) {
  constexpr std::chrono::milliseconds kNotLong{20};
  Victim victim = {.id = static_cast<uint32_t>(context.dice.Below(kIds)), .chan = -1};
  const int server = context.board.servers[victim.id];
  if (server > 0 && server != getpid() && context.dice.OneIn(2)) {
    victim.chan = driver_test::TakeCharDevice(server, victim.id, kNotLong);
    return victim;
  }
  victim.chan = open(driver_test::CharPath(victim.id).c_str(), O_RDWR | O_CLOEXEC);
  victim.opened = true;
  return victim;
}

}  // namespace

void RunIntruder(Context& context) {
  Control control;
  for (;;) {
    const std::optional<Passed> passed = TakeOver(context.socket[1]);
    if (passed.has_value()) context.board.tally.Count(Kind::kPass, true);
    if (passed.has_value() && passed->kind == PassedKind::kRing) {
      UseRing(context, passed->fd);
      close(passed->fd);
      continue;
    }
    const Victim victim =
        passed.has_value() ? Victim{.id = passed->device, .chan = passed->fd} : Choose(context);
    if (victim.chan < 0) continue;
    const std::optional<Geometry> geometry = GeometryOf(control, victim.id);
    if (geometry.has_value()) AttackChan(context, victim, *geometry);
    close(victim.chan);
  }
}

}  // namespace ublkd::driver_fuzz
