// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "daemon/ublk/buffer_mode.h"
#include "daemon/ublk/buffer_pool.h"
#include "daemon/ublk/char_device.h"
#include "daemon/ublk/device_target.h"
#include "daemon/ublk/stats.h"
#include "daemon/ublk/tag.h"
#include "daemon/ublk/thread_plan.h"
#include "daemon/uring/frame_arena.h"
#include "daemon/uring/mailbox.h"
#include "daemon/uring/ring.h"
#include "daemon/uring/task.h"

namespace ublkd::ublk {

/// A thread that serves its share of a device's tags from fetching them to the end of the device.
class QueueThread {
 public:
  struct Options {
    ThreadSpec spec;
    uint16_t depth = 0;
    uint32_t max_io_bytes = 0;
    BufferMode buffers = BufferMode::kCopy;
    bool metrics = true;
    /// Called on the thread as its last act, when it has let go of the device.
    std::function<void()> on_end;
  };

  explicit QueueThread(Options options);
  /// As Join.
  ~QueueThread();

  /// Starts the thread. `target` outlives it; it drops `device` when it ends. One that cannot be
  /// made is one that ends at once, see WaitReady.
  void Start(std::shared_ptr<CharDevice> device, DeviceTarget& target);

  /// Waits until all its tags are fetched, or why that failed (the thread ends by itself then).
  /// RESOURCE_EXHAUSTED there may be no more threads.
  absl::Status WaitReady();

  /// After WaitReady, any thread, once: answers what the target holds, takes no more and ends. The
  /// driver gives what is left to the next server.
  void Leave();

  /// After WaitReady, any thread: unless it holds requests or one comes now, it gives the memory of
  /// its buffers back until they are used again.
  void GiveMemoryBack();

  /// Waits for the thread's end, which comes when the device is stopped or left. Again is fine.
  void Join();

  /// Any thread: requests that it has taken.
  uint64_t RequestCount() const;
  /// Any thread: adds its counters to those of its queues.
  void AddTo(DeviceStats& stats) const;

 private:
  /// Sets a flag of the thread.
  class Notice : public uring::Mailbox::Item {
   public:
    explicit Notice(bool& flag) : Item(Run), flag_(flag) {}
    /// Any thread; one that is under way already is enough.
    void PostTo(const uring::Mailbox::Sender& sender) {
      if (!posted_.exchange(true)) sender.Post(*this);
    }

   private:
    static void Run(Item& self) {
      auto& notice = static_cast<Notice&>(self);
      notice.flag_ = true;
      notice.posted_ = false;
    }
    bool& flag_;
    std::atomic<bool> posted_ = false;
  };

  void Run(std::shared_ptr<CharDevice> device, DeviceTarget& target);
  absl::Status SetUp(const CharDevice& device, DeviceTarget& target);
  void MakeTags(const CharDevice& device);
  absl::Status FetchAll();
  void Serve();
  void GiveBuffersBack();
  size_t tag_count() const;
  bool holds_requests() const;
  int32_t FirstEndResult() const;

  Options options_;
  std::deque<ServedQueue> served_;
  std::promise<absl::Status> ready_;
  std::thread thread_;
  /// Set before ready_, when all went well.
  std::optional<uring::Mailbox::Sender> sender_;
  Notice leave_notice_{leaving_};
  Notice memory_notice_{giving_back_};

  // All below belongs to the thread. Order matters: what is later uses what is earlier.
  uring::FrameArena frames_;
  /// Empty when the device does not copy.
  BufferPool buffers_;
  std::vector<DescriptorMap> descriptors_;
  std::unique_ptr<uring::Ring> ring_;
  std::unique_ptr<uring::Mailbox> mailbox_;
  std::unique_ptr<QueueTarget> target_;
  bool leaving_ = false;
  /// Asked to give its buffers back.
  bool giving_back_ = false;
  /// Tags for which the driver may still send requests.
  size_t live_tags_ = 0;
  std::deque<Tag> tags_;
  std::vector<uring::RootTask> tasks_;
};

}  // namespace ublkd::ublk
