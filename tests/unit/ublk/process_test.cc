// SPDX-License-Identifier: Apache-2.0
#include "daemon/ublk/process.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace ublkd::ublk {
namespace {

TEST(ServingProcess, MayOpenAsManyFilesAsTheHardLimitAllows) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);

  RaiseDescriptorLimit();

  rlimit after;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, after.rlim_max);
  EXPECT_GE(after.rlim_max, before.rlim_max);
}

TEST(ServingProcessDeathTest, HasNoHugePages) {
  EXPECT_EXIT(
      {
        PrepareServingProcess();
        _exit(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
      },
      testing::ExitedWithCode(1), "");
}

}  // namespace
}  // namespace ublkd::ublk
