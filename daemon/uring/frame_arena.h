// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ublkd::uring {

/// Memory for the coroutine frames of one thread. A frame that ends leaves its place to the next
/// one of its size, so that a thread which does the same work over and over allocates nothing.
///
/// While a Scope of an arena is in force on a thread, coroutines that start there take their frames
/// from it; elsewhere frames come from the heap. All frames must have ended when the arena goes.
/// Not thread-safe: a frame is freed on the thread that made it.
class FrameArena {
 public:
  FrameArena() = default;
  FrameArena(const FrameArena&) = delete;
  FrameArena& operator=(const FrameArena&) = delete;

  /// Makes the arena the one of this thread until the scope ends.
  class Scope {
   public:
    explicit Scope(FrameArena& arena) : previous_(current_) { current_ = &arena; }
    ~Scope() { current_ = previous_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    FrameArena* previous_;
  };

  /// For promise types: memory from this thread's arena, or from the heap without one.
  static void* AllocateFrame(size_t bytes);
  static void FreeFrame(void* frame) noexcept;

  /// Bytes taken from the heap so far; grows only while the thread does something new.
  size_t reserved_bytes() const { return reserved_bytes_; }

 private:
  /// In front of each frame; keeps the alignment that operator new promises.
  struct alignas(__STDCPP_DEFAULT_NEW_ALIGNMENT__) Header {
    /// Null: from the heap.
    FrameArena* arena;
    /// The frame's class while it is used, the next free one while it is not.
    union {
      size_t size_class;
      Header* next_free;
    };
  };

  static constexpr size_t kClassBytes = 64;
  static constexpr size_t kClassCount = 64;
  /// Two have room for 64 frames of 512 bytes, those of a queue's requests, and a few small ones.
  static constexpr size_t kChunkBytes = (16 << 10) + 512;

  Header* Take(size_t size_class);

  static constinit thread_local FrameArena* current_;  // NOLINT(readability-identifier-naming)

  std::array<Header*, kClassCount> free_ = {};
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  std::byte* chunk_next_ = nullptr;
  size_t chunk_left_bytes_ = 0;
  size_t reserved_bytes_ = 0;
};

}  // namespace ublkd::uring
