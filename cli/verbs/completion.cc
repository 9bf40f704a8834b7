#include <memory>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>

#include "cli/output.h"
#include "cli/verb.h"

// Completion scripts written from the parser itself, so that they know every verb and flag there is.
namespace omni::cli {
namespace {

std::vector<std::string> Flags(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_snames()) flags.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

std::vector<const CLI::App*> Verbs(const CLI::App& root) {
  return root.get_subcommands([](const CLI::App* app) { return !app->get_name().empty(); });
}

std::string BashScript(const CLI::App& root) {
  std::vector<std::string> names;
  std::string cases;
  for (const CLI::App* verb : Verbs(root)) {
    names.push_back(verb->get_name());
    absl::StrAppend(&cases, "    ", verb->get_name(), ") words=\"", absl::StrJoin(Flags(*verb), " "),
                    "\" ;;\n");
  }
  return absl::StrCat(R"(# bash completion for omni: source <(omni completion bash)
_omni() {
  local cur=${COMP_WORDS[COMP_CWORD]} words
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W ")",
                      absl::StrJoin(names, " "), " ", absl::StrJoin(Flags(root), " "), R"(" -- "$cur")
    return
  fi
  case ${COMP_WORDS[1]} in
)",
                      cases, R"(    *) words= ;;
  esac
  COMPREPLY=()  # then the shell completes file names, whatever is in them
  if [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
  fi
}
complete -o default -F _omni omni
)");
}

// The text of a zsh _arguments or _describe entry: its quotes, colons and brackets mean something there.
std::string ZshText(const std::string& text) {
  return absl::StrReplaceAll(text, {{"'", "'\\''"}, {":", "\\:"}, {"[", "\\["}, {"]", "\\]"}});
}

std::string ZshFlags(const CLI::App& app) {
  std::string lines;
  for (const CLI::Option* option : app.get_options()) {
    std::vector<std::string> names;
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    const char* value = option->get_items_expected_max() > 0 ? ":value:_files" : "";
    for (const std::string& name : names) {
      absl::StrAppend(&lines, " \\\n        '*", name, "[", ZshText(option->get_description()), "]", value,
                      "'");
    }
  }
  return lines;
}

std::string ZshScript(const CLI::App& root) {
  std::string describe, cases;
  for (const CLI::App* verb : Verbs(root)) {
    absl::StrAppend(&describe, "    '", verb->get_name(), ":", ZshText(verb->get_description()), "'\n");
    absl::StrAppend(&cases, "    ", verb->get_name(), ")\n      _arguments", ZshFlags(*verb),
                    " \\\n        '*:file:_files' ;;\n");
  }
  return absl::StrCat(R"(#compdef omni
# zsh completion for omni: omni completion zsh > "${fpath[1]}/_omni"
_omni() {
  local -a verbs
  verbs=(
)",
                      describe, R"(  )
  if ((CURRENT == 2)); then
    _describe 'verb' verbs
    return
  fi
  local verb=$words[2]
  shift words
  ((CURRENT--))
  case $verb in
)",
                      cases, R"(  esac
}
compdef _omni omni
)");
}

}  // namespace

void AddCompletion(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "completion", "Print a completion script for a shell",
            "  source <(omni completion bash)\n"
            "  omni completion zsh > \"${fpath[1]}/_omni\"");
  auto shell = std::make_shared<std::string>();
  verb.Argument("SHELL", *shell, "bash or zsh")->required()->check(CLI::IsMember({"bash", "zsh"}));
  verb.Body([shell, &root]() -> absl::StatusOr<int> {
    Print(*shell == "bash" ? BashScript(root) : ZshScript(root));
    return kExitOk;
  });
}

}  // namespace omni::cli
