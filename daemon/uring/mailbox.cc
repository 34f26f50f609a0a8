// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "daemon/base/status.h"

namespace ublkd::uring {
namespace {

void Signal(int event_fd) {
  const uint64_t one = 1;
  // Only a counter at its limit refuses, and then the reader is woken anyway.
  [[maybe_unused]] const ssize_t written = write(event_fd, &one, sizeof(one));
}

/// A call that carries itself.
class CallItem : public Mailbox::Item {
 public:
  explicit CallItem(std::function<void()> call) : Item(Run), call_(std::move(call)) {}

 private:
  static void Run(Item& self) {
    const std::unique_ptr<CallItem> item(static_cast<CallItem*>(&self));
    item->call_();
  }
  std::function<void()> call_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Mailbox>> Mailbox::Create(Ring& ring) {
  UniqueFd event(eventfd(0, EFD_CLOEXEC));
  if (!event.valid()) return ErrnoStatus(errno, "make an event descriptor");
  std::unique_ptr<Mailbox> mailbox(new Mailbox(ring, std::move(event)));
  mailbox->listener_.Start();
  return mailbox;
}

Mailbox::Mailbox(Ring& ring, UniqueFd event)
    : ring_(ring), shared_(std::make_shared<Shared>()), listener_(Listen()) {
  shared_->event = std::move(event);
}

Mailbox::~Mailbox() {
  // The kernel writes to event_count_ until its read is over.
  closing_ = true;
  Signal(shared_->event.get());
  ring_.RunUntil([this] { return listener_.done(); });
}

RootTask Mailbox::Listen() {
  const File event = {.fd = shared_->event.get()};
  while (!closing_) {
    const int32_t result = co_await ring_.ReadSome(event, &event_count_, sizeof(event_count_));
    RunPosted();
    if (result < 0 && result != -EAGAIN) break;
  }
  RunPosted();
}

void Mailbox::RunPosted() {
  Item* newest_first = shared_->posted.exchange(nullptr, std::memory_order_acquire);
  Item* oldest_first = nullptr;
  while (newest_first != nullptr) {
    Item* next = std::exchange(newest_first->next_, oldest_first);
    oldest_first = std::exchange(newest_first, next);
  }
  while (oldest_first != nullptr) {
    // Running an item may end its life.
    Item* item = std::exchange(oldest_first, oldest_first->next_);
    item->handler_(*item);
  }
}

void Mailbox::Sender::Post(Item& item) const {
  Item* head = shared_->posted.load(std::memory_order_relaxed);
  do {
    item.next_ = head;
  } while (!shared_->posted.compare_exchange_weak(head, &item, std::memory_order_release,
                                                  std::memory_order_relaxed));
  // Whoever finds the list empty wakes the ring; the others' items are taken along.
  if (head == nullptr) Signal(shared_->event.get());
}

void Mailbox::Sender::Call(std::function<void()> call) const {
  Post(*new CallItem(std::move(call)));
}

void RemoteOperation::OnPosted(Item& self) {
  auto& operation = static_cast<RemoteOperation&>(self);
  operation.finished_ = true;
  if (operation.waiter_) operation.waiter_.resume();
}

}  // namespace ublkd::uring
