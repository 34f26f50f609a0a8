// SPDX-License-Identifier: Apache-2.0
//
// The program as an operator starts it. Runs where there is no driver.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "daemon/base/unix_socket.h"
#include "tests/support/process.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::guard {
namespace {

using std::chrono::seconds;
using test::Process;
using ::testing::HasSubstr;

class Program : public testing::Test {
 protected:
  static constexpr seconds kLimit{60};

  void Start(const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {UBLKD_GUARD_PROGRAM};
    command.insert(command.end(), arguments.begin(), arguments.end());
    auto started = Process::Start(command, dir_.File("log"));
    ASSERT_TRUE(started.ok()) << started.status();
    process_ = *std::move(started);
  }
  int Run(const std::vector<std::string>& arguments) {
    Start(arguments);
    return process_->Wait(kLimit).value_or(-1);
  }
  std::string Log() const { return dir_.Read("log"); }

  volume::TempDir dir_;
  std::unique_ptr<Process> process_;
};

TEST_F(Program, ExplainsItself) {
  EXPECT_EQ(Run({"--help"}), 0);
  for (const char* part : {"--state-dir", "--socket", "--now", "fail_after", "Exit status"}) {
    EXPECT_THAT(Log(), HasSubstr(part));
  }
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_EQ(Run({"--what"}), 2);
}

TEST_F(Program, SaysWhyItCannotStart) {
  EXPECT_EQ(Run({"--state-dir", "run"}), 1);
  EXPECT_THAT(Log(), HasSubstr("give an absolute path"));
  EXPECT_EQ(Run({"--state-dir", dir_.path(), "--socket", dir_.File(std::string(200, 'x'))}), 1);
  EXPECT_THAT(Log(), HasSubstr("choose another"));
}

TEST_F(Program, WatchesUntilItIsToldToEnd) {
  Start({"--state-dir", dir_.File("run")});
  const std::string socket = dir_.File("run/guard.sock");
  EXPECT_TRUE(test::Eventually([&] { return DialUnixSocket(socket).ok(); }, kLimit)) << Log();
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(kLimit).value_or(-1), 0);
  EXPECT_EQ(Run({"--state-dir", dir_.File("run"), "--now"}), 0) << "nothing is in use";
}

}  // namespace
}  // namespace ublkd::guard
