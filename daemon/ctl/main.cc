// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <string>
#include <vector>

#include "daemon/ctl/command_tree.h"
#include "daemon/ctl/completion.h"
#include "daemon/ctl/outcome.h"

int main(int argc, char** argv) {
  using ublkd::ctl::ExitCode;
  ublkd::ctl::CommandTree tree;
  ublkd::ctl::AddDeviceCommands(tree);
  ublkd::ctl::AddVolumeCommands(tree);
  ublkd::ctl::AddServerCommands(tree);
  ublkd::ctl::AddCompletionCommand(tree);

  // The words to complete may be any text, so they are never parsed as a command line.
  if (argc > 1 && std::string(argv[1]) == ublkd::ctl::kCompleteCommand) {
    const std::vector<std::string> words(argv + 2, argv + argc);
    std::cout << ublkd::ctl::Complete(tree, words);
    return static_cast<int>(ExitCode::kDone);
  }

  ExitCode code = tree.Run(argc, argv);
  std::cout.flush();
  if (!std::cout.good() && code == ExitCode::kDone) {
    code = ublkd::ctl::Report(
        absl::DataLossError("cannot write the answer: stdout is closed or full"));
  }
  return static_cast<int>(code);
}
