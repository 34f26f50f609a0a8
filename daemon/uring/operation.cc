// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/operation.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "daemon/uring/clock.h"
#include "daemon/uring/ring.h"

namespace ublkd::uring {
namespace {

/// The kernel reads them when it takes the submission.
constexpr auto kPauses = [] {
  std::array<__kernel_timespec, TransferOperation::kMaxRetries> pauses = {};
  int64_t pause_ns = 1'000'000;
  for (__kernel_timespec& pause : pauses) {
    pause.tv_nsec = pause_ns;
    pause_ns *= 2;
  }
  return pauses;
}();

}  // namespace

bool BasicOperation::IsPassing(int32_t result) {
  return result == -EAGAIN || result == -ENOMEM || result == -ECANCELED;
}

void BasicOperation::Pause(unsigned n, Handler after) {
  ++ring_.pausing_;
  set_handler(after);
  io_uring_sqe* sqe = ring_.Prepare(*this, IORING_OP_TIMEOUT, File{});
  sqe->addr = reinterpret_cast<uintptr_t>(&kPauses[n]);
  sqe->len = 1;
}

void BasicOperation::EndPause() { --ring_.pausing_; }

TransferOperation::TransferOperation(Ring& ring, uint8_t opcode, File file, Buffer buffer,
                                     uint64_t offset_bytes, int rw_flags)
    : BasicOperation(ring, OnComplete),
      file_(file),
      opcode_(opcode),
      rw_flags_(rw_flags),
      buffer_(buffer),
      offset_bytes_(offset_bytes) {}

void TransferOperation::await_suspend(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  Submit();
}

void TransferOperation::Submit() {
  io_uring_sqe* sqe = ring_.Prepare(*this, opcode_, file_);
  sqe->off = offset_bytes_ + done_bytes_;
  // The pages of a request that the driver has registered begin at 0.
  sqe->addr = reinterpret_cast<uintptr_t>(buffer_.data) + done_bytes_;
  sqe->len = buffer_.bytes - done_bytes_;
  sqe->rw_flags = rw_flags_;
  if (buffer_.registered_index >= 0) {
    sqe->buf_index = static_cast<uint16_t>(buffer_.registered_index);
  }
}

void TransferOperation::OnComplete(Completion& self, int32_t result) {
  auto& transfer = static_cast<TransferOperation&>(self);
  if (result == static_cast<int32_t>(transfer.buffer_.bytes - transfer.done_bytes_)) [[likely]] {
    Finish(self, 0);
  } else {
    transfer.OnIncomplete(result);
  }
}

void TransferOperation::OnIncomplete(int32_t result) {
  if (result > 0) {
    done_bytes_ += static_cast<uint32_t>(result);
    Submit();
  } else if (result == -EINTR) {
    Submit();
  } else if (IsPassing(result) && retries_ < kMaxRetries) {
    RetryAfterPause<TransferOperation>(retries_++);
  } else {
    // Direct I/O refuses to go on in the middle of a block: there the file ends.
    const bool at_end = result == 0 || (result == -EINVAL && done_bytes_ > 0);
    Finish(*this, at_end ? -EIO : result);
  }
}

SimpleOperation::SimpleOperation(Ring& ring, const Fields& fields)
    : BasicOperation(ring, OnComplete), fields_(fields) {}

void SimpleOperation::await_suspend(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  Submit();
}

void SimpleOperation::Submit() {
  io_uring_sqe* sqe = ring_.Prepare(*this, fields_.opcode, fields_.file);
  sqe->off = fields_.offset;
  sqe->addr = fields_.address;
  sqe->len = fields_.length;
  sqe->fsync_flags = fields_.op_flags;
}

void SimpleOperation::OnComplete(Completion& self, int32_t result) {
  auto& operation = static_cast<SimpleOperation&>(self);
  const uint8_t opcode = operation.fields_.opcode;
  const bool on_blocks = opcode == IORING_OP_FSYNC || opcode == IORING_OP_FALLOCATE;
  if (result == -EINTR) [[unlikely]] {
    operation.Submit();
  } else if (on_blocks && IsPassing(result) && operation.retries_ < kMaxRetries) [[unlikely]] {
    operation.RetryAfterPause<SimpleOperation>(operation.retries_++);
  } else {
    Finish(self, result);
  }
}

SleepOperation::SleepOperation(Ring& ring, uint64_t duration_ns)
    : BasicOperation(ring, Finish),
      duration_{.tv_sec = static_cast<int64_t>(duration_ns / kNsPerSecond),
                .tv_nsec = static_cast<int64_t>(duration_ns % kNsPerSecond)} {}

void SleepOperation::await_suspend(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  io_uring_sqe* sqe = ring_.Prepare(*this, IORING_OP_TIMEOUT, File{});
  sqe->addr = reinterpret_cast<uintptr_t>(&duration_);
  sqe->len = 1;
}

CommandOperation::CommandOperation(Ring& ring, File file, uint32_t command, const void* payload,
                                   uint64_t address)
    : BasicOperation(ring, OnComplete), file_(file), command_(command), address_(address) {
  std::memcpy(payload_.data(), payload, kPayloadBytes);
}

void CommandOperation::await_suspend(std::coroutine_handle<> waiter) {
  waiter_ = waiter;
  Submit();
}

void CommandOperation::OnComplete(Completion& self, int32_t result) {
  if (result == -ENOMEM) [[unlikely]] {
    static_cast<CommandOperation&>(self).RetryAfterPause<CommandOperation>(0);
  } else {
    Finish(self, result);
  }
}

void CommandOperation::Submit() {
  io_uring_sqe* sqe = ring_.Prepare(*this, IORING_OP_URING_CMD, file_);
  sqe->cmd_op = command_;
  sqe->addr = address_;
  std::memcpy(sqe->cmd, payload_.data(), kPayloadBytes);
}

}  // namespace ublkd::uring
