// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <liburing.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/uring/operation.h"

namespace ublkd::uring {

struct RingOptions {
  /// Submissions that fit in before the ring has to be entered; not a limit on what is in flight.
  unsigned entries = 64;
  /// Completions that fit in; 0: twice the entries. Should cover what is in flight.
  unsigned completion_entries = 0;
  /// Places in the table of registered files; 0: none.
  unsigned registered_files = 16;
  /// Places in the table of registered buffers, all empty; 0: none.
  unsigned registered_buffers = 0;
  /// Read the clock once for each batch of completions, see Ring::batch_ns.
  bool read_clock = true;
  /// Tests only: leave out so many of the best combinations of set-up flags.
  unsigned skip_setups = 0;
};

/// An io_uring and the loop that runs the coroutines waiting on it. Belongs to the thread that made
/// it, and only that thread may use it (see Mailbox for the others).
class Ring {
 public:
  /// Tries the set-up flags from the best combination down to none.
  /// PERMISSION_DENIED when io_uring is switched off or filtered (seccomp), UNIMPLEMENTED without
  /// io_uring, RESOURCE_EXHAUSTED; the message has the remedy.
  static absl::StatusOr<std::unique_ptr<Ring>> Create(const RingOptions& options);
  /// Nothing may be in flight but driver commands. The kernel cancels those, and closes registered
  /// files, some time later.
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  /// Puts `fd` into the table of registered files and returns its place; a plain File when the
  /// table is full or there is none. The caller keeps `fd` open while it uses the File.
  File RegisterFile(int fd);
  /// Takes it out again; a plain File is fine.
  void UnregisterFile(File file);

  /// Puts memory into a place of the table of registered buffers, which pins it. The errors are
  /// those of a missing table and of the limit on locked memory.
  absl::Status RegisterBuffer(unsigned index, void* data, size_t bytes);
  /// Empties the place, when what is in flight with it has ended.
  void UnregisterBuffer(unsigned index);

  /// All of `buffer`, from and to the file at `offset_bytes`.
  TransferOperation Read(File file, Buffer buffer, uint64_t offset_bytes);
  /// `rw_flags` are those of pwritev2, such as RWF_DSYNC.
  TransferOperation Write(File file, Buffer buffer, uint64_t offset_bytes, int rw_flags = 0);
  /// fdatasync.
  ResultOperation DataSync(File file);
  ResultOperation Fallocate(File file, int mode, uint64_t offset_bytes, uint64_t length_bytes);
  /// One read of at most `bytes`, as read(2) does it; for event descriptors and pipes.
  SimpleOperation ReadSome(File file, void* data, uint32_t bytes);
  /// Waits until the file has one of the poll(2) `events`; gives those that it has.
  SimpleOperation Poll(File file, uint32_t events);
  /// Goes once through the ring.
  SimpleOperation Yield();
  SleepOperation Sleep(uint64_t duration_ns);
  CommandOperation Command(File file, uint32_t command, const void* payload);

  /// Submits what is prepared, waits for at least one completion unless `wait` is false, and runs
  /// the coroutines of all that are there. The only system call of a loop.
  void RunOnce(bool wait = true);

  /// Runs until `condition()` holds; something must be in flight that will make it so.
  template <typename Condition>
  void RunUntil(Condition condition) {
    while (!condition()) RunOnce();
  }

  /// CLOCK_MONOTONIC when the batch of completions that is being run was taken; 0 when the clock is
  /// not read.
  uint64_t batch_ns() const { return batch_ns_; }

  /// Whether all that was prepared is submitted, all completions are taken, and none can come
  /// before the ring is entered again: until then the kernel reads and writes no memory for a
  /// request that a driver has not told of yet. Never with set-ups in which it works on its own.
  bool at_rest() const;

  /// Operations that were submitted or prepared and have not completed.
  unsigned in_flight() const { return in_flight_; }
  /// IORING_SETUP_* in effect.
  unsigned setup_flags() const { return ring_.flags; }
  /// Times the ring was entered.
  uint64_t enters() const { return enters_; }

 private:
  friend class BasicOperation;
  friend class TransferOperation;
  friend class SimpleOperation;
  friend class SleepOperation;
  friend class CommandOperation;

  explicit Ring(const RingOptions& options) : options_(options) {}
  absl::Status Open();
  void RegisterTables();

  /// A submission for `completion` with everything else zero; never fails, enters the ring to make
  /// room when it is full.
  io_uring_sqe* Prepare(Completion& completion, uint8_t opcode, File file) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) [[unlikely]]
      sqe = MakeRoom();
    *sqe = {};
    sqe->opcode = opcode;
    sqe->flags = file.registered ? IOSQE_FIXED_FILE : 0;
    sqe->fd = file.fd;
    io_uring_sqe_set_data(sqe, &completion);
    ++in_flight_;
    return sqe;
  }
  io_uring_sqe* MakeRoom();
  void Enter(unsigned wait_count);

  RingOptions options_;
  io_uring ring_ = {};
  bool open_ = false;
  unsigned in_flight_ = 0;
  /// Operations that will be submitted again.
  unsigned pausing_ = 0;
  uint64_t batch_ns_ = 0;
  uint64_t enters_ = 0;
  /// Places of the file table that are taken.
  std::vector<bool> file_places_;
};

inline CommandOperation Ring::Command(File file, uint32_t command, const void* payload) {
  return CommandOperation(*this, file, command, payload);
}

}  // namespace ublkd::uring
