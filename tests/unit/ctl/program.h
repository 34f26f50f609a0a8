// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

namespace ublkd::ctl {

/// What a program left when it ended.
struct Result {
  /// As a shell counts it: 128 + N after signal N.
  int exit_code = -1;
  std::string out;
  std::string err;
};

/// Where a program's stdout goes.
enum class Stdout { kPipe, kTerminal, kFull };

/// Runs `command` (found on PATH) to its end with `environment` added to ours and nothing on stdin.
Result RunProgram(const std::vector<std::string>& command,
                  const std::map<std::string, std::string>& environment = {},
                  Stdout stdout_kind = Stdout::kPipe);

/// Whether `program` is on PATH.
bool IsInstalled(const std::string& program);

}  // namespace ublkd::ctl
