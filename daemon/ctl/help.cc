// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/help.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ublkd::ctl {
namespace {

constexpr char kExitCodes[] =
    R"(Exit codes:
  0  done
  1  ublkd refused, and said why
  2  the command line is wrong; nothing was sent
  3  ublkd cannot be reached, or did not answer in time
)";

using Entries = std::vector<std::pair<std::string, std::string>>;

const CLI::App& RootOf(const CLI::App& app) {
  const CLI::App* root = &app;
  while (root->get_parent() != nullptr) root = root->get_parent();
  return *root;
}

bool TakesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

// "  -o, --output FORMAT"; room for the short name is kept so that the long ones stand in line.
std::string OptionEntry(const CLI::Option& option) {
  std::string text = option.get_snames().empty() ? "    " : "";
  absl::string_view comma = "";
  for (const std::string& name : option.get_snames()) {
    absl::StrAppend(&text, comma, "-", name);
    comma = ", ";
  }
  for (const std::string& name : option.get_lnames()) {
    absl::StrAppend(&text, comma, "--", name);
    comma = ", ";
  }
  if (TakesValue(option)) absl::StrAppend(&text, " ", option.get_type_name());
  return text;
}

std::string Describe(const CLI::Option& option) {
  std::string text = option.get_description();
  if (!option.get_envname().empty())
    absl::StrAppend(&text, " (variable ", option.get_envname(), ")");
  return text;
}

bool MayRepeat(const CLI::Option& option) {
  return option.get_items_expected_max() >= CLI::detail::expected_max_vector_size;
}

std::string ArgumentUsage(const CLI::Option& option) {
  const std::string name =
      absl::StrCat(option.get_name(true, false), MayRepeat(option) ? "..." : "");
  return option.get_required() ? name : absl::StrCat("[", name, "]");
}

std::string Section(const std::string& title, const Entries& entries) {
  if (entries.empty()) return "";
  size_t width = 0;
  for (const auto& [name, description] : entries) width = std::max(width, name.size());
  std::string text = absl::StrCat(title, ":\n");
  for (const auto& [name, description] : entries) {
    absl::StrAppend(&text, "  ", name, std::string(width - name.size(), ' '), "  ", description,
                    "\n");
  }
  return absl::StrCat(text, "\n");
}

std::string Usage(const CLI::App& app) {
  std::string text = absl::StrCat("Usage: ", CommandPath(app), " [OPTION]...");
  if (!CommandsOf(app).empty()) absl::StrAppend(&text, " COMMAND");
  for (const CLI::Option* option : OptionsOf(app)) {
    if (option->get_positional()) absl::StrAppend(&text, " ", ArgumentUsage(*option));
  }
  return absl::StrCat(text, "\n\n");
}

}  // namespace

std::string CommandPath(const CLI::App& app) {
  if (app.get_parent() == nullptr) return app.get_name();
  return absl::StrCat(CommandPath(*app.get_parent()), " ", app.get_name());
}

std::string SummaryOf(const CLI::App& app) {
  const std::string description = app.get_description();
  return description.substr(0, description.find('\n'));
}

std::vector<const CLI::App*> CommandsOf(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_name().empty(); });
}

std::vector<const CLI::Option*> OptionsOf(const CLI::App& app) {
  return app.get_options([](const CLI::Option* option) { return !option->get_group().empty(); });
}

std::string HelpFormatter::make_help(const CLI::App* app, std::string, CLI::AppFormatMode) const {
  const CLI::App& root = RootOf(*app);
  Entries commands;
  Entries arguments;
  Entries options;
  Entries globals;
  for (const CLI::App* command : CommandsOf(*app)) {
    commands.emplace_back(command->get_name(), SummaryOf(*command));
  }
  for (const CLI::Option* option : OptionsOf(*app)) {
    if (app == &root || option == app->get_help_ptr()) continue;
    if (option->get_positional()) {
      arguments.emplace_back(option->get_name(true, false), option->get_description());
    } else {
      options.emplace_back(OptionEntry(*option), Describe(*option));
    }
  }
  for (const CLI::Option* option : OptionsOf(root)) {
    globals.emplace_back(OptionEntry(*option), Describe(*option));
  }
  return absl::StrCat(app->get_description(), "\n\n", Usage(*app), Section("Commands", commands),
                      Section("Arguments", arguments), Section("Options", options),
                      Section("Global options", globals), "Examples:\n", app->get_footer(), "\n\n",
                      kExitCodes);
}

}  // namespace ublkd::ctl
