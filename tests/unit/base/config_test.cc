// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "daemon/base/file.h"

namespace ublkd {
namespace {

class ConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "ublkd-config-" + std::to_string(getpid()) + ".yaml";
    app_.add_option("--socket", socket_);
    app_.add_option("--pool", pools_);
    AddYamlConfig(app_);
  }
  void TearDown() override { unlink(path_.c_str()); }

  // The mistake that parsing ends in, or "" when there is none.
  std::string Parse(const std::string& yaml, std::vector<std::string> flags = {}) {
    EXPECT_TRUE(WriteFileAtomically(path_, yaml).ok());
    // CLI11 takes the arguments in reverse order.
    flags.insert(flags.begin(), {path_, "--config"});
    try {
      app_.parse(flags);
    } catch (const CLI::Error& error) {
      return error.what();
    }
    return "";
  }

  CLI::App app_;
  std::string path_;
  std::string socket_;
  std::vector<std::string> pools_;
};

TEST_F(ConfigTest, KeysAreLongOptionNamesAndListsRepeat) {
  EXPECT_EQ(Parse("socket: /run/x.sock\npool:\n  - a=/a\n  - b=/b\n"), "");
  EXPECT_EQ(socket_, "/run/x.sock");
  EXPECT_EQ(pools_, (std::vector<std::string>{"a=/a", "b=/b"}));
}

TEST_F(ConfigTest, AFlagWinsOverTheFile) {
  EXPECT_EQ(Parse("socket: /run/x.sock\n", {"/run/flag.sock", "--socket"}), "");
  EXPECT_EQ(socket_, "/run/flag.sock");
}

TEST_F(ConfigTest, AnEmptyFileIsFine) { EXPECT_EQ(Parse("# nothing\n"), ""); }

TEST_F(ConfigTest, MistakesAreRefused) {
  EXPECT_NE(Parse("sokcet: /run/x.sock\n"), "");
  EXPECT_NE(Parse("- a\n- b\n"), "");
  EXPECT_NE(Parse("socket: {a: b}\n"), "");
  EXPECT_NE(Parse("socket: [unclosed\n"), "");
}

}  // namespace
}  // namespace ublkd
