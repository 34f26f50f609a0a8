// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "daemon/uring/ring.h"
#include "daemon/uring/task.h"

namespace ublkd::uring {

/// A ring of this thread, or a skipped test when the machine refuses io_uring.
class RingTest : public testing::Test {
 protected:
  void SetUp() override {
    auto ring = Ring::Create({});
    if (!ring.ok()) GTEST_SKIP() << "io_uring cannot be used here: " << ring.status();
  }

  static std::unique_ptr<Ring> MakeRing(const RingOptions& options = {}) {
    auto ring = Ring::Create(options);
    EXPECT_TRUE(ring.ok()) << ring.status();
    return *std::move(ring);
  }

  /// Runs one coroutine to its end.
  static void Run(Ring& ring, RootTask task) {
    task.Start();
    ring.RunUntil([&task] { return task.done(); });
  }
};

}  // namespace ublkd::uring
