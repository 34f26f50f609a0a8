// SPDX-License-Identifier: Apache-2.0
#include "daemon/ctl/completion.h"

#include <chrono>
#include <cstdlib>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "daemon/base/size.h"
#include "daemon/ctl/help.h"
#include "daemon/ctl/lookup.h"
#include "daemon/ctl/render.h"

namespace ublkd::ctl {
namespace {

// Somebody waits at the keyboard.
constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(1);

struct Candidate {
  std::string word;
  std::string description;
};

bool TakesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

bool MayRepeat(const CLI::Option& option) {
  return option.get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll ||
         option.get_items_expected_max() > 1;
}

// The option that `word` ("--output", "-o") names for `command`, also a global one; or null.
const CLI::Option* FindOption(const CLI::App& command, const std::string& word) {
  for (const CLI::App* app = &command; app != nullptr; app = app->get_parent()) {
    for (const CLI::Option* option : OptionsOf(*app)) {
      for (const std::string& name : option->get_lnames()) {
        if (word == absl::StrCat("--", name)) return option;
      }
      for (const std::string& name : option->get_snames()) {
        if (word == absl::StrCat("-", name)) return option;
      }
    }
  }
  return nullptr;
}

// What the words before the last one mean.
struct Position {
  const CLI::App* command = nullptr;
  /// The option whose value comes next; null when none does.
  const CLI::Option* awaiting = nullptr;
  size_t arguments = 0;
  bool only_arguments = false;  // "--" was given
  std::set<const CLI::Option*> used;
  std::string socket;
};

class Walker {
 public:
  explicit Walker(const CommandTree& tree) : tree_(tree) {
    position_.command = &tree.root();
    const char* socket = std::getenv(kSocketVariable);
    position_.socket = socket != nullptr && *socket != '\0' ? socket : kDefaultSocket;
  }

  void Take(const std::string& word) {
    if (position_.awaiting != nullptr) {
      TakeValue(*position_.awaiting, word);
      position_.awaiting = nullptr;
    } else if (word == "--") {
      position_.only_arguments = true;
    } else if (absl::StartsWith(word, "-") && !position_.only_arguments) {
      TakeOption(word);
    } else if (const CLI::App* command = FindCommand(word); command != nullptr) {
      position_.command = command;
      position_.arguments = 0;
    } else {
      ++position_.arguments;
    }
  }

  const Position& position() const { return position_; }

 private:
  void TakeOption(const std::string& word) {
    const std::vector<std::string> parts = absl::StrSplit(word, absl::MaxSplits('=', 1));
    const CLI::Option* option = FindOption(*position_.command, parts[0]);
    if (option == nullptr) return;
    position_.used.insert(option);
    if (!TakesValue(*option)) return;
    if (parts.size() == 1) {
      position_.awaiting = option;
    } else {
      TakeValue(*option, parts[1]);
    }
  }

  void TakeValue(const CLI::Option& option, const std::string& value) {
    if (&option == FindOption(tree_.root(), "--socket")) position_.socket = value;
  }

  const CLI::App* FindCommand(const std::string& word) const {
    for (const CLI::App* command : CommandsOf(*position_.command)) {
      if (command->get_name() == word) return command;
    }
    return nullptr;
  }

