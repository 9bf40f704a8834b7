// omni: the command line of the project. One file per verb; this one parses, runs and reports.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/statusor.h>
#include <CLI/CLI.hpp>

#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/base/log.h"
#include "engine/base/log_output.h"
#include "engine/decode/isa_log.h"

namespace omni::cli {
namespace {

int Report(const std::string& message, int code) {
  const std::string line = OneLine(message);
  if (CurrentLogOptions().format == LogFormat::kJson) {
    LogError("failed", "{reason}", {{"reason", line}, {"exit_code", code}});
  } else {
    std::fprintf(stderr, "omni: %s\n", line.c_str());
  }
  return code;
}

// What is wrong with the first word, if it is neither a verb nor a flag; empty if nothing is.
std::string VerbProblem(const CLI::App& root, const std::string& word) {
  std::string names;
  for (const CLI::App* verb : root.get_subcommands([](const CLI::App*) { return true; })) {
    if (verb->get_name() == word) return {};
    names += (names.empty() ? "" : ", ") + verb->get_name();
  }
  if (word.starts_with('-')) return {};
  return (word.empty() ? "no verb is given" : "'" + word + "' is not a verb") + "; the verbs are " + names;
}

struct Outcome {
  int code = kExitFailure;
  std::string problem;  // to be reported
};

Outcome RunVerb(const std::vector<std::string>& words) {
  CLI::App root("Omni runs PERSPECTIVE, a sparse ternary mixture-of-experts language model.", "omni");
  root.set_version_flag("--version", "omni " OMNI_VERSION);
  root.require_subcommand(1);
  root.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n"
      "'omni VERB --help' lists a verb's flags, their environment variables and examples.");
  Invocation invocation;
  AddVerbs(root, invocation);
  if (const std::string problem = VerbProblem(root, words.empty() ? "" : words[0]); !problem.empty())
    return {kExitUsage, problem + " (see omni --help)"};
  try {
    std::vector<std::string> reversed = LiteralWords(root, words);
    std::reverse(reversed.begin(), reversed.end());
    root.parse(std::move(reversed));
  } catch (const CLI::Success& e) {  // --help and --version print and end well
    std::ostringstream text;
    root.exit(e, text, text);
    Print(text.str());
    return {kExitOk, ""};
  } catch (const CLI::ParseError& e) {
    const bool known = !root.get_subcommands().empty();
    const std::string help =
        known ? "omni " + root.get_subcommands().front()->get_name() + " --help" : "omni --help";
    return {kExitUsage, std::string(e.what()) + " (see " + help + ")"};
  }
  ConfigureLog(invocation.log);
  LogIsa(std::getenv("OMNI_ISA"));
  const absl::StatusOr<int> code = invocation.body();
  if (code.ok()) return {*code, ""};
  return {IsUsageError(code.status()) ? kExitUsage : kExitFailure, std::string(code.status().message())};
}

Outcome RunVerbWithoutThrowing(const std::vector<std::string>& words) {
  try {
    return RunVerb(words);
  } catch (const std::bad_alloc&) {
    return {kExitFailure, "not enough memory"};
  } catch (const std::exception& e) {
    return {kExitFailure, e.what()};
  }
}

int Main(const std::vector<std::string>& words, char** argv) {
  if (!words.empty() && words[0] == "train")
    return Report(std::string(ExecTrainer(argv + 2).message()), kExitFailure);
  PrepareOutput();
  const Outcome outcome = RunVerbWithoutThrowing(words);
  if (!outcome.problem.empty()) Report(outcome.problem, outcome.code);
  const absl::Status output = FinishOutput();
  if (output.ok() || !outcome.problem.empty()) return outcome.code;
  return Report(std::string(output.message()), kExitFailure);
}

}  // namespace
}  // namespace omni::cli

int main(int argc, char** argv) {
  const int code = omni::cli::Main(std::vector<std::string>(argv + std::min(argc, 1), argv + argc), argv);
  omni::FlushLog();
  return code;
}
