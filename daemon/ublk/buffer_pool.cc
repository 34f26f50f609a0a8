// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/buffer_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/base/status.h"

namespace ublkd::ublk {

absl::StatusOr<BufferPool> BufferPool::Create(size_t count, size_t buffer_bytes) {
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  BufferPool pool;
  // One page more than a buffer: with a power of two between them, the first pages of all buffers
  // would compete for the same few lines of the caches.
  pool.stride_bytes_ = (buffer_bytes + page_bytes - 1) / page_bytes * page_bytes + page_bytes;
  const size_t bytes = count * pool.stride_bytes_;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return ErrnoStatus(errno, absl::StrCat("map ", bytes, " bytes of request buffers"),
                       "ask for fewer or shallower queues or smaller requests");
  }
  pool.memory_ = static_cast<std::byte*>(memory);
  pool.memory_bytes_ = bytes;
  // A small request must not populate two megabytes.
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  // Nor may a forked child see, or copy on write, what the kernel reads into.
  madvise(memory, bytes, MADV_DONTFORK);
  // Touched pages stay in memory, so that answering a request never waits for swap. Refused
  // without the privilege, which costs only that guarantee.
  mlock2(memory, bytes, MLOCK_ONFAULT);
  return pool;
}

void BufferPool::GiveBack(size_t keep_bytes) {
  for (size_t at = 0; at < memory_bytes_; at += stride_bytes_) {
    madvise(memory_ + at + keep_bytes, stride_bytes_ - keep_bytes, MADV_DONTNEED_LOCKED);
  }
}

BufferPool::BufferPool(BufferPool&& other) noexcept { *this = std::move(other); }

BufferPool& BufferPool::operator=(BufferPool&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(memory_bytes_, other.memory_bytes_);
  std::swap(stride_bytes_, other.stride_bytes_);
  return *this;
}

BufferPool::~BufferPool() {
  if (memory_ != nullptr) munmap(memory_, memory_bytes_);
}

}  // namespace ublkd::ublk
