// SPDX-License-Identifier: Apache-2.0
//
// The program as the chart's hook starts it, with an API that it reaches by TLS.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/support/process.h"
#include "tests/unit/volume/temp_dir.h"

namespace ublkd::uninstall {
namespace {

using std::chrono::seconds;
using test::Process;
using ::testing::HasSubstr;
using ::testing::Not;

class Check : public testing::Test {
 protected:
  static constexpr seconds kLimit{60};

  void Serve(int volumes) {
    auto started = Process::Start({"python3", UBLKD_API_SERVER, api_.path(), absl::StrCat(volumes)},
                                  dir_.File("api.log"));
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    ASSERT_TRUE(
        test::Eventually([&] { return std::filesystem::exists(api_.File("port")); }, kLimit))
        << dir_.Read("api.log");
    SetToken("right\n");
  }
  void SetToken(const std::string& token) { std::ofstream(dir_.File("token")) << token; }
  std::string Url() const { return absl::StrCat("https://127.0.0.1:", api_.Read("port")); }

  /// The exit status; what was said is in said_.
  int Run(const std::vector<std::string>& arguments) {
    std::filesystem::remove(dir_.File("log"));
    // Where the tests run in a pod of some cluster, it is not asked.
    std::vector<std::string> command = {"env", "-u", "KUBERNETES_SERVICE_HOST",
                                        UBLKD_UNINSTALL_CHECK_PROGRAM};
    command.insert(command.end(), arguments.begin(), arguments.end());
    auto started = Process::Start(command, dir_.File("log"));
    EXPECT_TRUE(started.ok()) << started.status();
    const int status = (*started)->Wait(kLimit).value_or(-1);
    said_ = dir_.Read("log");
    return status;
  }
  int Ask(const std::string& url, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {
        "--api", url, "--ca-file", api_.File("ca.crt"), "--token-file", dir_.File("token")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments);
  }

  volume::TempDir dir_;
  volume::TempDir api_;
  std::unique_ptr<Process> server_;
  std::string said_;
};

TEST_F(Check, ExplainsItself) {
  EXPECT_EQ(Run({"--help"}), 0);
  for (const char* part : {"--driver-name", "--api", "PersistentVolumes", "Exit status"}) {
    EXPECT_THAT(said_, HasSubstr(part));
  }
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_EQ(Run({"--what"}), 2);
}

TEST_F(Check, WithoutVolumesItMayGo) {
  ASSERT_NO_FATAL_FAILURE(Serve(0));
  EXPECT_EQ(Ask(Url()), 0) << said_;
  EXPECT_EQ(said_, "no volume of csi.ublkd.dev is left\n");
}

TEST_F(Check, VolumesAreNamedAndKeepIt) {
  ASSERT_NO_FATAL_FAILURE(Serve(7));
  EXPECT_EQ(Ask(Url()), 1);
  EXPECT_THAT(said_, HasSubstr("5 volumes of csi.ublkd.dev are left: pv-0 (claim shop/db-0)"));
  EXPECT_THAT(said_, HasSubstr("pv-6"));
  EXPECT_THAT(said_, Not(HasSubstr("pv-2")));
  EXPECT_THAT(said_, HasSubstr("--no-hooks"));
  EXPECT_THAT(api_.Read("asked"), HasSubstr("continue=from%2F6"));
  EXPECT_EQ(Ask(Url(), {"--driver-name", "disks.example.com"}), 0) << said_;
}

TEST_F(Check, WhatItCannotTellIsARefusal) {
  ASSERT_NO_FATAL_FAILURE(Serve(0));
  SetToken("wrong");
  EXPECT_EQ(Ask(Url()), 1);
  EXPECT_THAT(said_, HasSubstr("HTTP status 403"));
  EXPECT_THAT(said_, Not(HasSubstr("Bearer")));
  SetToken("right");
  EXPECT_EQ(Ask("https://127.0.0.1:1"), 1);
  EXPECT_THAT(said_, HasSubstr("it cannot be told"));
  EXPECT_EQ(Ask(absl::StrCat("http", Url().substr(5))), 1) << "the token is sent by TLS only";
  EXPECT_EQ(Run({"--api", Url(), "--token-file", dir_.File("token"), "--ca-file",
                 "/etc/ssl/certs/ca-certificates.crt"}),
            1)
      << "a server that has no certificate of the cluster gets no token";
  EXPECT_THAT(said_, HasSubstr("certificate"));
  std::filesystem::remove(dir_.File("token"));
  EXPECT_EQ(Ask(Url()), 1);
  EXPECT_THAT(said_, HasSubstr("No such file"));
  EXPECT_EQ(Run({}), 1);
  EXPECT_THAT(said_, HasSubstr("run it in a pod"));
}

}  // namespace
}  // namespace ublkd::uninstall
