// SPDX-License-Identifier: Apache-2.0
#include "daemon/server/options.h"

#include <gtest/gtest.h>

#include "tests/unit/volume/matchers.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::server {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using volume::IsOk;
using volume::Refused;

TEST(Pool, IsANameAPathAndARatio) {
  const auto plain = ParsePool("fast=/var/lib/a=b");
  ASSERT_THAT(plain, IsOk());
  EXPECT_EQ(plain->name, "fast");
  EXPECT_EQ(plain->path, "/var/lib/a=b");
  EXPECT_EQ(plain->overcommit, 1.0);
  const auto ratio = ParsePool("big=/mnt/x,overcommit=2.5");
  ASSERT_THAT(ratio, IsOk());
  EXPECT_EQ(ratio->path, "/mnt/x");
  EXPECT_EQ(ratio->overcommit, 2.5);
  for (const char* text : {"", "a", "=/x", "a=", "a=relative",
                           "a=/x,overcommit=", "a=/x,overcommit=0.5", "a=/x,overcommit=nan"}) {
    EXPECT_THAT(ParsePool(text), Refused(StatusCode::kInvalidArgument, "--pool")) << text;
  }
}

TEST(Address, IsAnIpAndAPort) {
  EXPECT_EQ(ParseAddress("127.0.0.1:9500")->port, 9500);
  EXPECT_EQ(ParseAddress("0.0.0.0:0")->host, "0.0.0.0");
  EXPECT_EQ(ParseAddress("[::1]:80")->host, "[::1]");
  for (const char* text : {"", "9500", "localhost:9500", "127.0.0.1", "127.0.0.1:", ":9500",
                           "127.0.0.1:65536", "127.0.0.1:-1", "::1:80", "[::1]", "1.2.3:80"}) {
    EXPECT_THAT(ParseAddress(text), Refused(StatusCode::kInvalidArgument, "--metrics-address"))
        << text;
  }
}

TEST(LogLevelName, IsOneOfFour) {
  EXPECT_EQ(*ParseLogLevel("warning"), LogLevel::kWarning);
  EXPECT_THAT(ParseLogLevel("loud"), Refused(StatusCode::kInvalidArgument, "--log-level"));
}

Flags Parse(const std::vector<std::string>& arguments) {
  CLI::App app;
  Flags flags;
  AddFlags(app, flags);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  app.parse(reversed);
  return flags;
}

TEST(CommandLine, FlagsWinOverTheFile) {
  const volume::TempDir dir;
  const std::string file =
      dir.Write("c.yaml", "pool:\n  - a=/a\n  - b=/b,overcommit=2\nlog-level: debug\nsocket: /s\n");
  const Flags flags = Parse({"--config", file, "--log-level", "error"});
  EXPECT_THAT(flags.pools, ElementsAre("a=/a", "b=/b,overcommit=2"));
  EXPECT_EQ(flags.log_level, "error");
  EXPECT_EQ(flags.socket, "/s");
  EXPECT_THAT(Parse({"--pool", "a=/a", "--pool", "b=/b"}).pools, ElementsAre("a=/a", "b=/b"));
  EXPECT_THROW(Parse({"--pool", "a=/a", "b=/b"}), CLI::ParseError);
  EXPECT_THROW(Parse({"--default-queues", "-1"}), CLI::ParseError);
  EXPECT_THROW(Parse({"--config", dir.Write("d.yaml", "sokcet: /s\n")}), CLI::ParseError);
}

}  // namespace
}  // namespace ublkd::server
