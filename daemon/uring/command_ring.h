// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <liburing.h>

#include <cstdint>
#include <memory>

#include "absl/base/attributes.h"
#include "absl/status/statusor.h"

namespace ublkd::uring {

/// Bytes that a command's large submission has room for (a 128 byte SQE less its head).
inline constexpr size_t kCommandPayloadBytes = 80;

/// A ring for commands to a driver, one at a time: the caller blocks until the command has ended.
/// Any thread may use it, but not two at once.
class CommandRing {
 public:
  /// PERMISSION_DENIED when io_uring is switched off or filtered, UNIMPLEMENTED without large
  /// submissions (Linux 5.19); the message has the remedy.
  static absl::StatusOr<std::unique_ptr<CommandRing>> Create();
  ~CommandRing();
  CommandRing(const CommandRing&) = delete;
  CommandRing& operator=(const CommandRing&) = delete;

  /// Sends `opcode` to the file with `payload_bytes` (at most kCommandPayloadBytes) copied from
  /// `payload`, and waits for its end; returns the driver's result, or a negative errno of the
  /// ring. A command that has not ended after `wait_ms` (0: no bound) is interrupted: -ETIMEDOUT,
  /// unless it ended by itself meanwhile.
  ABSL_MUST_USE_RESULT int Run(int fd, uint32_t opcode, const void* payload, size_t payload_bytes,
                               int64_t wait_ms = 0);

 private:
  CommandRing() = default;
  io_uring_sqe* NextSubmission();
  int Submit();
  bool Next(__kernel_timespec* limit, uint64_t& tag, int& result);
  bool WaitFor(__kernel_timespec* limit, int& result);
  int CancelCommand();

  io_uring ring_ = {};
  bool open_ = false;
};

}  // namespace ublkd::uring
