// SPDX-License-Identifier: Apache-2.0
//
// The program as an operator starts it. Runs where there is no driver.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "daemon/base/rpc.h"
#include "tests/unit/volume/temp_dir.h"
#include "ublkd/v1/volume.grpc.pb.h"

namespace ublkd::server {
namespace {

using ::testing::HasSubstr;

class Program : public ::testing::Test {
 protected:
  Program() { std::filesystem::create_directory(dir_.File("pool")); }
  ~Program() override {
    if (child_ > 0) End(SIGKILL);
  }

  std::vector<std::string> Usual() const {
    return {"--socket", dir_.File("run/s.sock"),  "--state-dir",       dir_.File("run"),
            "--pool",   "p=" + dir_.File("pool"), "--metrics-address", "off"};
  }
  void Spawn(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), UBLKD_PROGRAM);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ != 0) return;
    // Nothing is left when the test itself is killed.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int log = open(dir_.File("log").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int out = open(dir_.File("out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(log, STDERR_FILENO);
    dup2(out, STDOUT_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  /// The exit status; 128 and the signal's number for a process that was killed.
  int Wait() {
    int status = 0;
    waitpid(std::exchange(child_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int End(int signal_number) {
    kill(child_, signal_number);
    return Wait();
  }
  int Run(const std::vector<std::string>& arguments) {
    Spawn(arguments);
    return Wait();
  }
  bool AnswersCreate(const std::string& name) {
    const auto stub = v1::VolumeService::NewStub(ConnectToUnixSocket(dir_.File("run/s.sock")));
    // Waits for the server: a call that fails at once would only be tried again, and what polls
    // between such calls is gRPC's spare poller, every five seconds.
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::CreateVolumeRequest request;
    request.set_name(name);
    request.set_size_bytes(1 << 20);
    v1::Volume response;
    return stub->CreateVolume(&context, request, &response).ok();
  }
  std::string Log() const { return dir_.Read("log"); }

  volume::TempDir dir_;
  pid_t child_ = 0;
};

TEST_F(Program, ExplainsItself) {
  EXPECT_EQ(Run({"--help"}), 0);
  for (const char* part : {"--pool", "--socket", "--metrics-address", "Example:", "Exit status"}) {
    EXPECT_THAT(dir_.Read("out"), HasSubstr(part));
  }
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_THAT(dir_.Read("out"), HasSubstr("ublkd "));
  EXPECT_EQ(Run({"--nonsense"}), 2);
}

TEST_F(Program, WhatKeepsItFromStartingIsOneSentence) {
  const struct {
    std::vector<std::string> arguments;
    std::string words;
  } cases[] = {
      {{"--pool", "p=relative"}, "p=relative"},
      {{"--pool", "p=" + dir_.File("none")}, "none"},
      {{"--log-level", "loud"}, "loud"},
      {{"--state-dir", "relative"}, "relative"},
      {{"--socket", "relative", "--state-dir", dir_.File("run")}, "relative"},
      {{"--metrics-address", "nowhere", "--state-dir", dir_.File("run")}, "nowhere"},
  };
  for (const auto& bad : cases) {
    EXPECT_EQ(Run(bad.arguments), 1) << bad.words;
    std::string last;
    std::istringstream lines(Log());
    for (std::string line; std::getline(lines, line);) last = line;
    const auto json = nlohmann::json::parse(last, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << last;
    EXPECT_EQ(json["message"], "ublkd cannot start");
    EXPECT_THAT(json["reason"].get<std::string>(), HasSubstr(bad.words));
    EXPECT_THAT(json["reason"].get<std::string>(), HasSubstr(";"));
  }
}

TEST_F(Program, EndsCleanlyOnSigtermAndSigint) {
  for (const int signal_number : {SIGTERM, SIGINT}) {
    Spawn(Usual());
    ASSERT_TRUE(AnswersCreate("a")) << Log();
    EXPECT_TRUE(std::filesystem::exists(dir_.File("run/s.sock")));
    EXPECT_EQ(End(signal_number), 0) << Log();
    EXPECT_FALSE(std::filesystem::exists(dir_.File("run/s.sock")));
    EXPECT_THAT(Log(), HasSubstr("ublkd has stopped"));
  }
}

TEST_F(Program, ASecondOneOnTheSameSocketIsRefused) {
  Spawn(Usual());
  ASSERT_TRUE(AnswersCreate("a")) << Log();
  const pid_t first = std::exchange(child_, 0);
  EXPECT_EQ(Run({"--socket", dir_.File("run/s.sock"), "--state-dir", dir_.File("run2"),
                 "--metrics-address", "off"}),
            1);
  EXPECT_THAT(Log(), HasSubstr("another server is listening"));
  child_ = first;
  EXPECT_TRUE(AnswersCreate("b")) << "the first one goes on";
  EXPECT_EQ(End(SIGTERM), 0);
}

TEST_F(Program, StartsAgainAfterItWasKilled) {
  for (const char* name : {"a", "b"}) {
    Spawn(Usual());
    ASSERT_TRUE(AnswersCreate(name)) << Log();
    EXPECT_EQ(End(SIGKILL), 128 + SIGKILL);
  }
  Spawn(Usual());
  ASSERT_TRUE(AnswersCreate("a")) << Log();
  EXPECT_EQ(End(SIGTERM), 0);
}

TEST_F(Program, EveryLogLineIsJsonAndNoFileIsOpenToOthers) {
  Spawn(Usual());
  ASSERT_TRUE(AnswersCreate("a")) << Log();
  EXPECT_EQ(End(SIGTERM), 0);
  std::istringstream lines(Log());
  int started = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << line;
    if (json["message"] != "ublkd starts") continue;
    ++started;
    for (const char* key : {"version", "kernel", "driver", "pools"}) {
      EXPECT_TRUE(json.contains(key)) << line;
    }
  }
  EXPECT_EQ(started, 1);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_.path())) {
    if (entry.path() == dir_.File("pool")) continue;
    struct stat facts;
    ASSERT_EQ(lstat(entry.path().c_str(), &facts), 0);
    EXPECT_EQ(facts.st_mode & 0077, 0u) << entry.path();
  }
}

}  // namespace
}  // namespace ublkd::server
