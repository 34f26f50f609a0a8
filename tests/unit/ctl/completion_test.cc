// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <filesystem>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "daemon/base/file.h"
#include "tests/unit/ctl/canned_server.h"

namespace ublkd::ctl {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

class CtlCompletion : public CtlTest {
 protected:
  // What `ublkctl __complete` offers; the first line is taken off and must be `kind`.
  std::vector<std::string> Complete(std::vector<std::string> words,
                                    const std::string& kind = "words") {
    words.insert(words.begin(), "__complete");
    const Result result = Run(words);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "") << "nothing may disturb the line that is typed";
    std::vector<std::string> lines = Lines(result.out);
    EXPECT_FALSE(lines.empty());
    if (lines.empty()) return {};
    EXPECT_EQ(lines.front(), kind);
    lines.erase(lines.begin());
    std::vector<std::string> candidates;
    for (const std::string& line : lines) {
      const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits('\t', 1));
      EXPECT_EQ(parts.size(), 2u) << "candidate<TAB>description: " << line;
      candidates.push_back(parts[0]);
    }
    return candidates;
  }

  // The script for `shell`, in a file.
  std::string Script(const std::string& shell) {
    const Result result = Run({"completion", shell});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const std::string path = folder_ + "/ublkctl." + shell;
    EXPECT_TRUE(WriteFileAtomically(path, result.out).ok());
    return path;
  }

  // What bash itself offers for `line`: its completion function is run as readline would run it.
  std::vector<std::string> CompleteInBash(const std::string& line) {
    constexpr char kDriver[] = R"SH(
      set -u
      source "$1"
      compopt() { :; }  # only readline may call it
      COMP_LINE=$2 COMP_POINT=${#2}
      IFS=' ' read -ra COMP_WORDS <<<"$COMP_LINE"
      function=$(complete -p ublkctl); function=${function#*-F }; function=${function%% *}
      "$function"
      printf '%s\n' "${COMPREPLY[@]}")SH";
    const Result result =
        RunProgram({"bash", "-c", kDriver, "bash", Script("bash"), line}, EnvironmentWithProgram());
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return Lines(result.out);
  }

  // Our build of ublkctl in front of any that is installed.
  std::map<std::string, std::string> EnvironmentWithProgram() {
    const std::string program = UBLKCTL_PROGRAM;
    const char* path = std::getenv("PATH");
    return {{"PATH", std::filesystem::path(program).parent_path().string() + ":" + path},
            {"UBLKD_SOCKET", socket()},
            {"HOME", folder_}};
  }
};

TEST_F(CtlCompletion, Commands) {
  EXPECT_THAT(Complete({""}), ElementsAre("device", "volume", "pool", "info", "completion"));
  EXPECT_THAT(Complete({"device", ""}),
              ElementsAre("create", "list", "show", "limit", "resize", "delete"));
  EXPECT_THAT(Complete({"vol"}), ElementsAre("volume"));
  EXPECT_THAT(Complete({"-o", "json", "d"}), ElementsAre("device"));
  EXPECT_THAT(Complete({"pool", "list", ""}), ElementsAre());
}

TEST_F(CtlCompletion, OptionsOfTheCommandAndGlobalOnesWithoutThoseInUse) {
  EXPECT_THAT(
      Complete({"device", "create", "--"}),
      ElementsAre("--help", "--volume", "--file", "--null", "--id", "--queues", "--depth",
                  "--threads-per-queue", "--block-size", "--max-io", "--read-only", "--buffers",
                  "--iops-limit", "--iops-burst", "--bandwidth-limit", "--bandwidth-burst",
                  "--fail-after", "--version", "--socket", "--output", "--timeout"));
  EXPECT_THAT(Complete({"device", "create", "--buffers", ""}),
              ElementsAre("copy", "user-copy", "zero-copy"));
  EXPECT_THAT(Complete({"device", "create", "--read-only", "--queues=2", "-o", "json", "--"}),
              ElementsAre("--help", "--volume", "--file", "--null", "--id", "--depth",
                          "--threads-per-queue", "--block-size", "--max-io", "--buffers",
                          "--iops-limit", "--iops-burst", "--bandwidth-limit", "--bandwidth-burst",
                          "--fail-after", "--version", "--socket", "--timeout"));
  EXPECT_THAT(Complete({"volume", "create", "--label", "a=b", "--l"}), ElementsAre("--label"))
      << "it may be repeated";
}

TEST_F(CtlCompletion, Choices) {
  EXPECT_THAT(Complete({"-o", ""}), ElementsAre("table", "json"));
  EXPECT_THAT(Complete({"device", "list", "--output", "j"}), ElementsAre("json"));
  EXPECT_THAT(Complete({"device", "list", "--output=j"}), ElementsAre("--output=json"));
  EXPECT_THAT(Complete({"completion", ""}), ElementsAre("bash", "zsh", "fish"));
}

