// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/tag.h"

#include <cerrno>

#include "daemon/ublk/abi.h"
#include "daemon/ublk/geometry.h"

namespace ublkd::ublk {
namespace {

constexpr uint32_t kOpMask = 0xff;

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

NextRequest::NextRequest(Tag& tag, uint32_t command, const void* payload)
    : CommandOperation(tag.place_.ring, tag.place_.char_device, command, payload), tag_(tag) {}

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

NextRequest Tag::Send(uint32_t command, int32_t result) {
  ublksrv_io_cmd payload = {};
  payload.q_id = place_.queue;
  payload.tag = place_.tag;
  payload.result = result;
  payload.addr = reinterpret_cast<uintptr_t>(place_.buffer);
  static_assert(sizeof(payload) == uring::CommandOperation::kPayloadBytes);
  return NextRequest(*this, command, &payload);
}

NextRequest Tag::Fetch() { return Send(UBLK_U_IO_FETCH_REQ, 0); }

Request Tag::Take() {
  const ublksrv_io_desc& descriptor = *place_.descriptor;
  const uint32_t op_flags = descriptor.op_flags;
  op_ = Decode(op_flags);
  length_bytes_ = uint64_t{descriptor.nr_sectors} * kSectorBytes;
  ++place_.served.held;
  if (place_.metrics) {
    start_ns_ = place_.ring.batch_ns();
    place_.served.counters.Start(op_);
  }
  uring::Buffer buffer;
  if (op_ == Op::kRead || op_ == Op::kWrite) {
    buffer = {.data = place_.buffer, .bytes = static_cast<uint32_t>(length_bytes_)};
    if (buffer.bytes <= kHotBytes) {
      if (hot_part_ == HotPart::kUntried) [[unlikely]]
        RegisterHotPart();
      if (hot_part_ == HotPart::kRegistered) buffer.registered_index = place_.buffer_place;
    }
  }
  return {.op = op_,
          .fua = (op_flags & UBLK_IO_F_FUA) != 0,
          .no_unmap = (op_flags & UBLK_IO_F_NOUNMAP) != 0,
          .offset_bytes = descriptor.start_sector * kSectorBytes,
          .length_bytes = length_bytes_,
          .buffer = buffer};
}

void Tag::RegisterHotPart() {
  // Refused without the privilege to lock memory; plain buffers do the same at a higher price.
  const bool registered =
      place_.ring.RegisterBuffer(place_.buffer_place, place_.buffer, kHotBytes).ok();
  hot_part_ = registered ? HotPart::kRegistered : HotPart::kRefused;
}

NextRequest Tag::Commit(uring::Result result) {
  --place_.served.held;
  if (place_.metrics) {
    place_.served.counters.Finish(op_, length_bytes_, !result.ok(),
                                  place_.ring.batch_ns() - start_ns_);
  }
  int32_t answer = -result.error_number();
  // Only reads and writes are answered with a count; a long discard's would not fit.
  if (answer == 0 && (op_ == Op::kRead || op_ == Op::kWrite)) {
    answer = static_cast<int32_t>(length_bytes_);
  }
  return Send(UBLK_U_IO_COMMIT_AND_FETCH_REQ, answer);
}

uring::Result Tag::OnException() {
  if (place_.metrics) place_.served.counters.AddException();
  return uring::Result::Error(EIO);
}

}  // namespace ublkd::ublk
