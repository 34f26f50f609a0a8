// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/frame_arena.h"

#include <new>

namespace ublkd::uring {
namespace {

#ifdef __SANITIZE_ADDRESS__
/// The sanitizer can only see the use of a frame that has ended if its memory is really freed.
constexpr bool kUseArenas = false;
#else
constexpr bool kUseArenas = true;
#endif

}  // namespace

constinit thread_local FrameArena* FrameArena::current_ = nullptr;

void* FrameArena::AllocateFrame(size_t bytes) {
  const size_t total_bytes = bytes + sizeof(Header);
  const size_t size_class = (total_bytes - 1) / kClassBytes;
  FrameArena* arena = current_;
  Header* header = nullptr;
  if (kUseArenas && arena != nullptr && size_class < kClassCount) {
    header = arena->Take(size_class);
    header->arena = arena;
    header->size_class = size_class;
  } else {
    header = static_cast<Header*>(::operator new(total_bytes));
    header->arena = nullptr;
  }
  return header + 1;
}

void FrameArena::FreeFrame(void* frame) noexcept {
  Header* header = static_cast<Header*>(frame) - 1;
  FrameArena* arena = header->arena;
  if (arena == nullptr) {
    ::operator delete(header);
    return;
  }
  Header*& first = arena->free_[header->size_class];
  header->next_free = first;
  first = header;
}

FrameArena::Header* FrameArena::Take(size_t size_class) {
  if (Header* header = free_[size_class]; header != nullptr) {
    free_[size_class] = header->next_free;
    return header;
  }
  const size_t bytes = (size_class + 1) * kClassBytes;
  if (chunk_left_bytes_ < bytes) {
    chunks_.push_back(std::make_unique_for_overwrite<std::byte[]>(kChunkBytes));
    chunk_next_ = chunks_.back().get();
    chunk_left_bytes_ = kChunkBytes;
    reserved_bytes_ += kChunkBytes;
  }
  auto* header = new (chunk_next_) Header;
  chunk_next_ += bytes;
  chunk_left_bytes_ -= bytes;
  return header;
}

}  // namespace ublkd::uring
