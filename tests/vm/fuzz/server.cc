// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "tests/vm/driver/batch_server.h"
#include "tests/vm/driver/raw_server.h"
#include "tests/vm/driver/zero_copy.h"
#include "tests/vm/fuzz/handlers.h"
#include "tests/vm/fuzz/odd_life.h"
#include "tests/vm/fuzz/plan.h"

namespace ublkd::driver_fuzz {

using driver_test::BatchServer;
using driver_test::Control;
using driver_test::Geometry;
using driver_test::Server;

namespace {

constexpr unsigned kMostQueueBytes = 256 << 20;  // of buffers: nobody touches most of them

// A device for the server to take, with its state; nothing if another one was faster.
struct Place {
  uint32_t id;
  Geometry geometry;
  int state;
};

void Add(Context& context, Control& control, uint32_t id) {
  const Geometry geometry = RandomGeometry(context.dice, context.features);
  ublksrv_ctrl_dev_info info = driver_test::InfoOf(geometry, id);
  const bool added = control.Add(info) == 0;
  context.board.tally.Count(Kind::kAdd, added);
  if (!added) return;
  // For those that are not root.
  chmod(driver_test::CharPath(id).c_str(), 0666);
  const int err = control.SetParams(id, RandomParams(context.dice, geometry));
  context.board.tally.Count(Kind::kSetParams, err == 0);
}

// Rather one that waits for a server.
uint32_t ChooseId(Context& context, Control& control) {
  uint32_t id = 0;
  for (uint32_t tries = 0; tries < kIds; ++tries) {
    id = static_cast<uint32_t>(context.dice.Below(kIds));
    const int state = control.State(id);
    if (state == UBLK_S_DEV_QUIESCED || state == UBLK_S_DEV_FAIL_IO) break;
  }
  return id;
}

std::optional<Place> FindPlace(Context& context, Control& control) {
  const uint32_t id = ChooseId(context, control);
  // A device without a disk is started once more, or makes room.
  if (control.State(id) == UBLK_S_DEV_DEAD && context.dice.OneIn(2)) {
    context.board.tally.Count(Kind::kDelete, control.DeleteAsync(id) == 0);
  }
  if (control.State(id) == -ENODEV) Add(context, control, id);
  const std::optional<Geometry> geometry = GeometryOf(control, id);
  const int state = control.State(id);
  if (state == UBLK_S_DEV_QUIESCED || state == UBLK_S_DEV_FAIL_IO) {
    context.board.tally.Count(Kind::kStartRecovery, control.StartRecovery(id) == 0);
  }
  if (!geometry.has_value() || state < 0 || state == UBLK_S_DEV_LIVE) return std::nullopt;
  if (uint64_t{geometry->depth} * geometry->max_io_bytes > kMostQueueBytes) return std::nullopt;
  return Place{.id = id, .geometry = *geometry, .state = state};
}

driver_test::ServerOptions RandomOptions(Dice& dice, const Geometry& geometry) {
  driver_test::ServerOptions options;
  options.ring_flags = dice.Of<unsigned>(
      {0, IORING_SETUP_COOP_TASKRUN, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN});
  if (dice.OneIn(8)) options.sqe_flags = IOSQE_ASYNC;
  if (dice.OneIn(24) && geometry.depth > 1) options.fetch_only = 1;
  if ((geometry.flags & UBLK_F_PER_IO_DAEMON) != 0 || dice.OneIn(16)) {
    options.threads_per_queue = static_cast<uint16_t>(1 + dice.Below(3));
  }
  if ((geometry.flags & UBLK_F_SUPPORT_ZERO_COPY) != 0) {
    options.fixed_buffers = driver_test::kPlaces;
  }
  if ((geometry.flags & UBLK_F_AUTO_BUF_REG) != 0) {
    const uint8_t flags = dice.OneIn(2) ? UBLK_AUTO_BUF_REG_FALLBACK : 0;
    options.sqe_addr = [flags](uint16_t tag) { return driver_test::AutoAddr(tag, flags); };
  }
  return options;
}

// START_DEV or END_USER_RECOVERY, which wait for all tags.
void Begin(Control& control, const Place& place) {
  if (place.state == UBLK_S_DEV_DEAD) {
    control.Send(UBLK_U_CMD_START_DEV,
                 {.dev_id = place.id, .data = static_cast<uint64_t>(getpid())});
    return;
  }
  control.Send(UBLK_U_CMD_END_USER_RECOVERY,
               {.dev_id = place.id, .data = static_cast<uint64_t>(getpid())});
}

// Serves until the process ends.
template <typename AnyServer>
void Live(Context& context, const Place& place, AnyServer& server) {
  if (server.error() != 0) return;
  context.board.servers[place.id] = getpid();
  Control control;
  Begin(control, place);
  const Kind begun = place.state == UBLK_S_DEV_DEAD ? Kind::kStart : Kind::kEndRecovery;
  OddLife life(context, place.id, place.geometry, server.fd());
  std::optional<int> result;
  for (;;) {
    if (!result.has_value()) {
      result = control.Finish(std::chrono::milliseconds(5));
      if (result.has_value()) context.board.tally.Count(begun, *result == 0);
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if constexpr (std::is_same_v<AnyServer, Server>) life.AnswerSome(server);
    life.DoSomething();
  }
}

}  // namespace

void RunServer(Context& context) {
  Dice& dice = context.dice;
  Control control;
  const std::optional<Place> place = FindPlace(context, control);
  if (!place.has_value()) return;
  Storage storage(place->geometry);
  const auto handler = Misbehaving(context.board, place->geometry, storage.Honest(),
                                   dice.Of<unsigned>({0, 100, 30, 8}), dice.Bits());
  if ((place->geometry.flags & UBLK_F_BATCH_IO) != 0) {
    BatchServer server(place->id, place->geometry, handler,
                       static_cast<unsigned>(1 + dice.Below(3)));
    Live(context, *place, server);
  } else {
    Server server(place->id, place->geometry, handler, RandomOptions(dice, place->geometry));
    Live(context, *place, server);
  }
}

}  // namespace ublkd::driver_fuzz
