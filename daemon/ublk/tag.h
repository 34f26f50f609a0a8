// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "daemon/ublk/buffer_mode.h"
#include "daemon/ublk/request.h"
#include "daemon/ublk/stats.h"
#include "daemon/uring/operation.h"
#include "daemon/uring/result.h"
#include "daemon/uring/ring.h"
#include "daemon/uring/task.h"

struct ublksrv_io_desc;

namespace ublkd::ublk {

class Tag;

/// The counters of one queue as one thread serves it, and what only that thread needs of them.
struct ServedQueue {
  ServedQueue(uint16_t number, uint16_t depth) : queue(number), counters(depth) {}

  uint16_t queue;
  /// Requests that the target holds.
  uint32_t held = 0;
  /// It held some before the batch of completions that is being run.
  bool was_busy = false;
  QueueCounters counters;
};

/// Awaits the next request of a tag; false when there will be none.
class [[nodiscard]] NextRequest : public uring::CommandOperation {
 public:
  NextRequest(Tag& tag, uint32_t command, const void* payload, uint64_t address);
  bool await_resume() noexcept;

 private:
  Tag& tag_;
};

/// One of the requests that a queue can have in flight, from the server's side:
///
///   while (co_await tag.Next(result)) {
///     const Request request = tag.Take();
///     if (tag.lacks_pages()) co_await tag.RegisterPages();
///     ...
///     if (tag.has_pages()) co_await tag.UnregisterPages();
///   }
///
/// Belongs to its queue thread.
class Tag {
 public:
  struct Place {
    uring::Ring& ring;
    uring::File char_device;
    /// Counts down when a tag ends.
    size_t& live_tags;
    /// The thread takes no more requests: one that comes is left to the next server.
    const bool& leaving;
    ServedQueue& served;
    bool metrics = true;
    BufferMode mode = BufferMode::kCopy;
    uint16_t queue = 0;
    uint16_t tag = 0;
    const ublksrv_io_desc* descriptor = nullptr;
    /// kCopy: memory for the data.
    std::byte* buffer = nullptr;
    /// Place in the ring's table of registered buffers that is kept for this tag.
    uint16_t buffer_place = 0;
    /// kUserCopy: descriptor of the char device.
    int data_fd = -1;
  };

  /// The start of a buffer that is registered with the ring once a request has used it: the kernel
  /// then looks its pages up no more. Requests up to this long profit. It stays registered: rings
  /// of Linux 6.12 and older let go of such pages no earlier than of all commands that wait in
  /// them.
  static constexpr uint32_t kHotBytes = 8 << 10;

  explicit Tag(const Place& place);
  Tag(const Tag&) = delete;
  Tag& operator=(const Tag&) = delete;

  /// Answers the request that is held, unless there was none yet, and awaits the next one.
  NextRequest Next(uring::Result answer);
  /// The request that has come. Counts it as held.
  Request Take();
  /// The request that is held waits for its turn under the device's limits, before the target gets
  /// it.
  void OnHeldBack();
  /// Its latency begins now.
  void OnLetPass();
  /// What escaped from the target, as the answer.
  uring::Result OnException();

  /// Zero copy: the driver could not register the pages of the request, which has to be done before
  /// the target gets it, and taken back before it is answered.
  bool lacks_pages() const { return lacks_pages_; }
  /// Tries as long as memory is short: that is no error of a disk.
  uring::Task<uring::Result> RegisterPages();
  bool has_pages() const { return has_pages_; }
  uring::Task<uring::Result> UnregisterPages();

  /// Why there is no further request: 0 while there may be one, -ENODEV when the device ends, else
  /// the driver has refused the command.
  int32_t end_result() const { return end_result_; }

 private:
  friend class NextRequest;
  NextRequest Send(uint32_t command, int32_t result);
  uring::CommandOperation PagesCommand(uint32_t command);
  void RegisterHotPart();

  /// Whether the buffer is registered, as far as requests profit from it.
  enum class Registered : uint8_t { kUntried, kYes, kRefused };

  Place place_;
  /// Requests up to this long find their data registered.
  uint32_t registered_bytes_ = 0;
  Registered registered_ = Registered::kUntried;
  bool fetched_ = false;
  bool lacks_pages_ = false;
  bool has_pages_ = false;
  /// Zero copy: tells the driver with each command where to register the next request's pages.
  uint64_t auto_register_ = 0;
  DataFile data_file_;
  Op op_ = Op::kRead;
  uint64_t length_bytes_ = 0;
  /// When the request began to wait for a limit.
  uint64_t held_back_ns_ = 0;
  int32_t end_result_ = 0;
};

}  // namespace ublkd::ublk
