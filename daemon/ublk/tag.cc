// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/tag.h"

#include <cerrno>
#include <limits>

#include "daemon/ublk/abi.h"
#include "daemon/ublk/geometry.h"

namespace ublkd::ublk {
namespace {

constexpr uint32_t kOpMask = 0xff;
/// Between two tries to register a request's pages.
constexpr uint64_t kPagesPauseNs = 1'000'000;

Op Decode(uint32_t op_flags) {
  switch (op_flags & kOpMask) {
    case UBLK_IO_OP_WRITE:
      return Op::kWrite;
    case UBLK_IO_OP_FLUSH:
      return Op::kFlush;
    case UBLK_IO_OP_DISCARD:
      return Op::kDiscard;
    case UBLK_IO_OP_WRITE_ZEROES:
      return Op::kWriteZeroes;
    default:
      // The driver sends nothing that the parameters did not announce.
      return Op::kRead;
  }
}

}  // namespace

NextRequest::NextRequest(Tag& tag, uint32_t command, const void* payload, uint64_t address)
    : CommandOperation(tag.place_.ring, tag.place_.char_device, command, payload, address),
      tag_(tag) {}

bool NextRequest::await_resume() noexcept {
  const int32_t result = CommandOperation::await_resume();
  if (result == UBLK_IO_RES_OK) [[likely]] {
    if (!tag_.place_.leaving) [[likely]]
      return true;
    --tag_.place_.live_tags;
    return false;
  }
  tag_.end_result_ = result;
  --tag_.place_.live_tags;
  return false;
}

Tag::Tag(const Place& place) : place_(place) {
  switch (place.mode) {
    case BufferMode::kCopy:
      registered_bytes_ = kHotBytes;
      break;
    case BufferMode::kUserCopy:
      data_file_ = {.fd = place.data_fd,
                    .offset_bytes = UBLKSRV_IO_BUF_OFFSET +
                                    (uint64_t{place.queue} << UBLK_QID_OFF) +
                                    (uint64_t{place.tag} << UBLK_TAG_OFF)};
      break;
    case BufferMode::kZeroCopy: {
      registered_bytes_ = std::numeric_limits<uint32_t>::max();
      registered_ = Registered::kYes;
      const ublk_auto_buf_reg where = {.index = place.buffer_place,
                                       .flags = UBLK_AUTO_BUF_REG_FALLBACK,
                                       .reserved0 = 0,
                                       .reserved1 = 0};
      auto_register_ = ublk_auto_buf_reg_to_sqe_addr(&where);
      break;
    }
  }
}

NextRequest Tag::Send(uint32_t command, int32_t result) {
  ublksrv_io_cmd payload = {};
  payload.q_id = place_.queue;
  payload.tag = place_.tag;
  payload.result = result;
  payload.addr = reinterpret_cast<uintptr_t>(place_.buffer);
  static_assert(sizeof(payload) == uring::CommandOperation::kPayloadBytes);
  return NextRequest(*this, command, &payload, auto_register_);
}

Request Tag::Take() {
  const ublksrv_io_desc& descriptor = *place_.descriptor;
  const uint32_t op_flags = descriptor.op_flags;
  op_ = Decode(op_flags);
  length_bytes_ = uint64_t{descriptor.nr_sectors} * kSectorBytes;
  ++place_.served.held;
  if (place_.metrics) {
    place_.served.counters.Start(op_, place_.tag, place_.ring.batch_ns());
  }
  uring::Buffer buffer;
  if (op_ == Op::kRead || op_ == Op::kWrite) {
    buffer = {.data = place_.buffer, .bytes = static_cast<uint32_t>(length_bytes_)};
    if (buffer.bytes <= registered_bytes_) {
      if (registered_ == Registered::kUntried) [[unlikely]]
        RegisterHotPart();
      if (registered_ == Registered::kYes) buffer.registered_index = place_.buffer_place;
    }
    lacks_pages_ = (op_flags & UBLK_IO_F_NEED_REG_BUF) != 0;
  }
  return {.op = op_,
          .fua = (op_flags & UBLK_IO_F_FUA) != 0,
          .no_unmap = (op_flags & UBLK_IO_F_NOUNMAP) != 0,
          .offset_bytes = descriptor.start_sector * kSectorBytes,
          .length_bytes = length_bytes_,
          .buffer = buffer,
          .data_file = place_.mode == BufferMode::kUserCopy ? &data_file_ : nullptr};
}

void Tag::RegisterHotPart() {
  // Refused without the privilege to lock memory; plain buffers do the same at a higher price.
  const bool registered =
      place_.ring.RegisterBuffer(place_.buffer_place, place_.buffer, kHotBytes).ok();
  registered_ = registered ? Registered::kYes : Registered::kRefused;
}

uring::CommandOperation Tag::PagesCommand(uint32_t command) {
  ublksrv_io_cmd payload = {};
  payload.q_id = place_.queue;
  payload.tag = place_.tag;
  payload.addr = place_.buffer_place;
  return place_.ring.Command(place_.char_device, command, &payload);
}

uring::Task<uring::Result> Tag::RegisterPages() {
  lacks_pages_ = false;
  while (true) {
    const int32_t result = co_await PagesCommand(UBLK_U_IO_REGISTER_IO_BUF);
    has_pages_ = result >= 0;
    // The place may be busy for a moment after a request that was long in its target.
    if (result != -ENOMEM && result != -EBUSY) co_return uring::Result::FromKernel(result);
    co_await place_.ring.Sleep(kPagesPauseNs);
  }
}

uring::Task<uring::Result> Tag::UnregisterPages() {
  has_pages_ = false;
  co_return uring::Result::FromKernel(co_await PagesCommand(UBLK_U_IO_UNREGISTER_IO_BUF));
}

NextRequest Tag::Next(uring::Result answer) {
  if (!fetched_) [[unlikely]] {
    fetched_ = true;
    return Send(UBLK_U_IO_FETCH_REQ, 0);
  }
  --place_.served.held;
  if (place_.metrics) {
    place_.served.counters.Finish(op_, place_.tag, length_bytes_, answer.error_number(),
                                  place_.ring.batch_ns());
  }
  int32_t result = answer.ok() ? 0 : -DiskErrno(answer.error_number());
  // Only reads and writes are answered with a count; a long discard's would not fit.
  if (result == 0 && (op_ == Op::kRead || op_ == Op::kWrite)) {
    result = static_cast<int32_t>(length_bytes_);
  }
  return Send(UBLK_U_IO_COMMIT_AND_FETCH_REQ, result);
}

void Tag::OnHeldBack() {
  if (!place_.metrics) return;
  held_back_ns_ = place_.ring.batch_ns();
  place_.served.counters.HoldBack(place_.tag);
}

void Tag::OnLetPass() {
  if (!place_.metrics) return;
  const uint64_t now_ns = place_.ring.batch_ns();
  place_.served.counters.LetPass(op_, place_.tag, now_ns - held_back_ns_, now_ns);
}

uring::Result Tag::OnException() {
  if (place_.metrics) place_.served.counters.AddException();
  return uring::Result::Error(EIO);
}

}  // namespace ublkd::ublk
