// How a verb joins the program: it adds a subcommand to the parser and, when that is chosen, sets what to
// run.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <CLI/CLI.hpp>

#include "engine/base/log_output.h"

namespace omni::cli {

inline constexpr int kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitInterrupted = 130;

// An error of usage, reported like any other but with exit code 2.
absl::Status UsageError(const std::string& message);
bool IsUsageError(const absl::Status& status);

// What parsing leaves behind.
struct Invocation {
  std::string verb;  // the first word of the command line: the verb whose environment twins count
  LogOptions log;
  std::function<absl::StatusOr<int>()> body;  // returns the exit code
};

// The parser of one verb. Every flag that it adds has an environment twin named after its first long name
// (--top-k: OMNI_TOP_K) and complains in words that name flag, value and range.
class Verb {
 public:
  Verb(CLI::App& root, Invocation& invocation, const std::string& name, const std::string& description,
       const std::string& examples);

  CLI::App& app() { return app_; }
  // What it does. Adds the flags that every verb has, after its own.
  void Body(std::function<absl::StatusOr<int>()> body);

  CLI::Option* Text(const std::string& names, std::string& value, const std::string& help);
  CLI::Option* Texts(const std::string& names, std::vector<std::string>& values, const std::string& help);
  CLI::Option* Bool(const std::string& names, bool& value, const std::string& help);
  CLI::Option* Path(const std::string& names, std::string& value, const std::string& help);
  CLI::Option* Number(const std::string& names, int64_t& value, int64_t low, int64_t high,
                      const std::string& help);
  // Bytes, as cli/sizes.h reads them.
  CLI::Option* Size(const std::string& names, int64_t& value, const std::string& help);
  CLI::Option* Real(const std::string& names, float& value, double low, double high, const std::string& help);

  // Shared by several verbs.
  CLI::Option* Model(std::string& value);
  CLI::Option* Threads(int64_t& value);  // 0: DefaultThreads()
  CLI::Option* Json(bool& value);

 private:
  CLI::Option* Twin(CLI::Option* option);
  void AddLogFlags();

  Invocation& invocation_;
  CLI::App& app_;
};

// What Verb::Threads left behind, or the number that every part of the program takes by default.
int ThreadsOrDefault(int64_t given);

// The verbs; each is defined in the file of its name.
void AddRun(CLI::App& root, Invocation& invocation);
void AddPack(CLI::App& root, Invocation& invocation);
void AddSynth(CLI::App& root, Invocation& invocation);
void AddInspect(CLI::App& root, Invocation& invocation);
void AddVerify(CLI::App& root, Invocation& invocation);
void AddPlan(CLI::App& root, Invocation& invocation);
void AddDoctor(CLI::App& root, Invocation& invocation);
void AddEval(CLI::App& root, Invocation& invocation);
void AddTrace(CLI::App& root, Invocation& invocation);
void AddBench(CLI::App& root, Invocation& invocation);
void AddTrain(CLI::App& root, Invocation& invocation);
void AddCompletion(CLI::App& root, Invocation& invocation);

// Becomes the trainer with these arguments; returns only if there is none, saying what to do.
absl::Status ExecTrainer(char** arguments);

}  // namespace omni::cli
