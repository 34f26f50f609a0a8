// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/command_tree.h"

#include <iostream>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "daemon/base/config.h"
#include "daemon/base/size.h"
#include "daemon/ctl/help.h"

namespace ublkd::ctl {
namespace {

constexpr char kGlobalGroup[] = "Global options";

constexpr char kRootExamples[] =
    R"(  ublkctl volume create fast/db --size 10GiB
  ublkctl device create --volume fast/db      # prints /dev/ublkb0
  ublkctl device list
  ublkctl device delete /dev/ublkb0
  ublkctl volume list -o json | jq -r '.[].id')";

// "30s", "500ms", "2m" or seconds as a bare number.
std::chrono::milliseconds ParseTimeout(const std::string& text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    duration = absl::ZeroDuration();
  }
  constexpr absl::Duration kLongest = absl::Hours(24);
  if (!(duration >= absl::Milliseconds(1)) || duration > kLongest) {
    throw CLI::ValidationError(
        "--timeout", absl::StrCat("\"", text, "\" is not a time: give 500ms, 30s, 2m, up to 24h"));
  }
  return absl::ToChronoMilliseconds(duration);
}

void AddGlobalOptions(CommandTree& tree, GlobalOptions& globals) {
  CLI::App& root = tree.root();
  root.set_help_flag("-h,--help", "Show this help and exit");
  AddVersion(root, "ublkctl");
  root.get_option("--version")->description("Show the version and exit");
  tree.SetKind(root.add_option("--socket", globals.socket,
                               absl::StrCat("Unix socket of ublkd; default ", kDefaultSocket))
                   ->envname(kSocketVariable)
                   ->type_name("PATH"),
               {ValueKind::kFile});
  tree.SetKind(root.add_option("-o,--output", globals.format, "table for people (default) or json")
                   ->type_name("FORMAT"),
               {ValueKind::kChoice, {kFormatTable, kFormatJson}});
  root.add_option_function<std::string>(
          "--timeout",
          [&globals](const std::string& text) { globals.timeout = ParseTimeout(text); },
          "The longest to wait for an answer of ublkd, such as 500ms or 2m; default 30s")
      ->type_name("TIME");
  for (CLI::Option* option : root.get_options([](CLI::Option*) { return true; })) {
    option->group(kGlobalGroup);
  }
}

template <typename Bytes>
CLI::Option* AddSize(CLI::App* app, const std::string& name, Bytes* bytes,
                     const std::string& description) {
  return app
      ->add_option_function<std::string>(
          name,
          [name, bytes](const std::string& text) {
            constexpr uint64_t kMost = std::numeric_limits<Bytes>::max();
            const uint64_t size = ParseSizeOrThrow(name, text);
            if (size > kMost) {
              throw CLI::ValidationError(name, absl::StrCat("\"", text, "\" is too large"));
            }
            *bytes = static_cast<Bytes>(size);
          },
          description)
      ->type_name("SIZE");
}

}  // namespace

CommandTree::CommandTree()
    : root_("Attaches volumes and files as block devices through ublkd.", "ublkctl") {
  root_.formatter(std::make_shared<HelpFormatter>());
  root_.footer(kRootExamples);
  root_.require_subcommand(0, 1);
  AddGlobalOptions(*this, globals_);
}

CLI::App* CommandTree::AddGroup(const std::string& name, const std::string& description,
                                const std::string& examples) {
  CLI::App* group = root_.add_subcommand(name, description);
  group->footer(examples);
  group->require_subcommand(0, 1);
  // Global options may also stand behind the command.
  group->fallthrough();
  return group;
}

CLI::App* CommandTree::AddCommand(CLI::App* parent, const std::string& name,
                                  const std::string& description, const std::string& examples,
                                  Action action) {
  CLI::App* command = parent->add_subcommand(name, description);
  command->footer(examples);
  command->fallthrough();
  actions_[command] = std::move(action);
  return command;
}

CLI::Option* CommandTree::SetKind(CLI::Option* option, ValueKind kind) {
  if (kind.kind == ValueKind::kChoice) {
    const std::vector<std::string> choices = kind.choices;
    option->check([choices](const std::string& value) -> std::string {
      std::string known;
      for (const std::string& choice : choices) {
        if (choice == value) return "";
        absl::StrAppend(&known, known.empty() ? "" : ", ", choice);
      }
      return absl::StrCat("\"", value, "\" is none of ", known);
    });
  }
  kinds_[option] = std::move(kind);
  return option;
}

const ValueKind& CommandTree::KindOf(const CLI::Option* option) const {
  static const ValueKind unknown;
  const auto found = kinds_.find(option);
  return found == kinds_.end() ? unknown : found->second;
}

const CLI::App& CommandTree::Deepest() const {
  const CLI::App* app = &root_;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return *app;
}

ExitCode CommandTree::ReportUsage(const std::string& problem) const {
  return Report(UsageError(absl::StrCat(problem, "\nTry `", CommandPath(Deepest()), " --help`.")));
}

ExitCode CommandTree::ReportParseError(const CLI::ParseError& error) const {
  const bool left_over = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  const std::vector<std::string> rest = root_.remaining(true);
  if (!left_over || rest.empty()) return ReportUsage(error.what());
  const CLI::App& command = Deepest();
  if (absl::StartsWith(rest.front(), "-")) {
    return ReportUsage(
        absl::StrCat("unknown option \"", rest.front(), "\" for `", CommandPath(command), "`"));
  }
  if (actions_.count(&command) != 0) {
    return ReportUsage(absl::StrCat("unexpected argument \"", rest.front(), "\" for `",
                                    CommandPath(command), "`"));
  }
  std::string known;
  for (const CLI::App* other : CommandsOf(command)) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", other->get_name());
  }
  return ReportUsage(
      absl::StrCat("unknown command \"", rest.front(), "\": the commands are ", known));
}

ExitCode CommandTree::Run(int argc, const char* const* argv) {
  try {
    root_.parse(argc, argv);
  } catch (const CLI::Success& wanted) {
    root_.exit(wanted);  // --help or --version
    return ExitCode::kDone;
  } catch (const CLI::ParseError& error) {
    return ReportParseError(error);
  }
  const CLI::App& command = Deepest();
  const auto action = actions_.find(&command);
  if (action == actions_.end()) {
    std::cerr << root_.help();
    std::cerr << "\n";
    return Report(UsageError(absl::StrCat("`", CommandPath(command), "` needs a command")));
  }
  Session session(globals_);
  return action->second(session);
}

uint64_t ParseSizeOrThrow(const std::string& option, const std::string& text) {
  const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) throw CLI::ValidationError(option, std::string(bytes.status().message()));
  return *bytes;
}

CLI::Option* AddSizeOption(CLI::App* app, const std::string& name, uint64_t* bytes,
                           const std::string& description) {
  return AddSize(app, name, bytes, description);
}

CLI::Option* AddSizeOption(CLI::App* app, const std::string& name, uint32_t* bytes,
                           const std::string& description) {
  return AddSize(app, name, bytes, description);
}

}  // namespace ublkd::ctl
