// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <utility>

#include "daemon/uring/frame_arena.h"

/// Coroutines of one thread. None of these may move to another thread.
namespace ublkd::uring {

namespace internal {

/// Frames come from the thread's FrameArena.
struct FramePromise {
  static void* operator new(size_t bytes) { return FrameArena::AllocateFrame(bytes); }
  static void operator delete(void* frame) noexcept { FrameArena::FreeFrame(frame); }
};

/// What the promises of Task<T> have in common.
struct TaskPromiseBase : FramePromise {
  /// Resumed when the task has ended.
  std::coroutine_handle<> continuation = std::noop_coroutine();
  std::exception_ptr exception;

  std::suspend_always initial_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { exception = std::current_exception(); }

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) noexcept {
      return self.promise().continuation;
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
};

}  // namespace internal

/// A coroutine that starts when it is awaited and gives a T, or throws what escaped from it.
/// Awaited once, by one coroutine; destroying it before it has ended is allowed only when nothing
/// that it waits for can still complete.
template <typename T>
class [[nodiscard]] Task {
 public:
  struct promise_type : internal::TaskPromiseBase {
    std::optional<T> value;

    Task get_return_object() {
      return Task(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    template <typename U>
    void return_value(U&& result) {
      value.emplace(std::forward<U>(result));
    }
  };

  Task(Task&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (frame_) frame_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
    frame_.promise().continuation = awaiting;
    return frame_;
  }
  T await_resume() {
    promise_type& promise = frame_.promise();
    if (promise.exception) std::rethrow_exception(promise.exception);
    return *std::move(promise.value);
  }

 private:
  explicit Task(std::coroutine_handle<promise_type> frame) : frame_(frame) {}

  std::coroutine_handle<promise_type> frame_;
};

/// A coroutine that nobody awaits: the outermost one. Its owner starts it and keeps it until it is
/// done. An exception that escapes from it ends the program.
class [[nodiscard]] RootTask {
 public:
  struct promise_type : internal::FramePromise {
    RootTask get_return_object() {
      return RootTask(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };

  RootTask(RootTask&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
  RootTask& operator=(RootTask&&) = delete;
  ~RootTask() {
    if (frame_) frame_.destroy();
  }

  /// Runs it to its first wait. Once.
  void Start() { frame_.resume(); }
  bool done() const { return frame_.done(); }

 private:
  explicit RootTask(std::coroutine_handle<promise_type> frame) : frame_(frame) {}

  std::coroutine_handle<promise_type> frame_;
};

}  // namespace ublkd::uring
