// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/vandal.h"

#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>

#include "tests/vm/driver/control.h"
#include "tests/vm/fuzz/plan.h"
#include "tests/vm/fuzz/racing_memory.h"

namespace ublkd::driver_fuzz {

using driver_test::Control;
using driver_test::ControlArgs;
using driver_test::kAnyId;

namespace {

struct Order {
  uint32_t op;
  Kind kind;
  unsigned weight;
};

constexpr Order kOrders[] = {
    {UBLK_U_CMD_ADD_DEV, Kind::kAdd, 48},
    {UBLK_U_CMD_SET_PARAMS, Kind::kSetParams, 80},
    {UBLK_U_CMD_GET_PARAMS, Kind::kGet, 24},
    {UBLK_U_CMD_GET_DEV_INFO, Kind::kGet, 24},
    {UBLK_U_CMD_GET_DEV_INFO2, Kind::kGet, 24},
    {UBLK_U_CMD_GET_QUEUE_AFFINITY, Kind::kGet, 24},
    {UBLK_U_CMD_GET_FEATURES, Kind::kGet, 8},
    {UBLK_U_CMD_START_DEV, Kind::kStart, 48},
    {UBLK_U_CMD_END_USER_RECOVERY, Kind::kEndRecovery, 48},
    {UBLK_U_CMD_START_USER_RECOVERY, Kind::kStartRecovery, 32},
    {UBLK_U_CMD_UPDATE_SIZE, Kind::kResize, 32},
    {UBLK_U_CMD_QUIESCE_DEV, Kind::kQuiesce, 24},
    {UBLK_U_CMD_TRY_STOP_DEV, Kind::kTryStop, 16},
    {UBLK_U_CMD_STOP_DEV, Kind::kStop, 1},
    {UBLK_U_CMD_DEL_DEV, Kind::kDelete, 1},
    {UBLK_U_CMD_DEL_DEV_ASYNC, Kind::kDelete, 1},
    {UBLK_U_CMD_REG_BUF, Kind::kShareMemory, 32},
    {UBLK_U_CMD_UNREG_BUF, Kind::kUnshareMemory, 32},
};
constexpr unsigned kMangled = 8;    // one in so many has wrong arguments
constexpr unsigned kRaced = 8;      // one in so many changes while it runs
constexpr unsigned kUnlikely = 64;  // one in so many is for a device far away
constexpr unsigned kPaths = 16;     // one in so many of root's commands has a path
constexpr uid_t kUser = 1000;

const Order& RandomOrder(Dice& dice) {
  unsigned sum = 0;
  for (const Order& order : kOrders) sum += order.weight;
  uint64_t at = dice.Below(sum);
  for (const Order& order : kOrders) {
    if (at < order.weight) return order;
    at -= order.weight;
  }
  return kOrders[0];
}

class Vandal {
 public:
  Vandal(Context& context, bool ordinary)
      : context_(context),
        dice_(context.dice),
        paths_(ordinary ? 1 : kPaths),
        // Others are not granted.
        features_(ordinary ? UBLK_F_NEED_GET_DATA | UBLK_F_PER_IO_DAEMON : context.features),
        unprivileged_(ordinary ? UBLK_F_UNPRIVILEGED_DEV : 0) {}

  void RunOne() {
    const Order& order = RandomOrder(dice_);
    uint32_t id = static_cast<uint32_t>(dice_.Below(kIds));
    if (dice_.OneIn(kUnlikely)) id = static_cast<uint32_t>(dice_.Bits());
    ControlArgs args = {.dev_id = id};
    Fill(order, args);
    uint32_t op = dice_.OneIn(4) ? _IOC_NR(order.op) : order.op;
    Kind kind = order.kind;
    if (dice_.OneIn(kMangled)) Mangle(args);
    if (dice_.OneIn(kUnlikely)) {
      op =
          dice_.OneIn(2) ? static_cast<uint32_t>(dice_.Bits()) : order.op ^ (1U << dice_.Below(32));
      kind = Kind::kNonsense;
    }
    const bool raced = dice_.OneIn(kRaced);
    if (raced) Race(args);
    Send(op, args, kind);
    memory_.Rest();
  }

 private:
  template <typename T>
  void Put(ControlArgs& args, const T& value) {
    // Now and then where the next byte can't be read.
    std::byte* at = dice_.OneIn(4) ? memory_.end() - sizeof(value) : memory_.data();
    std::memcpy(at, &value, sizeof(value));
    args.addr = at;
    args.len = sizeof(value);
  }

