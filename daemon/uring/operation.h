// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/time_types.h>

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>

#include "daemon/uring/result.h"

struct io_uring_sqe;

/// The things that a coroutine can await on a ring. Each is made by a method of Ring, awaited once
/// on the ring's thread, and holds its own completion slot: nothing is allocated or looked up.
/// An operation does not begin before it is awaited.
namespace ublkd::uring {

class Ring;

/// A file that operations work on: a plain descriptor, or a place in the ring's table of registered
/// files (cheaper). Does not own anything.
struct File {
  int32_t fd = -1;
  bool registered = false;
};

/// Memory that data is read into or written from; not owned.
struct Buffer {
  /// Null for pages that this process does not see, which a driver has registered with the ring.
  std::byte* data = nullptr;
  uint32_t bytes = 0;
  /// Place in the ring's table of registered buffers that contains the memory; -1: not registered.
  int32_t registered_index = -1;
};

/// Where a completion goes: its address is the operation's user_data. Stays where it is from
/// submission to completion.
class Completion {
 public:
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

 protected:
  using Handler = void (*)(Completion& self, int32_t result);
  explicit Completion(Handler handler) : handler_(handler) {}
  ~Completion() = default;
  /// Of the next completion.
  void set_handler(Handler handler) { handler_ = handler; }

 private:
  friend class Ring;
  Handler handler_;
};

/// An operation that takes one submission and gives what the kernel says.
class BasicOperation : public Completion {
 public:
  bool await_ready() const noexcept { return false; }

 protected:
  BasicOperation(Ring& ring, Handler handler) : Completion(handler), ring_(ring) {}

  /// Stores the result and wakes the coroutine.
  static void Finish(Completion& self, int32_t result) {
    auto& operation = static_cast<BasicOperation&>(self);
    operation.result_ = result;
    operation.waiter_.resume();
  }

  /// What is tried again after a pause: the kernel is short of something for a moment, memory or a
  /// thread (which it tells by ECANCELED).
  static bool IsPassing(int32_t result);
  /// Submits again after a pause, of which the n-th is twice as long as the one before; all
  /// kMaxRetries of them last a second.
  template <typename Operation>
  void RetryAfterPause(unsigned n) {
    Pause(n, [](Completion& self, int32_t /*result*/) {
      auto& operation = static_cast<Operation&>(self);
      operation.EndPause();
      operation.set_handler(Operation::OnComplete);
      operation.Submit();
    });
  }
  static constexpr unsigned kMaxRetries = 10;

  Ring& ring_;
  std::coroutine_handle<> waiter_;
  int32_t result_ = 0;

 private:
  void Pause(unsigned n, Handler after);
  void EndPause();
};

/// Reads or writes the whole buffer: what the kernel leaves undone is submitted again. A read that
/// meets the end of the file, and a write that makes no progress, is EIO. What the kernel is short
/// of for a moment (EAGAIN, ENOMEM) is tried again after pauses, for a second in all.
class [[nodiscard]] TransferOperation : public BasicOperation {
 public:
  using BasicOperation::kMaxRetries;

  void await_suspend(std::coroutine_handle<> waiter);
  Result await_resume() const noexcept { return Result::FromKernel(result_); }

 private:
  friend class BasicOperation;
  friend class Ring;
  TransferOperation(Ring& ring, uint8_t opcode, File file, Buffer buffer, uint64_t offset_bytes,
                    int rw_flags);
  void Submit();
  void OnIncomplete(int32_t result);
  static void OnComplete(Completion& self, int32_t result);

  File file_;
  uint8_t opcode_;
  uint16_t retries_ = 0;
  int rw_flags_;
  Buffer buffer_;
  uint32_t done_bytes_ = 0;
  uint64_t offset_bytes_;
};

/// One submission whose outcome is success or an errno, or a number. An interrupted one is
/// submitted again; so is work on a file's blocks, as TransferOperation, when the kernel is short
/// of something.
class [[nodiscard]] SimpleOperation : public BasicOperation {
 public:
  void await_suspend(std::coroutine_handle<> waiter);
  /// Negative errno, or what the operation counts.
  int32_t await_resume() const noexcept { return result_; }

 private:
  friend class BasicOperation;
  friend class Ring;
  /// Fields of a submission under the names of the kernel's structure.
  struct Fields {
    uint8_t opcode = 0;
    File file = {};
    uint64_t offset = 0;
    uint64_t address = 0;
    uint32_t length = 0;
    uint32_t op_flags = 0;
  };
  SimpleOperation(Ring& ring, const Fields& fields);
  static void OnComplete(Completion& self, int32_t result);
  void Submit();

  Fields fields_;
  unsigned retries_ = 0;
};

/// Success or an errno.
class [[nodiscard]] ResultOperation : public SimpleOperation {
 public:
  using SimpleOperation::SimpleOperation;
  Result await_resume() const noexcept { return Result::FromKernel(result_); }

 private:
  friend class Ring;
};

/// Waits for a time. Its outcome is success.
class [[nodiscard]] SleepOperation : public BasicOperation {
 public:
  void await_suspend(std::coroutine_handle<> waiter);
  void await_resume() const noexcept {}

 private:
  friend class Ring;
  SleepOperation(Ring& ring, uint64_t duration_ns);

  __kernel_timespec duration_;
};

/// A command for a driver (IORING_OP_URING_CMD) with its 16 bytes of payload, and an address beside
/// them for drivers that want one. Without the memory to take it, the kernel is asked again until
/// it has some: the driver has not seen it then.
class [[nodiscard]] CommandOperation : public BasicOperation {
 public:
  static constexpr size_t kPayloadBytes = 16;

  void await_suspend(std::coroutine_handle<> waiter);
  /// What the driver says: a negative errno or a number of its own.
  int32_t await_resume() const noexcept { return result_; }

 protected:
  friend class Ring;
  CommandOperation(Ring& ring, File file, uint32_t command, const void* payload,
                   uint64_t address = 0);

 private:
  friend class BasicOperation;
  void Submit();
  static void OnComplete(Completion& self, int32_t result);

  File file_;
  uint32_t command_;
  uint64_t address_;
  std::array<uint64_t, kPayloadBytes / sizeof(uint64_t)> payload_;
};

}  // namespace ublkd::uring
