// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/queue_thread.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "daemon/target/null.h"

namespace ublkd::ublk {
namespace {

TEST(QueueThread, OneThatCannotBeMadeSaysWhyAndHasEnded) {
  // No machine has the address space for such a stack.
  pthread_attr_t usual;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  pthread_attr_t endless;
  ASSERT_EQ(pthread_attr_init(&endless), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&endless, size_t{1} << 47), 0);
  ASSERT_EQ(pthread_setattr_default_np(&endless), 0);
  const absl::Cleanup back = [&] { pthread_setattr_default_np(&usual); };

  auto target = target::MakeNullTarget(1 << 20, 512);
  ASSERT_TRUE(target.ok()) << target.status();
  int ends = 0;
  QueueThread::Options options;
  options.spec.name = "ublk0-q0";
  options.on_end = [&ends] { ++ends; };
  QueueThread thread(options);
  thread.Start(nullptr, **target);
  const absl::Status status = thread.WaitReady();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "start thread ublk0-q0")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "raise the limit")) << status;
  EXPECT_EQ(ends, 1);
  thread.Leave();
  thread.GiveMemoryBack();
  thread.Join();
}

}  // namespace
}  // namespace ublkd::ublk