  // Arguments that make sense.
  void Fill(const Order& order, ControlArgs& args) {
    const auto server = static_cast<uint64_t>(
        args.dev_id < kIds ? context_.board.servers[args.dev_id].load() : getpid());
    args.addr = memory_.data();
    switch (order.op) {
      case UBLK_U_CMD_ADD_DEV:
        if (dice_.OneIn(8)) args.dev_id = kAnyId;
        Put(args, RandomInfo(args.dev_id));
        break;
      case UBLK_U_CMD_SET_PARAMS:
      case UBLK_U_CMD_GET_PARAMS:
        Put(args, RandomParams(dice_, RandomGeometry(dice_, context_.features)));
        break;
      case UBLK_U_CMD_GET_DEV_INFO:
      case UBLK_U_CMD_GET_DEV_INFO2:
        args.len = sizeof(ublksrv_ctrl_dev_info);
        break;
      case UBLK_U_CMD_GET_QUEUE_AFFINITY:
        args.len = dice_.Of<uint16_t>({8, 64, 1024});
        args.data = dice_.Below(4);
        break;
      case UBLK_U_CMD_GET_FEATURES:
        args.len = UBLK_FEATURES_LEN;
        break;
      case UBLK_U_CMD_START_DEV:
      case UBLK_U_CMD_END_USER_RECOVERY:
        args.data = server;
        break;
      case UBLK_U_CMD_UPDATE_SIZE:
        args.data = dice_.Of<uint64_t>({2048, 16384, 16384, 32768, 32768, 8});
        break;
      case UBLK_U_CMD_QUIESCE_DEV:
        args.data = dice_.Of<uint64_t>({1, 20, 500});
        break;
      case UBLK_U_CMD_REG_BUF:
        Put(args, RandomShare(context_));
        break;
      case UBLK_U_CMD_UNREG_BUF:
        args.data = dice_.Below(4);
        break;
      default:
        break;
    }
    const bool has_path = order.op == UBLK_U_CMD_GET_DEV_INFO2 || dice_.OneIn(paths_);
    if (has_path && order.op != UBLK_U_CMD_ADD_DEV) AddPath(args);
  }

  ublksrv_ctrl_dev_info RandomInfo(uint32_t id) {
    ublksrv_ctrl_dev_info info = driver_test::InfoOf(RandomGeometry(dice_, features_), id);
    info.flags |= unprivileged_;
    return info;
  }

  // In front of what the buffer has.
  void AddPath(ControlArgs& args) {
    const std::string path = driver_test::CharPath(args.dev_id);
    const auto bytes = static_cast<uint16_t>(path.size() + 1);
    std::memcpy(path_buffer_, path.c_str(), bytes);
    if (args.len != 0) std::memcpy(path_buffer_ + bytes, args.addr, args.len);
    args.addr = path_buffer_;
    args.path_len = bytes;
    args.len = static_cast<uint16_t>(args.len + bytes);
  }

  void Mangle(ControlArgs& args) {
    switch (dice_.Below(5)) {
      case 0:
        args.len = static_cast<uint16_t>(dice_.OneIn(2) ? dice_.Below(256) : dice_.Bits());
        break;
      case 1:
        args.addr = RacingMemory::BadAddress(dice_);
        break;
      case 2:
        args.data = dice_.OneIn(2) ? dice_.Bits() : dice_.Below(100);
        break;
      case 3:
        args.queue_id = static_cast<uint16_t>(dice_.Below(4));
        break;
      default:
        args.path_len = static_cast<uint16_t>(dice_.OneIn(2) ? dice_.Below(64) : dice_.Bits());
        break;
    }
  }

  // The buffer changes while the kernel reads it, or the queue entry does, but for what says which
  // kind of an entry it is.
  void Race(const ControlArgs& args) {
    io_uring_sq& sq = control_->ring().get()->sq;
    if (dice_.OneIn(2)) {
      const unsigned next = sq.sqe_tail & *sq.kring_mask;
      memory_.Race(reinterpret_cast<std::byte*>(sq.sqes[size_t{next} * 2].cmd),
                   sizeof(ublksrv_ctrl_cmd));
    } else if (args.addr == memory_.data()) {
      memory_.Race(memory_.data(), args.len);
    }
  }

  // Waits only for what ends soon. A ring with a command that waits is left, with the command.
  void Send(uint32_t op, const ControlArgs& args, Kind kind) {
    constexpr std::chrono::milliseconds kPatience{400};
    control_->Send(op, args, dice_.OneIn(8) ? IOSQE_ASYNC : 0);
    const auto result =
        control_->Finish(dice_.OneIn(16) ? std::chrono::milliseconds(0) : kPatience);
    context_.board.tally.Count(kind, result.value_or(-ETIME) >= 0);
    memory_.Rest();
    if (!result.has_value()) control_ = std::make_unique<Control>();
  }

  Context& context_;
  Dice& dice_;
  std::unique_ptr<Control> control_ = std::make_unique<Control>();
  const unsigned paths_;  // one in so many commands has a path
  const uint64_t features_;
  const uint64_t unprivileged_;
  RacingMemory memory_;
  std::byte path_buffer_[1 << 16];
};

}  // namespace

void RunVandal(Context& context) {
  // The nodes are everybody's.
  const bool ordinary = context.dice.OneIn(6);
  if (ordinary && (setresgid(kUser, kUser, kUser) != 0 || setresuid(kUser, kUser, kUser) != 0)) {
    return;
  }
  const auto vandal = std::make_unique<Vandal>(context, ordinary);
  for (;;) vandal->RunOne();
}

}  // namespace ublkd::driver_fuzz
