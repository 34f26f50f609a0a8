// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "daemon/base/file.h"
#include "daemon/uring/result.h"
#include "daemon/uring/ring.h"
#include "daemon/uring/task.h"

namespace ublkd::uring {

/// The way back to a ring's thread for work that is done on others: an event descriptor that the
/// ring reads, and a list of what has finished. Made, run and destroyed on the ring's thread; only
/// Sender may be used elsewhere.
class Mailbox {
 public:
  /// Something that is posted; it stays with its owner. Posted again only after it has run.
  class Item {
   public:
    Item(const Item&) = delete;
    Item& operator=(const Item&) = delete;

   protected:
    using Handler = void (*)(Item& self);
    explicit Item(Handler handler) : handler_(handler) {}
    ~Item() = default;

   private:
    friend class Mailbox;
    Handler handler_;
    Item* next_ = nullptr;
  };

 private:
  struct Shared {
    UniqueFd event;
    /// Newest first.
    std::atomic<Item*> posted = nullptr;
  };

 public:
  /// Posts from any thread. Copies may outlive the mailbox; what they post then never runs.
  class Sender {
   public:
    /// `item` runs on the ring's thread and may be gone when this returns.
    void Post(Item& item) const;
    /// Runs `call` on the ring's thread. Allocates: for control, not for I/O.
    void Call(std::function<void()> call) const;

   private:
    friend class Mailbox;
    explicit Sender(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
    std::shared_ptr<Shared> shared_;
  };

  static absl::StatusOr<std::unique_ptr<Mailbox>> Create(Ring& ring);
  /// Runs what was posted before; enters the ring.
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  Sender sender() const { return Sender(shared_); }

 private:
  Mailbox(Ring& ring, UniqueFd event);
  RootTask Listen();
  void RunPosted();

  Ring& ring_;
  std::shared_ptr<Shared> shared_;
  bool closing_ = false;
  uint64_t event_count_ = 0;
  RootTask listener_;
};

/// One piece of work that finishes on another thread, awaited on the ring's. Lives in the awaiting
/// coroutine's frame:
///
///   RemoteOperation fetched(mailbox);
///   client.Get(url, [&fetched](int error) { fetched.Finish(Result::Error(error)); });
///   Result result = co_await fetched;
class [[nodiscard]] RemoteOperation : private Mailbox::Item {
 public:
  explicit RemoteOperation(const Mailbox& mailbox) : Item(OnPosted), sender_(mailbox.sender()) {}

  /// Any thread, exactly once; the operation may be gone when this returns.
  void Finish(Result result) {
    result_ = result;
    const Mailbox::Sender sender = sender_;
    sender.Post(*this);
  }

  bool await_ready() const noexcept { return finished_; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
  Result await_resume() const noexcept { return result_; }

 private:
  static void OnPosted(Item& self);

  Mailbox::Sender sender_;
  std::coroutine_handle<> waiter_;
  Result result_;
  /// Only the ring's thread writes and reads it.
  bool finished_ = false;
};

}  // namespace ublkd::uring
