// SPDX-License-Identifier: Apache-2.0
#include "tests/vm/fuzz/io_commands.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstring>

#include "tests/vm/driver/batch_server.h"
#include "tests/vm/driver/user_copy.h"
#include "tests/vm/driver/zero_copy.h"

namespace ublkd::driver_fuzz {

using driver_test::Element;
using driver_test::kPage;
using driver_test::Ring;

namespace {

struct Order {
  uint32_t op;
  Kind kind;
};

constexpr Order kTagOrders[] = {
    {UBLK_U_IO_FETCH_REQ, Kind::kFetch},
    {UBLK_U_IO_FETCH_REQ, Kind::kFetch},
    {UBLK_U_IO_COMMIT_AND_FETCH_REQ, Kind::kCommit},
    {UBLK_U_IO_COMMIT_AND_FETCH_REQ, Kind::kCommit},
    {UBLK_U_IO_NEED_GET_DATA, Kind::kGetData},
    {UBLK_U_IO_REGISTER_IO_BUF, Kind::kRegister},
    {UBLK_U_IO_UNREGISTER_IO_BUF, Kind::kUnregister},
};
constexpr Order kBatchOrders[] = {
    {UBLK_U_IO_PREP_IO_CMDS, Kind::kBatchPrep},
    {UBLK_U_IO_COMMIT_IO_CMDS, Kind::kBatchCommit},
    {UBLK_U_IO_COMMIT_IO_CMDS, Kind::kBatchCommit},
    {UBLK_U_IO_FETCH_IO_CMDS, Kind::kBatchFetch},
};
constexpr unsigned kMangled = 10;  // one in so many has wrong arguments
constexpr uint64_t kOwnAccess = UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG;
constexpr size_t kMostMappings = 6;
constexpr size_t kMostOwned = 64;

// A result that a server might commit.
int RandomResult(Dice& dice) {
  return dice.Of<int>({0, 0, 512, 4096, 65536, 1, -EIO, -EAGAIN, -ENOSPC, INT32_MAX, INT32_MIN});
}

}  // namespace

Attack::~Attack() {
  for (const Mapping& mapping : mappings_) munmap(mapping.at, mapping.bytes);
}

size_t Attack::DescBytes(size_t tags) const {
  const size_t each = geometry_.desc_bytes != 0 ? geometry_.desc_bytes : sizeof(ublksrv_io_desc);
  return (tags * each + kPage - 1) / kPage * kPage;
}

void Attack::PutBatch(io_uring_sqe* sqe, Kind kind) {
  const size_t count = 1 + dice_.Below(8);
  auto* elements = reinterpret_cast<Element*>(memory_.data());
  for (size_t i = 0; i < count; ++i) {
    elements[i] = {.head = {.tag = Tag(), .buf_index = 0, .result = RandomResult(dice_)},
                   .addr = reinterpret_cast<uintptr_t>(memory_.data())};
  }
  ublk_batch_io batch = {.q_id = Queue(),
                         .flags = UBLK_BATCH_F_HAS_BUF_ADDR,
                         .nr_elem = static_cast<uint16_t>(count),
                         .elem_bytes = sizeof(Element),
                         .reserved = 0,
                         .reserved2 = 0};
  sqe->addr = reinterpret_cast<uintptr_t>(elements);
  if (kind == Kind::kBatchFetch) {
    batch = {};
    batch.q_id = Queue();
    batch.elem_bytes = sizeof(uint16_t);
    sqe->addr = 0;
    sqe->rw_flags = driver_test::kMultishotFlag;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = driver_test::kBufferGroup;
  }
  if (dice_.OneIn(kMangled)) {
    auto* bytes = reinterpret_cast<unsigned char*>(&batch);
    bytes[dice_.Below(sizeof(batch))] = static_cast<unsigned char>(dice_.Bits());
  }
  if (dice_.OneIn(kMangled)) memory_.Race(memory_.data(), count * sizeof(Element));
  std::memcpy(sqe->cmd, &batch, sizeof(batch));
}

void Attack::Own(uint16_t queue, uint16_t tag) {
  if (owned_.size() >= kMostOwned) owned_.erase(owned_.begin());
  owned_.push_back({.kind = 0, .queue = queue, .tag = tag});
}

Attack::Sent Attack::Choose(Kind kind) {
  Sent sent = {.kind = static_cast<uint16_t>(kind), .queue = Queue(), .tag = Tag()};
  if (kind == Kind::kFetch || owned_.empty() || dice_.OneIn(4)) return sent;
  const size_t i = dice_.Below(owned_.size());
  sent.queue = owned_[i].queue;
  sent.tag = owned_[i].tag;
  if (kind == Kind::kCommit) owned_.erase(owned_.begin() + static_cast<ptrdiff_t>(i));
  return sent;
}

void Attack::PutTag(io_uring_sqe* sqe, Kind kind, uint16_t queue, uint16_t tag) {
  const bool indexed = kind == Kind::kRegister || kind == Kind::kUnregister;
  const bool late = (geometry_.flags & UBLK_F_NEED_GET_DATA) != 0 && kind == Kind::kFetch;
  const bool no_buffer = late || (geometry_.flags & kOwnAccess) != 0;
  ublksrv_io_cmd command = {.q_id = queue,
                            .tag = tag,
                            .result = RandomResult(dice_),
                            .addr = no_buffer ? 0 : reinterpret_cast<uintptr_t>(memory_.data())};
  if (indexed) command.addr = dice_.Below(driver_test::kPlaces);
  if ((geometry_.flags & UBLK_F_AUTO_BUF_REG) != 0 && !indexed) {
    sqe->addr = driver_test::AutoAddr(static_cast<uint16_t>(dice_.Below(driver_test::kPlaces)),
                                      dice_.OneIn(2) ? UBLK_AUTO_BUF_REG_FALLBACK : 0);
  }
  std::memcpy(sqe->cmd, &command, sizeof(command));
}

void Attack::FetchAll(Ring& ring) {
  for (uint16_t queue = 0; queue < geometry_.queues; ++queue) {
    for (uint16_t tag = 0; tag < geometry_.depth; ++tag) {
      const Sent sent = {.kind = static_cast<uint16_t>(Kind::kFetch), .queue = queue, .tag = tag};
      if (io_uring_sq_space_left(ring.get()) == 0) io_uring_submit(ring.get());
      io_uring_sqe* sqe = ring.Command(chan_, UBLK_U_IO_FETCH_REQ);
      PutTag(sqe, Kind::kFetch, queue, tag);
      sqe->user_data = std::bit_cast<uint64_t>(sent);
    }
  }
  io_uring_submit(ring.get());
}

io_uring_sqe* Attack::PutCommand(Ring& ring) {
  const bool batch = (geometry_.flags & UBLK_F_BATCH_IO) != 0;
  const Order& order =
      batch != dice_.OneIn(kMangled) ? dice_.Of(kBatchOrders) : dice_.Of(kTagOrders);
  uint32_t op = order.op;
  if (dice_.OneIn(kMangled)) op = _IOC_NR(op);
  if (dice_.OneIn(kMangled * 4)) op = static_cast<uint32_t>(dice_.Bits());
  io_uring_sqe* sqe = ring.Command(chan_, op);
  if (dice_.OneIn(8)) sqe->flags = IOSQE_ASYNC;
  if (dice_.OneIn(16)) sqe->flags |= IOSQE_IO_LINK;
  const Sent sent = Choose(order.kind);
  sqe->user_data = std::bit_cast<uint64_t>(sent);
  if (order.kind >= Kind::kBatchPrep) {
    PutBatch(sqe, order.kind);
    return sqe;
  }
  PutTag(sqe, order.kind, sent.queue, sent.tag);
  if (!dice_.OneIn(kMangled)) return sqe;
  auto* bytes = reinterpret_cast<unsigned char*>(sqe->cmd);
  bytes[dice_.Below(sizeof(ublksrv_io_cmd))] = static_cast<unsigned char>(dice_.Bits());
  return sqe;
}

void Attack::Answer(uint64_t user_data, int result) {
  const Sent sent = std::bit_cast<Sent>(user_data);
  const Kind kind = static_cast<Kind>(sent.kind);
  tally_.Count(kind, result >= 0);
  if (kind <= Kind::kGetData && result >= 0) Own(sent.queue, sent.tag);
}

void Attack::SendBurst(Ring& ring) {
  constexpr std::chrono::milliseconds kMoment{5};
  const uint64_t count = 1 + dice_.Below(12);
  for (uint64_t i = 0; i < count && io_uring_sq_space_left(ring.get()) > 0; ++i) PutCommand(ring);
  io_uring_submit(ring.get());
  __kernel_timespec moment = {.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds(kMoment).count()};
  io_uring_cqe* cqe = nullptr;
  while (io_uring_wait_cqe_timeout(ring.get(), &cqe, &moment) == 0) {
    Answer(cqe->user_data, cqe->res);
    io_uring_cqe_seen(ring.get(), cqe);
  }
  memory_.Rest();
}

void Attack::Map() {
  if (!mappings_.empty() && (mappings_.size() > kMostMappings || dice_.OneIn(2))) {
    const Mapping mapping = mappings_.back();
    switch (dice_.Below(5)) {
      case 0:
        mprotect(mapping.at, mapping.bytes, PROT_READ | PROT_WRITE);
        return;
      case 1:
        madvise(mapping.at, mapping.bytes,
                dice_.Of<int>({MADV_DONTNEED, MADV_DOFORK, MADV_WILLNEED, MADV_PAGEOUT}));
        return;
      default:
        mappings_.pop_back();
        munmap(mapping.at, mapping.bytes);
        return;
    }
  }
  size_t bytes = DescBytes(geometry_.depth);
  auto offset = static_cast<off_t>(DescBytes(UBLK_MAX_QUEUE_DEPTH) * Queue());
  int prot = PROT_READ;
  if (dice_.OneIn(4)) bytes = (1 + dice_.Below(64)) * kPage;
  if (dice_.OneIn(4)) offset = static_cast<off_t>(dice_.Bits() >> (8 + dice_.Below(48)) << 12);
  if (dice_.OneIn(8)) prot |= PROT_WRITE;
  if (dice_.OneIn(8)) prot |= PROT_EXEC;
  void* at = mmap(nullptr, bytes, prot, dice_.OneIn(4) ? MAP_PRIVATE : MAP_SHARED | MAP_POPULATE,
                  chan_, offset);
  tally_.Count(Kind::kMap, at != MAP_FAILED);
  if (at == MAP_FAILED) return;
  // That it can be read is what was promised.
  volatile std::byte seen = static_cast<const std::byte*>(at)[bytes - 1];
  static_cast<void>(seen);
  mappings_.push_back({at, bytes});
}

void Attack::Copy() {
  const Sent place = Choose(Kind::kCopy);
  off_t at = driver_test::UserCopyAt(place.queue, place.tag);
  if (dice_.OneIn(4)) at += static_cast<off_t>(dice_.Below(geometry_.max_io_bytes));
  if (dice_.OneIn(8)) at |= static_cast<off_t>(UBLKSRV_IO_INTEGRITY_FLAG);
  if (dice_.OneIn(16)) at = static_cast<off_t>(dice_.Bits() >> dice_.Below(40));
  size_t bytes = dice_.Of<size_t>({512, kPage, RacingMemory::kBytes});
  if (dice_.OneIn(8)) bytes = 1 + dice_.Below(RacingMemory::kBytes);
  void* data = dice_.OneIn(16) ? static_cast<void*>(memory_.end() - 1) : memory_.data();
  const ssize_t done =
      dice_.OneIn(2) ? pread(chan_, data, bytes, at) : pwrite(chan_, data, bytes, at);
  tally_.Count(Kind::kCopy, done > 0);
}

void Attack::Anything(Ring& ring) {
  switch (dice_.Below(4)) {
    case 0:
      Map();
      break;
    case 1:
      Copy();
      break;
    default:
      SendBurst(ring);
      break;
  }
}

}  // namespace ublkd::driver_fuzz
