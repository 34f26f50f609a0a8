// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/ctl/outcome.h"
#include "daemon/ctl/session.h"

namespace ublkd::ctl {

/// What the value of an option or argument is, so that completion can offer the right words.
struct ValueKind {
  enum Kind { kAnything, kFile, kDevice, kVolume, kPool, kChoice };
  Kind kind = kAnything;
  /// For kChoice.
  std::vector<std::string> choices = {};
};

/// Does a command. What it prints in several sentences it reports itself and returns the worst.
using Action = std::function<ExitCode(Session&)>;

/// The commands of ublkctl as a CLI11 tree, with what CLI11 does not keep: what each command does,
/// and what kind of words its values are.
class CommandTree {
 public:
  CommandTree();
  CommandTree(const CommandTree&) = delete;
  CommandTree& operator=(const CommandTree&) = delete;

  CLI::App& root() { return root_; }
  const CLI::App& root() const { return root_; }
  const GlobalOptions& globals() const { return globals_; }

  /// A command that only holds others, such as "device".
  CLI::App* AddGroup(const std::string& name, const std::string& description,
                     const std::string& examples);
  /// A command below `parent` that does `action`.
  CLI::App* AddCommand(CLI::App* parent, const std::string& name, const std::string& description,
                       const std::string& examples, Action action);

  /// Says what kind of words `option` takes; returns it. A choice is also checked.
  CLI::Option* SetKind(CLI::Option* option, ValueKind kind);
  const ValueKind& KindOf(const CLI::Option* option) const;

  /// Parses the command line and does what it says, printing whatever goes wrong.
  ExitCode Run(int argc, const char* const* argv);

 private:
  // The command furthest down that the command line named.
  const CLI::App& Deepest() const;
  ExitCode ReportUsage(const std::string& problem) const;
  ExitCode ReportParseError(const CLI::ParseError& error) const;

  GlobalOptions globals_;
  CLI::App root_;
  std::map<const CLI::Option*, ValueKind> kinds_;
  std::map<const CLI::App*, Action> actions_;
};

/// Reads a size such as 64MiB; a CLI::ValidationError for `option` when it is none.
uint64_t ParseSizeOrThrow(const std::string& option, const std::string& text);

/// An option whose value is a size such as 64MiB, read into `bytes`.
CLI::Option* AddSizeOption(CLI::App* app, const std::string& name, uint64_t* bytes,
                           const std::string& description);
/// The same for sizes that the protocol keeps in 32 bits.
CLI::Option* AddSizeOption(CLI::App* app, const std::string& name, uint32_t* bytes,
                           const std::string& description);

/// Each adds its part of the tree.
void AddDeviceCommands(CommandTree& tree);
void AddVolumeCommands(CommandTree& tree);
void AddServerCommands(CommandTree& tree);
void AddCompletionCommand(CommandTree& tree);

}  // namespace ublkd::ctl
