// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/command_ring.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "daemon/base/status.h"

namespace ublkd::uring {
namespace {

/// The command and the one that cancels it.
constexpr unsigned kRingEntries = 4;
constexpr int64_t kMsPerSecond = 1000;
constexpr int64_t kNsPerMs = 1'000'000;

constexpr uint64_t kCommandTag = 1;
constexpr uint64_t kCancelTag = 2;

}  // namespace

absl::StatusOr<std::unique_ptr<CommandRing>> CommandRing::Create() {
  std::unique_ptr<CommandRing> ring(new CommandRing);
  const int error = -io_uring_queue_init(kRingEntries, &ring->ring_, IORING_SETUP_SQE128);
  if (error == 0) {
    ring->open_ = true;
    return ring;
  }
  return ErrnoStatus(error, "set up an io_uring for commands to a driver",
                     "allow the io_uring system calls (seccomp profile, sysctl "
                     "kernel.io_uring_disabled)");
}

CommandRing::~CommandRing() {
  if (open_) io_uring_queue_exit(&ring_);
}

int CommandRing::Run(int fd, uint32_t opcode, const void* payload, size_t payload_bytes,
                     int64_t wait_ms) {
  if (payload_bytes > kCommandPayloadBytes) return -EINVAL;
  io_uring_sqe* sqe = NextSubmission();
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = fd;
  sqe->cmd_op = opcode;
  sqe->user_data = kCommandTag;
  std::memcpy(sqe->cmd, payload, payload_bytes);
  if (const int error = Submit(); error != 0) return error;
  int result = 0;
  if (wait_ms == 0) return WaitFor(nullptr, result) ? result : -EIO;
  __kernel_timespec limit = {.tv_sec = wait_ms / kMsPerSecond,
                             .tv_nsec = wait_ms % kMsPerSecond * kNsPerMs};
  if (WaitFor(&limit, result)) return result;
  return CancelCommand();
}

/// A large submission, zeroed. There is room: a ring has one command and its cancellation.
io_uring_sqe* CommandRing::NextSubmission() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) std::abort();
  std::memset(sqe, 0, 2 * sizeof(*sqe));
  return sqe;
}

int CommandRing::Submit() {
  int result = 0;
  do {
    result = io_uring_submit(&ring_);
  } while (result == -EINTR || result == -EAGAIN || result == -EBUSY);
  return result < 0 ? result : 0;
}

/// Takes the next completion; false when `limit` has passed or the ring is broken.
bool CommandRing::Next(__kernel_timespec* limit, uint64_t& tag, int& result) {
  io_uring_cqe* cqe = nullptr;
  int error = 0;
  do {
    error = io_uring_wait_cqe_timeout(&ring_, &cqe, limit);
  } while (error == -EINTR || error == -EAGAIN);
  if (error != 0) return false;
  tag = cqe->user_data;
  result = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  return true;
}

bool CommandRing::WaitFor(__kernel_timespec* limit, int& result) {
  uint64_t tag = 0;
  while (Next(limit, tag, result)) {
    if (tag == kCommandTag) return true;
  }
  return false;
}

/// Interrupts the command, which may have ended by itself meanwhile.
int CommandRing::CancelCommand() {
  io_uring_sqe* sqe = NextSubmission();
  sqe->opcode = IORING_OP_ASYNC_CANCEL;
  sqe->fd = -1;
  sqe->addr = kCommandTag;
  sqe->user_data = kCancelTag;
  if (const int error = Submit(); error != 0) return error;
  int command_result = -EIO;
  bool command_ended = false;
  bool cancel_ended = false;
  while (!command_ended || !cancel_ended) {
    uint64_t tag = 0;
    int result = 0;
    if (!Next(nullptr, tag, result)) return -EIO;
    if (tag == kCommandTag) command_result = result;
    (tag == kCommandTag ? command_ended : cancel_ended) = true;
  }
  const bool interrupted = command_result == -EINTR || command_result == -ECANCELED;
  return interrupted ? -ETIMEDOUT : command_result;
}

}  // namespace ublkd::uring
