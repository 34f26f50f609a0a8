// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "tests/unit/ctl/program.h"

namespace ublkd::ctl {
namespace {

using testing::HasSubstr;

struct Level {
  std::vector<std::string> command;
  /// What its help must name beside the global options.
  std::vector<std::string> own;

  /// Part of the test's name.
  friend void PrintTo(const Level& level, std::ostream* out) {
    *out << "ublkctl " << absl::StrJoin(level.command, " ");
  }
};

class CtlHelp : public testing::TestWithParam<Level> {};

TEST_P(CtlHelp, IsWholeAtEveryLevel) {
  std::vector<std::string> command = {UBLKCTL_PROGRAM};
  command.insert(command.end(), GetParam().command.begin(), GetParam().command.end());
  std::string path = "ublkctl";
  for (const std::string& word : GetParam().command) path += " " + word;
  command.push_back("--help");

  const Result result = RunProgram(command);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("Usage: " + path + " ["));
  EXPECT_THAT(result.out, testing::ContainsRegex("Examples:\n  .*ublkctl "));
  EXPECT_THAT(result.out, HasSubstr("Exit codes:\n  0 "));
  for (const char* global : {"--help", "--version", "--socket PATH", "UBLKD_SOCKET",
                             "-o, --output FORMAT", "--timeout TIME"}) {
    EXPECT_THAT(result.out, HasSubstr(global)) << "a global option is missing";
  }
  for (const std::string& own : GetParam().own) EXPECT_THAT(result.out, HasSubstr(own));
  EXPECT_THAT(result.out, testing::Not(HasSubstr("__complete"))) << "that one is hidden";
}

INSTANTIATE_TEST_SUITE_P(
    Levels, CtlHelp,
    testing::Values(
        Level{{}, {"device ", "volume ", "pool ", "info ", "completion "}},
        Level{{"device"}, {"create ", "list ", "show ", "limit ", "resize ", "delete "}},
        Level{{"device", "create"},
              {"--volume POOL/NAME", "--file PATH", "--null SIZE", "--queues N", "--depth N",
               "--threads-per-queue N", "--block-size SIZE", "--read-only", "--buffers MODE",
               "--id N", "--max-io SIZE", "--iops-limit N", "--iops-burst N",
               "--bandwidth-limit SIZE", "--bandwidth-burst SIZE", "--fail-after TIME"}},
        Level{{"device", "limit"},
              {"DEVICE", "--iops-limit N", "--iops-burst N", "--bandwidth-limit SIZE",
               "--bandwidth-burst SIZE", "--none"}},
        Level{{"device", "list"}, {}}, Level{{"device", "show"}, {"DEVICE"}},
        Level{{"device", "delete"}, {"DEVICE..."}},
        Level{{"device", "resize"}, {"DEVICE", "--size SIZE"}},
        Level{{"volume", "resize"}, {"VOLUME", "--size SIZE"}},
        Level{{"volume"}, {"create ", "list ", "show ", "resize ", "delete "}},
        Level{{"volume", "create"},
              {"VOLUME", "--size SIZE", "--block-size SIZE", "--thick", "--label KEY=VALUE"}},
        Level{{"volume", "list"}, {"--pool POOL"}}, Level{{"volume", "show"}, {"VOLUME"}},
        Level{{"volume", "delete"}, {"VOLUME..."}}, Level{{"pool"}, {"list "}},
        Level{{"pool", "list"}, {}}, Level{{"info"}, {}},
        Level{{"completion"}, {"SHELL", "bash, zsh or fish"}}));

TEST(Ctl, VersionNamesTheProgram) {
  const Result result = RunProgram({UBLKCTL_PROGRAM, "--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, testing::MatchesRegex("ublkctl [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

}  // namespace
}  // namespace ublkd::ctl
