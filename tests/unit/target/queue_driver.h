// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "daemon/target/target.h"

namespace ublkd::target {

/// Memory like that of a request.
class RequestBuffer {
 public:
  static constexpr size_t kAlignment = 4096;

  explicit RequestBuffer(uint32_t bytes, char fill = 0)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(std::aligned_alloc(kAlignment, Rounded())), &std::free) {
    Fill(fill);
  }
  void Fill(char value) { std::fill_n(data_.get(), bytes_, static_cast<std::byte>(value)); }
  bool AllAre(char value) const {
    return std::all_of(data_.get(), data_.get() + bytes_,
                       [value](std::byte b) { return b == static_cast<std::byte>(value); });
  }
  uring::Buffer get() const { return {.data = data_.get(), .bytes = bytes_}; }

 private:
  size_t Rounded() const { return (bytes_ + kAlignment - 1) / kAlignment * kAlignment; }
  uint32_t bytes_;
  std::unique_ptr<std::byte, decltype(&std::free)> data_;
};

/// One queue of a target with a ring, driven without a driver.
template <Target T>
class QueueDriver {
 public:
  explicit QueueDriver(T& target)
      : ring_(*uring::Ring::Create({})), queue_(*target.OpenQueue(*ring_)) {}

  Result Do(const Request& request) {
    Result result = Result::Error(EINPROGRESS);
    uring::RootTask task = Run(request, result);
    task.Start();
    ring_->RunUntil([&task] { return task.done(); });
    return result;
  }
  Result Read(uint64_t offset_bytes, const RequestBuffer& into) {
    return Do({.op = ublk::Op::kRead,
               .offset_bytes = offset_bytes,
               .length_bytes = into.get().bytes,
               .buffer = into.get()});
  }
  Result Write(uint64_t offset_bytes, const RequestBuffer& from, bool fua = false) {
    return Do({.op = ublk::Op::kWrite,
               .fua = fua,
               .offset_bytes = offset_bytes,
               .length_bytes = from.get().bytes,
               .buffer = from.get()});
  }

 private:
  uring::RootTask Run(const Request& request, Result& result) {
    if constexpr (HoldsBack<QueueOf<T>>) (void)co_await queue_.Admit(request);
    switch (request.op) {
      case ublk::Op::kRead:
        result = co_await internal::Read(queue_, request);
        break;
      case ublk::Op::kWrite:
        result = co_await internal::Write(queue_, request);
        break;
      case ublk::Op::kFlush:
        result = co_await internal::Flush(queue_, request);
        break;
      case ublk::Op::kDiscard:
        result = co_await internal::Discard(queue_, request);
        break;
      case ublk::Op::kWriteZeroes:
        result = co_await internal::WriteZeroes(queue_, request);
        break;
    }
  }

  std::unique_ptr<uring::Ring> ring_;
  QueueOf<T> queue_;
};

/// Skips where io_uring is refused.
class TargetTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto ring = uring::Ring::Create({});
    if (!ring.ok()) GTEST_SKIP() << "io_uring cannot be used here: " << ring.status();
  }
};

}  // namespace ublkd::target
