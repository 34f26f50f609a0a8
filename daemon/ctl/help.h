// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace ublkd::ctl {

/// "ublkctl device create".
std::string CommandPath(const CLI::App& app);

/// The first line of the description.
std::string SummaryOf(const CLI::App& app);

/// The commands below `app`, in the order in which they were added.
std::vector<const CLI::App*> CommandsOf(const CLI::App& app);

/// The options and arguments of `app`, in the order in which they were added.
std::vector<const CLI::Option*> OptionsOf(const CLI::App& app);

/// Help that is whole at every level: usage, commands, arguments, options, the global options,
/// examples (the footer of the app) and the exit codes.
class HelpFormatter : public CLI::FormatterBase {
 public:
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override;
};

}  // namespace ublkd::ctl
