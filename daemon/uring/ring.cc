// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/ring.h"

#include <sched.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"
#include "daemon/uring/clock.h"

namespace ublkd::uring {
namespace {

// Flags that the build's header may lack are written as their numbers in the kernel's ABI.
constexpr unsigned kSubmitAll = 1U << 7;
constexpr unsigned kCoopTaskrun = 1U << 8;
constexpr unsigned kSingleIssuer = 1U << 12;
constexpr unsigned kDeferTaskrun = 1U << 13;

/// Threads for what the kernel cannot do without waiting, such as fallocate.
constexpr unsigned kMostWorkers = 8;

/// From best to plain. DEFER_TASKRUN (6.1) runs completions only when the loop asks for them,
/// COOP_TASKRUN (5.19) spares the interrupt that would tell of them.
constexpr std::array<unsigned, 4> kSetups = {
    kSubmitAll | kSingleIssuer | kDeferTaskrun,
    kSubmitAll | kSingleIssuer | kCoopTaskrun,
    kSubmitAll | kCoopTaskrun,
    0,
};

absl::Status SetUpError(int error_number) {
  switch (error_number) {
    case EPERM:
    case EACCES:
      return ErrnoStatus(error_number, "set up an io_uring",
                         "allow the io_uring system calls in the container's seccomp profile and "
                         "see that the sysctl kernel.io_uring_disabled is 0");
    case ENOSYS:
      return ErrnoStatus(error_number, "set up an io_uring", "run a kernel with CONFIG_IO_URING");
    case ENOMEM:
      return ErrnoStatus(error_number, "set up an io_uring", "raise the limit of locked memory");
    default:
      return ErrnoStatus(error_number, "set up an io_uring");
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ring>> Ring::Create(const RingOptions& options) {
  std::unique_ptr<Ring> ring(new Ring(options));
  UBLKD_RETURN_IF_ERROR(ring->Open());
  ring->RegisterTables();
  return ring;
}

absl::Status Ring::Open() {
  int error = EINVAL;
  for (size_t i = options_.skip_setups; i < kSetups.size(); ++i) {
    io_uring_params params = {};
    params.flags = kSetups[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = std::max(options_.completion_entries, 2 * options_.entries);
    error = -io_uring_queue_init_params(options_.entries, &ring_, &params);
    if (error == 0) {
      open_ = true;
      return absl::OkStatus();
    }
    // An unknown flag is EINVAL; all else would be the same with other flags.
    if (error != EINVAL) break;
  }
  return SetUpError(error);
}

void Ring::RegisterTables() {
  // All of these only make things cheaper: without them plain descriptors are used.
  io_uring_register_ring_fd(&ring_);
  if (options_.registered_files > 0 &&
      io_uring_register_files_sparse(&ring_, options_.registered_files) == 0) {
    file_places_.resize(options_.registered_files, false);
  }
  // Of a thousand rings each may have as many, and all count as threads of this process.
  std::array<unsigned, 2> workers = {kMostWorkers, kMostWorkers};
  io_uring_register_iowq_max_workers(&ring_, workers.data());
  if (options_.registered_buffers > 0) {
    // Without it RegisterBuffer fails, and plain buffers are used.
    io_uring_register_buffers_sparse(&ring_, options_.registered_buffers);
  }
}

Ring::~Ring() {
  if (!open_) return;
  // The kernel takes a ring apart some time after it is closed, and until then registered files
  // would stay open, and locked. Unregistering waits for what is in flight, which nobody answers.
  if (!file_places_.empty() && in_flight_ == 0) io_uring_unregister_files(&ring_);
  io_uring_queue_exit(&ring_);
}

File Ring::RegisterFile(int fd) {
  const auto place = std::find(file_places_.begin(), file_places_.end(), false);
  if (place == file_places_.end()) return {.fd = fd, .registered = false};
  const int index = static_cast<int>(place - file_places_.begin());
  if (io_uring_register_files_update(&ring_, static_cast<unsigned>(index), &fd, 1) != 1) {
    return {.fd = fd, .registered = false};
  }
  *place = true;
  return {.fd = index, .registered = true};
}

void Ring::UnregisterFile(File file) {
  if (!file.registered) return;
  int none = -1;
  io_uring_register_files_update(&ring_, static_cast<unsigned>(file.fd), &none, 1);
  file_places_[static_cast<size_t>(file.fd)] = false;
}

absl::Status Ring::RegisterBuffer(unsigned index, void* data, size_t bytes) {
  const iovec range = {.iov_base = data, .iov_len = bytes};
  const __u64 no_tag = 0;
  const int result = io_uring_register_buffers_update_tag(&ring_, index, &range, &no_tag, 1);
  if (result < 0) {
    return ErrnoStatus(-result, absl::StrCat("register ", bytes, " bytes as buffer ", index));
  }
  return absl::OkStatus();
}

void Ring::UnregisterBuffer(unsigned index) {
  const iovec nothing = {};
  const __u64 no_tag = 0;
  io_uring_register_buffers_update_tag(&ring_, index, &nothing, &no_tag, 1);
}

TransferOperation Ring::Read(File file, Buffer buffer, uint64_t offset_bytes) {
  const uint8_t opcode = buffer.registered_index >= 0 ? IORING_OP_READ_FIXED : IORING_OP_READ;
  return {*this, opcode, file, buffer, offset_bytes, 0};
}

TransferOperation Ring::Write(File file, Buffer buffer, uint64_t offset_bytes, int rw_flags) {
  const uint8_t opcode = buffer.registered_index >= 0 ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE;
  return {*this, opcode, file, buffer, offset_bytes, rw_flags};
}

ResultOperation Ring::DataSync(File file) {
  return ResultOperation(
      *this, {.opcode = IORING_OP_FSYNC, .file = file, .op_flags = IORING_FSYNC_DATASYNC});
}

ResultOperation Ring::Fallocate(File file, int mode, uint64_t offset_bytes, uint64_t length_bytes) {
  // The kernel takes the length in the address field and the mode in the length field.
  return ResultOperation(*this, {.opcode = IORING_OP_FALLOCATE,
                                 .file = file,
                                 .offset = offset_bytes,
                                 .address = length_bytes,
                                 .length = static_cast<uint32_t>(mode)});
}

SimpleOperation Ring::ReadSome(File file, void* data, uint32_t bytes) {
  // An offset of -1 is the file's own position.
  return SimpleOperation(*this, {.opcode = IORING_OP_READ,
                                 .file = file,
                                 .offset = ~uint64_t{0},
                                 .address = reinterpret_cast<uintptr_t>(data),
                                 .length = bytes});
}

SimpleOperation Ring::Poll(File file, uint32_t events) {
  return SimpleOperation(*this, {.opcode = IORING_OP_POLL_ADD, .file = file, .op_flags = events});
}

SimpleOperation Ring::Yield() { return SimpleOperation(*this, {.opcode = IORING_OP_NOP}); }

SleepOperation Ring::Sleep(uint64_t duration_ns) { return SleepOperation(*this, duration_ns); }

void Ring::Enter(unsigned wait_count) {
  while (true) {
    ++enters_;
    const int result = wait_count > 0 ? io_uring_submit_and_wait(&ring_, wait_count)
                                      : io_uring_submit_and_get_events(&ring_);
    if (result >= 0) return;
    switch (-result) {
      case EINTR:
        // A signal: what was prepared is still in the ring; completions may be there by now.
        if (io_uring_cq_ready(&ring_) > 0) return;
        break;
      case EAGAIN:
      case EBUSY:
        // Out of memory for requests, or completions overflow: the caller's taking of completions,
        // or time, heals it.
        if (io_uring_cq_ready(&ring_) > 0) return;
        sched_yield();
        break;
      default:
        // The ring itself is broken (EBADF, EFAULT, EEXIST from a foreign thread): going on would
        // spin for ever, and answering would lie.
        std::abort();
    }
  }
}

io_uring_sqe* Ring::MakeRoom() {
  io_uring_sqe* sqe = nullptr;
  do {
    Enter(0);
    sqe = io_uring_get_sqe(&ring_);
  } while (sqe == nullptr);
  return sqe;
}

bool Ring::at_rest() const {
  return (ring_.flags & IORING_SETUP_DEFER_TASKRUN) != 0 && pausing_ == 0 &&
         io_uring_sq_ready(&ring_) == 0 && io_uring_cq_ready(&ring_) == 0 &&
         !io_uring_cq_has_overflow(&ring_);
}

void Ring::RunOnce(bool wait) {
  Enter(wait ? 1 : 0);
  unsigned ready = io_uring_cq_ready(&ring_);
  if (ready == 0) return;
  if (options_.read_clock) batch_ns_ = MonotonicNs();
  for (; ready > 0; --ready) {
    const io_uring_cqe* cqe = ring_.cq.cqes + (*ring_.cq.khead & *ring_.cq.kring_mask);
    auto& completion = *static_cast<Completion*>(io_uring_cqe_get_data(cqe));
    const int32_t result = cqe->res;
    // Given back before the coroutine runs, so that one that enters the ring finds room.
    io_uring_cq_advance(&ring_, 1);
    --in_flight_;
    completion.handler_(completion, result);
  }
}

}  // namespace ublkd::uring
