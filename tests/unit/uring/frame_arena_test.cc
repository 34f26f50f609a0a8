// SPDX-License-Identifier: Apache-2.0
#include "daemon/uring/frame_arena.h"

#include "tests/unit/uring/test_ring.h"

namespace ublkd::uring {
namespace {

class FrameArenaTest : public RingTest {};

Task<Result> Work(Ring& ring) {
  (void)co_await ring.Yield();
  co_return Result::Ok();
}

TEST_F(FrameArenaTest, RepeatedWorkAllocatesOnce) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "frames come from the heap under AddressSanitizer";
#endif
  const auto ring = MakeRing();
  FrameArena arena;
  size_t after_first = 0;
  {
    const FrameArena::Scope scope(arena);
    Run(*ring, [](Ring& r, FrameArena& a, size_t& bytes) -> RootTask {
      (void)co_await Work(r);
      bytes = a.reserved_bytes();
      for (int i = 0; i < 1000; ++i) (void)co_await Work(r);
    }(*ring, arena, after_first));
  }
  EXPECT_GT(after_first, 0u);
  EXPECT_EQ(arena.reserved_bytes(), after_first);
}

TEST_F(FrameArenaTest, WithoutScopeFramesComeFromTheHeap) {
  const auto ring = MakeRing();
  FrameArena arena;
  { const FrameArena::Scope scope(arena); }
  Run(*ring, [](Ring& r) -> RootTask { (void)co_await Work(r); }(*ring));
  EXPECT_EQ(arena.reserved_bytes(), 0u);
}

}  // namespace
}  // namespace ublkd::uring
