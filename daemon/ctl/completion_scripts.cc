// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "daemon/ctl/completion.h"

namespace ublkd::ctl {
namespace {

constexpr char kExamples[] =
    R"(  source <(ublkctl completion bash)                                    # this shell only
  ublkctl completion bash > /etc/bash_completion.d/ublkctl
  ublkctl completion zsh > "${fpath[1]}/_ublkctl"
  ublkctl completion fish > ~/.config/fish/completions/ublkctl.fish)";

// bash cuts a word at the characters of COMP_WORDBREAKS ("--output=json", "a:b") and replaces only
// what is behind the last of them, so the line is split by blanks here and the front is cut off
// again.
constexpr char kBash[] = R"SCRIPT(# bash completion for ublkctl; made by `ublkctl completion bash`
_ublkctl() {
  local line=${COMP_LINE:0:COMP_POINT} typed tail front answer candidate
  local -a words answers
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  typed=${words[${#words[@]} - 1]}
  tail=${typed##*["$COMP_WORDBREAKS"]}
  front=${typed%"$tail"}
  COMPREPLY=()
  mapfile -t answers < <("${words[0]/#\~/$HOME}" __complete "${words[@]:1}" 2>/dev/null)
  if [[ ${answers[0]-} == files ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$tail")
    return
  fi
  for answer in "${answers[@]:1}"; do
    candidate=${answer%%$'\t'*}
    COMPREPLY+=("${candidate#"$front"}")
  done
}
complete -F _ublkctl ublkctl
)SCRIPT";

constexpr char kZsh[] = R"SCRIPT(#compdef ublkctl
# zsh completion for ublkctl; made by `ublkctl completion zsh`
_ublkctl() {
  local -a answers candidates
  local answer candidate description
  answers=("${(@f)$("${(Q)words[1]/#\~/$HOME}" __complete "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
  if [[ ${answers[1]-} == files ]]; then
    [[ $PREFIX == --*=* ]] && compset -P '*='
    _files
    return
  fi
  for answer in "${(@)answers[2,-1]}"; do
    candidate=${answer%%$'\t'*}
    description=${${answer#*$'\t'}%%$'\n'*}
    candidates+=("${candidate//:/\\:}:$description")
  done
  (( ${#candidates} )) && _describe -V 'ublkctl' candidates
}
if [[ ${funcstack[1]-} == _ublkctl ]]; then
  _ublkctl "$@"
else
  compdef _ublkctl ublkctl
fi
)SCRIPT";

constexpr char kFish[] = R"SCRIPT(# fish completion for ublkctl; made by `ublkctl completion fish`
function __ublkctl_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -l answers ($words[1] __complete $words[2..-1] "$typed" 2>/dev/null)
    if test "$answers[1]" = files
        set -l front (string match -r -- '^--[^=]*=' "$typed")
        set -l tail (string replace -r -- '^--[^=]*=' '' "$typed")
        for path in (__fish_complete_path "$tail")
            printf '%s%s\n' "$front" $path
        end
    else if test (count $answers) -gt 1
        printf '%s\n' $answers[2..-1]
    end
end
complete -c ublkctl -f -k -a '(__ublkctl_complete)'
)SCRIPT";

}  // namespace

std::string CompletionScript(const std::string& shell) {
  if (shell == "bash") return kBash;
  if (shell == "zsh") return kZsh;
  if (shell == "fish") return kFish;
  return "";
}

void AddCompletionCommand(CommandTree& tree) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* command = tree.AddCommand(&tree.root(), "completion",
                                      "Print the script that makes a shell complete ublkctl.",
                                      kExamples, [shell](Session&) {
                                        // The script ends with a line's end already.
                                        std::cout << CompletionScript(*shell);
                                        return ExitCode::kDone;
                                      });
  tree.SetKind(command->add_option("SHELL", *shell, "bash, zsh or fish")->required(),
               {ValueKind::kChoice, {"bash", "zsh", "fish"}});
}

}  // namespace ublkd::ctl
