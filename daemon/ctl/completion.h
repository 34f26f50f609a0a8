// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "daemon/ctl/command_tree.h"

namespace ublkd::ctl {

/// The hidden command that the completion scripts call with the words typed so far.
inline constexpr char kCompleteCommand[] = "__complete";

/// What may stand in place of the last of `words` (without the program's name), which may be
/// empty or half typed. The first line is "files" when the shell should offer its files, else
/// "words", followed by a line "candidate<TAB>description" for each. Names of volumes, devices and
/// pools are asked from ublkd, for at most a second; whatever goes wrong is an empty list.
std::string Complete(const CommandTree& tree, const std::vector<std::string>& words);

/// The script that makes a shell ("bash", "zsh", "fish") complete ublkctl; empty for another shell.
std::string CompletionScript(const std::string& shell);

}  // namespace ublkd::ctl