TEST_F(CtlCompletion, LiveNames) {
  EXPECT_THAT(Complete({"volume", "show", ""}), ElementsAre("bulk/archive", "fast/db", "fast/log"));
  EXPECT_THAT(Complete({"volume", "delete", "fast/db", "fast/l"}), ElementsAre("fast/log"));
  EXPECT_THAT(Complete({"device", "create", "--volume", "fast/"}),
              ElementsAre("fast/db", "fast/log"));
  EXPECT_THAT(Complete({"device", "show", ""}), ElementsAre("0", "12"));
  EXPECT_THAT(Complete({"device", "limit", ""}), ElementsAre("0", "12"));
  EXPECT_THAT(Complete({"device", "resize", ""}), ElementsAre("0", "12"));
  EXPECT_THAT(Complete({"volume", "resize", "fast/"}), ElementsAre("fast/db", "fast/log"));
  EXPECT_THAT(Complete({"device", "delete", "/dev/"}), ElementsAre("/dev/ublkb0", "/dev/ublkb12"));
  EXPECT_THAT(Complete({"volume", "list", "--pool", ""}), ElementsAre("bulk", "fast"));
  EXPECT_THAT(Complete({"volume", "list", "--pool=f"}), ElementsAre("--pool=fast"));
}

TEST_F(CtlCompletion, NamesComeFromTheSocketThatWasTyped) {
  const Result result =
      RunProgram({UBLKCTL_PROGRAM, "__complete", "--socket", socket(), "volume", "show", "bulk"},
                 {{"UBLKD_SOCKET", "/nonexistent"}});
  EXPECT_EQ(result.out, "words\nbulk/archive\t1 TiB\n");
}

TEST_F(CtlCompletion, Files) {
  EXPECT_THAT(Complete({"device", "create", "--file", ""}, "files"), ElementsAre());
  EXPECT_THAT(Complete({"device", "create", "--file=/srv/"}, "files"), ElementsAre());
  EXPECT_THAT(Complete({"--socket", "/run"}, "files"), ElementsAre());
}

TEST_F(CtlCompletion, WithoutAServerThereAreNoNamesAndNoNoise) {
  server_.reset();
  EXPECT_THAT(Complete({"volume", "show", ""}), ElementsAre());
  EXPECT_THAT(Complete({"device", "list", "--no-such"}), ElementsAre());
  EXPECT_THAT(Complete({"no", "such", ""}), ElementsAre());
  EXPECT_THAT(Complete({}), ElementsAre("device", "volume", "pool", "info", "completion"));
}

TEST_F(CtlCompletion, ASilentServerKeepsNobodyWaiting) {
  state_.hang = true;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(Complete({"volume", "show", ""}), ElementsAre());
  // A second by contract, and room for a machine that is busy.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST_F(CtlCompletion, BashOffersCommandsOptionsAndNames) {
  EXPECT_THAT(CompleteInBash("ublkctl "),
              UnorderedElementsAre("device", "volume", "pool", "info", "completion"));
  EXPECT_THAT(CompleteInBash("ublkctl device cr"), ElementsAre("create"));
  EXPECT_THAT(CompleteInBash("ublkctl device create --re"), ElementsAre("--read-only"));
  EXPECT_THAT(CompleteInBash("ublkctl volume show "),
              UnorderedElementsAre("bulk/archive", "fast/db", "fast/log"));
  EXPECT_THAT(CompleteInBash("ublkctl device delete "), UnorderedElementsAre("0", "12"));
}

TEST_F(CtlCompletion, BashReplacesOnlyWhatIsBehindAnEqualsSign) {
  EXPECT_THAT(CompleteInBash("ublkctl device list --output=j"), ElementsAre("json"));
  EXPECT_THAT(CompleteInBash("ublkctl device create --volume=fast/l"), ElementsAre("fast/log"));
}

TEST_F(CtlCompletion, BashOffersFiles) {
  const std::string file = folder_ + "/golden.img";
  ASSERT_TRUE(WriteFileAtomically(file, "x").ok());
  EXPECT_THAT(CompleteInBash("ublkctl device create --file " + folder_ + "/gol"),
              ElementsAre(file));
  EXPECT_THAT(CompleteInBash("ublkctl device create --file=" + folder_ + "/gol"),
              ElementsAre(file));
}

TEST_F(CtlCompletion, FishOffersCommandsAndNames) {
  if (!IsInstalled("fish")) GTEST_SKIP() << "fish is not installed";
  const std::string script = Script("fish");
  EXPECT_EQ(RunProgram({"fish", "-n", script}).exit_code, 0);
  const auto complete = [&](const std::string& line) {
    const Result result = RunProgram(
        {"fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", script, line},
        EnvironmentWithProgram());
    std::vector<std::string> candidates;
    for (const std::string& found : Lines(result.out)) {
      candidates.push_back(found.substr(0, found.find('\t')));
    }
    return candidates;
  };
  EXPECT_THAT(complete("ublkctl dev"), ElementsAre("device"));
  EXPECT_THAT(complete("ublkctl volume show fast/"), ElementsAre("fast/db", "fast/log"));
  EXPECT_THAT(complete("ublkctl device list --output=j"), ElementsAre("--output=json"));
}

TEST_F(CtlCompletion, TheScriptsAreValidInTheirShells) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = Script(shell);
    if (!IsInstalled(shell)) continue;
    const Result result = RunProgram({shell, "-n", script});
    EXPECT_EQ(result.exit_code, 0) << shell << ": " << result.err;
  }
}

}  // namespace
}  // namespace ublkd::ctl