  const CommandTree& tree_;
  Position position_;
};

std::vector<Candidate> Volumes(Client& client) {
  std::vector<Candidate> candidates;
  const auto volumes = ListVolumes(client, "");
  if (!volumes.ok()) return candidates;
  for (const v1::Volume& volume : *volumes) {
    const std::string size = FormatBytes(volume.size_bytes());
    candidates.push_back(
        {volume.id(), volume.has_device_id()
                          ? absl::StrCat(size, ", attached as ", DescribeAttachment(volume))
                          : size});
  }
  return candidates;
}

std::vector<Candidate> Devices(Client& client, bool as_paths) {
  std::vector<Candidate> candidates;
  const auto devices = ListDevices(client);
  if (!devices.ok()) return candidates;
  for (const v1::Device& device : *devices) {
    candidates.push_back(
        {as_paths ? device.path() : absl::StrCat(device.id()),
         absl::StrCat(DescribeTarget(device.spec()), ", ", FormatBytes(device.size_bytes()))});
  }
  return candidates;
}

std::vector<Candidate> Pools(Client& client) {
  std::vector<Candidate> candidates;
  const auto pools = ListPools(client);
  if (!pools.ok()) return candidates;
  for (const v1::Pool& pool : *pools) {
    candidates.push_back(
        {pool.name(), absl::StrCat(FormatBytes(pool.available_bytes()), " available")});
  }
  return candidates;
}

std::vector<Candidate> ValuesOf(const ValueKind& kind, const std::string& socket,
                                const std::string& typed) {
  Client client(socket, kPatience);
  switch (kind.kind) {
    case ValueKind::kChoice: {
      std::vector<Candidate> candidates;
      for (const std::string& choice : kind.choices) candidates.push_back({choice, ""});
      return candidates;
    }
    case ValueKind::kVolume:
      return Volumes(client);
    case ValueKind::kDevice:
      return Devices(client, absl::StartsWith(typed, "/"));
    case ValueKind::kPool:
      return Pools(client);
    case ValueKind::kFile:
    case ValueKind::kAnything:
      break;
  }
  return {};
}

// One line for each candidate that begins with `typed`; `before` is put in front of each.
std::string Words(const std::vector<Candidate>& candidates, const std::string& typed,
                  const std::string& before = "") {
  std::string text = "words\n";
  for (const Candidate& candidate : candidates) {
    // A name with a blank or worse cannot be typed as it is.
    const bool plain = candidate.word.find_first_of(" \t\n\"'\\") == std::string::npos;
    if (!plain || !absl::StartsWith(candidate.word, typed)) continue;
    absl::StrAppend(&text, before, candidate.word, "\t", candidate.description, "\n");
  }
  return text;
}

std::string CompleteValue(const CommandTree& tree, const CLI::Option& option,
                          const Position& position, const std::string& typed,
                          const std::string& before) {
  const ValueKind& kind = tree.KindOf(&option);
  if (kind.kind == ValueKind::kFile) return "files\n";
  return Words(ValuesOf(kind, position.socket, typed), typed, before);
}

std::string CompleteOption(const CommandTree& tree, const Position& position,
                           const std::string& typed) {
  const size_t equals = typed.find('=');
  if (equals != std::string::npos) {
    const CLI::Option* option = FindOption(*position.command, typed.substr(0, equals));
    if (option == nullptr || !TakesValue(*option)) return Words({}, typed);
    return CompleteValue(tree, *option, position, typed.substr(equals + 1),
                         typed.substr(0, equals + 1));
  }
  std::vector<Candidate> candidates;
  for (const CLI::App* app = position.command; app != nullptr; app = app->get_parent()) {
    for (const CLI::Option* option : OptionsOf(*app)) {
      if (option->get_lnames().empty()) continue;
      if (position.used.count(option) != 0 && !MayRepeat(*option)) continue;
      // Each command has a --help of its own; one is enough.
      if (app != position.command && option->get_lnames().front() == "help") continue;
      candidates.push_back(
          {absl::StrCat("--", option->get_lnames().front()), option->get_description()});
    }
  }
  return Words(candidates, typed);
}

// The argument that stands at `index`; the last one may take any number of words.
const CLI::Option* ArgumentAt(const CLI::App& command, size_t index) {
  size_t seen = 0;
  for (const CLI::Option* option : OptionsOf(command)) {
    if (!option->get_positional()) continue;
    if (seen == index || MayRepeat(*option)) return option;
    ++seen;
  }
  return nullptr;
}

}  // namespace

std::string Complete(const CommandTree& tree, const std::vector<std::string>& words) {
  const std::string typed = words.empty() ? "" : words.back();
  Walker walker(tree);
  for (size_t i = 0; i + 1 < words.size(); ++i) walker.Take(words[i]);
  const Position& position = walker.position();

  if (position.awaiting != nullptr) {
    return CompleteValue(tree, *position.awaiting, position, typed, "");
  }
  if (absl::StartsWith(typed, "-") && !position.only_arguments) {
    return CompleteOption(tree, position, typed);
  }
  const CLI::Option* argument = ArgumentAt(*position.command, position.arguments);
  if (argument != nullptr) return CompleteValue(tree, *argument, position, typed, "");
  std::vector<Candidate> candidates;
  if (position.arguments == 0) {
    for (const CLI::App* command : CommandsOf(*position.command)) {
      candidates.push_back({command->get_name(), SummaryOf(*command)});
    }
  }
  return Words(candidates, typed);
}

}  // namespace ublkd::ctl
