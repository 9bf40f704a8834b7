// omni: the command line of the project. One file per verb; this one parses, runs and reports.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include <absl/status/statusor.h>
#include <CLI/CLI.hpp>

#include "cli/verb.h"
#include "engine/base/log.h"
#include "engine/base/log_output.h"
#include "engine/decode/isa_log.h"

namespace omni::cli {
namespace {

// One line, whatever the message was made of.
int Report(const std::string& message, int code) {
  std::string line;
  for (char c : message) {
    if (c != '\n') {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += "; ";
    }
  }
  while (!line.empty() && (line.back() == ' ' || line.back() == ';')) line.pop_back();
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

int Main(int argc, char** argv) {
  if (argc >= 2 && std::strcmp(argv[1], "train") == 0) {
    return Report(std::string(ExecTrainer(argv + 2).message()), kExitFailure);
  }
  CLI::App root("Omni runs PERSPECTIVE, a sparse ternary mixture-of-experts language model.", "omni");
  root.set_version_flag("--version", "omni " OMNI_VERSION);
  root.require_subcommand(1);
  root.footer(
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n"
      "'omni VERB --help' lists a verb's flags, their environment variables and examples.");
  Invocation invocation;
  if (argc >= 2) invocation.verb = argv[1];
  AddRun(root, invocation);
  AddPack(root, invocation);
  AddSynth(root, invocation);
  AddInspect(root, invocation);
  AddVerify(root, invocation);
  AddPlan(root, invocation);
  AddDoctor(root, invocation);
  AddEval(root, invocation);
  AddTrace(root, invocation);
  AddBench(root, invocation);
  AddTrain(root, invocation);
  AddCompletion(root, invocation);
  if (const std::string problem = VerbProblem(root, invocation.verb); !problem.empty()) {
    return Report(problem + " (see omni --help)", kExitUsage);
  }
  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return root.exit(e);  // --help and --version print and end well
  } catch (const CLI::ParseError& e) {
    const bool known = !root.get_subcommands().empty();
    const std::string help =
        known ? "omni " + root.get_subcommands().front()->get_name() + " --help" : "omni --help";
    return Report(std::string(e.what()) + " (see " + help + ")", kExitUsage);
  }
  ConfigureLog(invocation.log);
  LogIsa(std::getenv("OMNI_ISA"));
  const absl::StatusOr<int> code = invocation.body();
  if (code.ok()) return *code;
  return Report(std::string(code.status().message()),
                IsUsageError(code.status()) ? kExitUsage : kExitFailure);
}

}  // namespace
}  // namespace omni::cli

int main(int argc, char** argv) {
  int code = omni::cli::kExitFailure;
  try {
    code = omni::cli::Main(argc, argv);
  } catch (const std::exception& e) {
    code = omni::cli::Report(e.what(), omni::cli::kExitFailure);
  }
  omni::FlushLog();
  return code;
}
