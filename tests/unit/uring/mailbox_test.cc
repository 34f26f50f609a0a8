// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/mailbox.h"

#include <cerrno>
#include <memory>
#include <thread>
#include <vector>

#include "tests/unit/uring/test_ring.h"

namespace ublkd::uring {
namespace {

class MailboxTest : public RingTest {
 protected:
  static std::unique_ptr<Mailbox> MakeMailbox(Ring& ring) {
    auto mailbox = Mailbox::Create(ring);
    EXPECT_TRUE(mailbox.ok()) << mailbox.status();
    return *std::move(mailbox);
  }
};

TEST_F(MailboxTest, WorkOfOtherThreadsComesBack) {
  constexpr int kThreads = 4;
  constexpr int kOperations = 500;
  const auto ring = MakeRing();
  const auto mailbox = MakeMailbox(*ring);
  std::vector<std::unique_ptr<RemoteOperation>> operations;
  for (int i = 0; i < kThreads * kOperations; ++i) {
    operations.push_back(std::make_unique<RemoteOperation>(*mailbox));
  }
  std::vector<RootTask> tasks;
  int ok = 0;
  int failed = 0;
  for (auto& operation : operations) {
    tasks.push_back([](RemoteOperation& o, int& oks, int& errors) -> RootTask {
      const Result result = co_await o;
      ++(result.ok() ? oks : errors);
    }(*operation, ok, failed));
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&operations, t] {
      for (int i = 0; i < kOperations; ++i) {
        operations[static_cast<size_t>(t) * kOperations + static_cast<size_t>(i)]->Finish(
            i % 2 == 0 ? Result::Ok() : Result::Error(EIO));
      }
    });
  }
  for (RootTask& task : tasks) task.Start();
  ring->RunUntil([&] { return ok + failed == kThreads * kOperations; });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ok, kThreads * kOperations / 2);
  EXPECT_EQ(failed, kThreads * kOperations / 2);
}

TEST_F(MailboxTest, OperationThatFinishedEarlyDoesNotWait) {
  const auto ring = MakeRing();
  const auto mailbox = MakeMailbox(*ring);
  RemoteOperation operation(*mailbox);
  std::thread([&operation] { operation.Finish(Result::Error(ENOSPC)); }).join();
  ring->RunOnce();
  ASSERT_TRUE(operation.await_ready()) << "its result has arrived before it was awaited";
  EXPECT_EQ(operation.await_resume(), Result::Error(ENOSPC));
}

TEST_F(MailboxTest, CallsStopALoopFromOutside) {
  const auto ring = MakeRing();
  const auto mailbox = MakeMailbox(*ring);
  bool stop = false;
  std::thread outside(
      [sender = mailbox->sender(), &stop] { sender.Call([&stop] { stop = true; }); });
  ring->RunUntil([&stop] { return stop; });
  outside.join();
  EXPECT_TRUE(stop);
}

TEST_F(MailboxTest, WhatWasPostedRunsBeforeTheEnd) {
  const auto ring = MakeRing();
  auto mailbox = MakeMailbox(*ring);
  int ran = 0;
  for (int i = 0; i < 3; ++i) mailbox->sender().Call([&ran] { ++ran; });
  mailbox.reset();
  EXPECT_EQ(ran, 3);
  EXPECT_EQ(ring->in_flight(), 0u) << "nothing is left in the ring";
}

}  // namespace
}  // namespace ublkd::uring
