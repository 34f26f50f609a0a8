// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <concepts>
#include <coroutine>

#include "daemon/ublk/buffer_mode.h"
#include "daemon/ublk/request.h"
#include "daemon/ublk/tag.h"
#include "daemon/uring/result.h"
#include "daemon/uring/task.h"

/// Which methods a target's queue has, and the loop that calls them. Writers of targets want
/// target.h.
namespace ublkd::target {

/// An answer to a request: a Result at once, or something that gives one when it is awaited (an
/// operation of the ring, a uring::Task<Result>).
template <typename T>
concept Answer = std::same_as<T, uring::Result> || requires(T& answer) {
  { answer.await_resume() } -> std::same_as<uring::Result>;
};

/// The part of a target that serves requests on one thread. Required are Read and Write.
template <typename Q>
concept Queue = std::move_constructible<Q> && requires(Q& queue, const ublk::Request& request) {
  { queue.Read(request) } -> Answer;
  { queue.Write(request) } -> Answer;
};

template <typename Q>
concept CanFlush = requires(Q& queue, const ublk::Request& request) {
  { queue.Flush(request) } -> Answer;
};
template <typename Q>
concept CanDiscard = requires(Q& queue, const ublk::Request& request) {
  { queue.Discard(request) } -> Answer;
};
template <typename Q>
concept CanWriteZeroes = requires(Q& queue, const ublk::Request& request) {
  { queue.WriteZeroes(request) } -> Answer;
};

/// What a queue does with the data of requests: its `kDataUse`, or it looks at the bytes.
template <typename Q>
constexpr ublk::DataUse DataUseOf() {
  if constexpr (requires { Q::kDataUse; }) {
    return Q::kDataUse;
  } else {
    return ublk::DataUse::kBytes;
  }
}

/// A queue with limits: it may make a request wait before it is served. What `Admit` returns is
/// awaited first, whatever the operation; true: the request was held back.
template <typename Q>
concept HoldsBack = requires(Q& queue, const ublk::Request& request) {
  { queue.Admit(request).await_resume() } -> std::same_as<bool>;
};

namespace internal {

/// A Result in the shape of something that can be awaited.
struct ReadyResult {
  uring::Result result;
  bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  uring::Result await_resume() const noexcept { return result; }
};

/// Awaits what was found not to be ready.
template <typename Awaitable>
struct Suspended {
  Awaitable& awaitable;
  bool await_ready() const noexcept { return false; }
  auto await_suspend(std::coroutine_handle<> waiter) { return awaitable.await_suspend(waiter); }
  auto await_resume() { return awaitable.await_resume(); }
};

/// Calls and gives what can be awaited. Nothing is moved: an operation stays where it was made.
template <typename Call>
auto Awaitable(Call call) {
  if constexpr (std::same_as<decltype(call()), uring::Result>) {
    return ReadyResult{call()};
  } else {
    return call();
  }
}

inline constexpr uring::Result kUnsupported = uring::Result::Error(EOPNOTSUPP);

template <typename Q>
auto Flush(Q& queue, const ublk::Request& request) {
  if constexpr (CanFlush<Q>) {
    return Awaitable([&] { return queue.Flush(request); });
  } else {
    return ReadyResult{kUnsupported};
  }
}

template <typename Q>
auto Discard(Q& queue, const ublk::Request& request) {
  if constexpr (CanDiscard<Q>) {
    return Awaitable([&] { return queue.Discard(request); });
  } else {
    return ReadyResult{kUnsupported};
  }
}

template <typename Q>
auto WriteZeroes(Q& queue, const ublk::Request& request) {
  if constexpr (CanWriteZeroes<Q>) {
    return Awaitable([&] { return queue.WriteZeroes(request); });
  } else {
    return ReadyResult{kUnsupported};
  }
}

template <typename Q>
auto Read(Q& queue, const ublk::Request& request) {
  return Awaitable([&] { return queue.Read(request); });
}

template <typename Q>
auto Write(Q& queue, const ublk::Request& request) {
  return Awaitable([&] { return queue.Write(request); });
}

}  // namespace internal

// A target that is private to its file is good style; that its serving coroutine's frame is, too,
// is nothing to warn of.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsubobject-linkage"

/// What moves no data. A coroutine of its own, so that what it awaits takes no memory of each tag.
template <typename Q>
uring::Task<uring::Result> ServeWithoutData(Q& queue, const ublk::Request& request) {
  switch (request.op) {
    case ublk::Op::kFlush:
      co_return co_await internal::Flush(queue, request);
    case ublk::Op::kDiscard:
      co_return co_await internal::Discard(queue, request);
    case ublk::Op::kWriteZeroes:
      co_return co_await internal::WriteZeroes(queue, request);
    default:
      co_return internal::kUnsupported;
  }
}

/// Serves one tag to the end of its device. Its frame is made once, and what the target's Read and
/// Write return is awaited inside of it. Each place that awaits something has memory of its own in
/// the frame, of which an idle device has hundreds: so there is one for each thing.
template <Queue Q>
uring::RootTask ServeTag(ublk::Tag& tag, Q& queue) {
  uring::Result result;
  while (true) {
    // Not in the condition itself, for which g++ 12 makes wrong code.
    const bool more = co_await tag.Next(result);
    if (!more) co_return;
    const ublk::Request request = tag.Take();
    if constexpr (HoldsBack<Q>) {
      auto admission = queue.Admit(request);
      if (!admission.await_ready()) [[unlikely]] {
        tag.OnHeldBack();
        (void)co_await internal::Suspended<decltype(admission)>{admission};
        tag.OnLetPass();
      }
    }
    if (tag.lacks_pages()) [[unlikely]] {
      result = co_await tag.RegisterPages();
      if (!result.ok()) continue;
    }
    try {
      switch (request.op) {
        case ublk::Op::kRead:
          result = co_await internal::Read(queue, request);
          break;
        case ublk::Op::kWrite:
          result = co_await internal::Write(queue, request);
          break;
        default:
          result = co_await ServeWithoutData(queue, request);
      }
    } catch (...) {
      result = tag.OnException();
    }
    if (tag.has_pages()) [[unlikely]]
      (void)co_await tag.UnregisterPages();
  }
}

#pragma GCC diagnostic pop

}  // namespace ublkd::target
