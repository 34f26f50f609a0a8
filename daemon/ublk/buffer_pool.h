// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"

namespace ublkd::ublk {

/// The data buffers of the tags of one queue thread: address space only, until data flows through a
/// buffer. Made on the thread that uses it, so that its pages come from near its CPU.
class BufferPool {
 public:
  /// RESOURCE_EXHAUSTED without address space.
  static absl::StatusOr<BufferPool> Create(size_t count, size_t buffer_bytes);
  BufferPool() = default;
  BufferPool(BufferPool&& other) noexcept;
  BufferPool& operator=(BufferPool&& other) noexcept;
  ~BufferPool();

  /// Gives the memory of all buffers but for their first `keep_bytes`, a multiple of the page, back
  /// to the system, and with it their contents; it is there again when it is used again. Nobody may
  /// be using one.
  void GiveBack(size_t keep_bytes);

  /// Page-aligned, `buffer_bytes` long.
  std::byte* operator[](size_t index) const { return memory_ + index * stride_bytes_; }

 private:
  std::byte* memory_ = nullptr;
  size_t memory_bytes_ = 0;
  size_t stride_bytes_ = 0;
};

}  // namespace ublkd::ublk
