// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/handlers.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "tests/vm/driver/user_copy.h"
#include "tests/vm/fuzz/io_commands.h"

namespace ublkd::driver_fuzz {

using driver_test::Geometry;
using driver_test::Handler;
using driver_test::Request;

namespace {

// Disks may say that they are much larger.
constexpr uint64_t kMostBytes = 32 << 20;
constexpr int kMostNested = 3;

bool MovesData(uint8_t op) {
  return op == UBLK_IO_OP_READ || op == UBLK_IO_OP_WRITE || op == UBLK_IO_OP_ZONE_APPEND;
}

}  // namespace

Storage::Storage(const Geometry& geometry) : bytes_(std::min(geometry.bytes, kMostBytes)) {
  if (geometry.zone_bytes != 0 && (geometry.flags & UBLK_F_USER_COPY) != 0 && bytes_ != 0) {
    Geometry zoned = geometry;
    zoned.bytes = bytes_;
    zones_ = std::make_unique<driver_test::ZoneServer>(zoned);
  }
  const Handler inner = InWay(geometry.flags);
  const uint64_t bytes = bytes_;
  honest_ = [inner, bytes](const Request& request) -> std::optional<int> {
    const bool elsewhere = (request.desc->op_flags & UBLK_IO_F_SHMEM_ZC) != 0;
    if (elsewhere && MovesData(request.op())) return static_cast<int>(request.bytes());
    if (request.op() == UBLK_IO_OP_FLUSH) return 0;
    const uint64_t end =
        request.offset() + (request.op() == UBLK_IO_OP_REPORT_ZONES ? 1 : request.bytes());
    // There is nothing, and nobody misses it.
    if (end > bytes) return static_cast<int>(MovesData(request.op()) ? request.bytes() : 0);
    return inner(request);
  };
}

Handler Storage::InWay(uint64_t flags) {
  if (zones_ != nullptr) return zones_->handler();
  if ((flags & (UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG)) != 0) {
    file_ = std::make_unique<driver_test::BackingFile>(bytes_);
    return (flags & UBLK_F_AUTO_BUF_REG) != 0 ? driver_test::AutoFile(file_->fd())
                                              : driver_test::ZeroCopyFile(file_->fd());
  }
  memory_ = std::make_unique<driver_test::SharedMemory>(std::max<uint64_t>(bytes_, 1));
  return (flags & UBLK_F_USER_COPY) != 0 ? driver_test::UserCopyRam(memory_->data())
                                         : driver_test::RamHandler(memory_->data());
}

namespace {

// Of one thread.
class Mischief {
 public:
  Mischief(Board& board, const Geometry& geometry, int chan, uint64_t seed)
      : dice_(seed), attack_(board.tally, dice_, chan, geometry) {}

  bool Wants(unsigned rate) { return rate != 0 && dice_.OneIn(rate); }

  std::optional<int> Do(const Request& request, const Handler& honest) {
    const auto bytes = static_cast<int>(request.bytes());
    attack_.Own(request.queue, request.tag);
    switch (dice_.Below(11)) {
      case 0:
        return std::nullopt;
      case 1:
        return dice_.Of<int>({-EIO, -EAGAIN, -ENOSPC, -EOPNOTSUPP, -ETIMEDOUT, -4095, INT32_MIN});
      case 2:
        return dice_.Of<int>({0, 1, 511, 512, 4096, bytes / 2});
      case 3:
        return dice_.Of<int>({INT32_MAX, bytes + 512, bytes + 1});
      case 4:
        usleep(static_cast<useconds_t>(dice_.Below(20000)));
        break;
      case 5:
      case 6:
        attack_.Copy();
        break;
      case 10:
        attack_.Map();
        break;
      case 7:
        if (dice_.OneIn(20)) syscall(SYS_exit, 0);
        break;
      default:
        Command(request);
        break;
    }
    return honest(request);
  }

 private:
  // Other requests come while its answer is awaited. If that is a request of its own, nobody but
  // further mischief ends it.
  void Command(const Request& request) {
    if (request.server == nullptr || nested_ >= kMostNested) return;
    ++nested_;
    driver_test::Ring& ring = request.server->ring();
    io_uring_sqe* sqe = attack_.PutCommand(ring);
    sqe->flags &= static_cast<uint8_t>(~IOSQE_IO_LINK);
    const uint64_t user_data = sqe->user_data;
    attack_.Answer(user_data, request.server->Await(sqe));
    --nested_;
  }

  Dice dice_;
  Attack attack_;
  int nested_ = 0;
};

}  // namespace

Handler Misbehaving(Board& board, const Geometry& geometry, Handler honest, unsigned rate,
                    uint64_t seed) {
  const auto threads = std::make_shared<std::atomic<uint64_t>>(0);
  return
      [&board, geometry, honest = std::move(honest), rate, seed, threads](const Request& request) {
        // There is one server in a process.
        thread_local Mischief mischief(board, geometry, request.fd, seed + ++*threads);
        const std::optional<int> result =
            mischief.Wants(rate) ? mischief.Do(request, honest) : honest(request);
        board.tally.Count(Kind::kServe, result.has_value() && *result >= 0);
        return result;
      };
}

}  // namespace ublkd::driver_fuzz
