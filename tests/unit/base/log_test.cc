// SPDX-License-Identifier: Apache-2.0
#include "daemon/base/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace ublkd {
namespace {

TEST(Log, ALineIsOneJsonObjectWithFieldsInOrder) {
  EXPECT_EQ(FormatLogLine(LogLevel::kInfo, "T", "device is live",
                          {{"device", 3}, {"volume", "a/b"}, {"ok", true}, {"seconds", 0.5}}),
            R"({"time":"T","level":"info","message":"device is live","device":3,)"
            R"("volume":"a/b","ok":true,"seconds":0.5})");
}

TEST(Log, TextFromOutsideCannotBreakTheLine) {
  const std::string line =
      FormatLogLine(LogLevel::kError, "T", "x", {{"name", "quote \" newline \n bad utf-8 \xff"}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto parsed = nlohmann::json::parse(line);
  EXPECT_EQ(parsed["level"], "error");
  EXPECT_NE(parsed["name"].get<std::string>().find("quote \" newline \n"), std::string::npos);
}

}  // namespace
}  // namespace ublkd
