// How a verb joins the program: it adds a subcommand to the parser and, when that is chosen, sets what to
// run.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <CLI/CLI.hpp>

#include "engine/base/log_output.h"
#include "engine/base/range.h"

namespace omni::cli {

inline constexpr int kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitInterrupted = 130;

// An error of usage, reported like any other but with exit code 2.
absl::Status UsageError(const std::string& message);
bool IsUsageError(const absl::Status& status);

// What parsing leaves behind.
struct Invocation {
  LogOptions log;
  std::function<absl::StatusOr<int>()> body;  // returns the exit code
};

// Takes a flag's value from a text; returns what is wrong with it, to be read after "NAME: ", or nothing.
using ReadValue = std::function<std::string(const std::string& text)>;

// The parser of one verb. Every flag that it adds has an environment variable named after its first long name
// (--top-k: OMNI_TOP_K), which counts if the command line does not have the flag and is not empty. Values are
// taken literally, and wherever they stand read by the same function: complaints name the flag or the
// variable, the value and what would do.
class Verb {
 public:
  Verb(CLI::App& root, Invocation& invocation, const std::string& name, const std::string& description,
       const std::string& examples);

  CLI::App& app() { return app_; }
  // What it does. Adds the flags that every verb has, after its own.
  void Body(std::function<absl::StatusOr<int>()> body);

  // What stands on the command line without a name.
  CLI::Option* Argument(const std::string& name, std::string& value, const std::string& help);
  CLI::Option* Files(const std::string& name, std::vector<std::string>& values, const std::string& help);

  CLI::Option* Text(const std::string& names, std::string& value, const std::string& help);
  // May be given several times; none is empty.
  CLI::Option* Texts(const std::string& names, std::vector<std::string>& values, const std::string& help);
  CLI::Option* Choice(const std::string& names, std::string& value, const std::vector<std::string>& choices,
                      const std::string& help);
  CLI::Option* Bool(const std::string& names, bool& value, const std::string& help);
  CLI::Option* Bool(const std::string& names, std::optional<bool>& value, const std::string& help);
  CLI::Option* Path(const std::string& names, std::string& value, const std::string& help);  // not empty
  CLI::Option* Number(const std::string& names, int64_t& value, Range<int64_t> range,
                      const std::string& help);
  // As absl::ParseDuration reads them, and days: 90s, 10m, 1h30m, 7d. From a second to ten years.
  CLI::Option* Duration(const std::string& names, std::chrono::milliseconds& value, const std::string& help);
  // Bytes, as cli/sizes.h reads them.
  CLI::Option* Size(const std::string& names, int64_t& value, const std::string& help);
  CLI::Option* Real(const std::string& names, float& value, Range<float> range, const std::string& help);
  // Any other value; `type` is its name in the help.
  CLI::Option* Value(const std::string& names, const std::string& type, ReadValue read,
                     const std::string& help);

  // By command line or environment.
  void Require(CLI::Option* option);
  // To be asked by the body: whether the flag was on the command line; its value may also come from the
  // environment.
  static std::function<bool()> OnCommandLine(const CLI::Option* option);

  // Shared by several verbs.
  CLI::Option* Model(std::string& value);
  CLI::Option* Threads(int64_t& value);  // 0: DefaultThreads()
  CLI::Option* Json(bool& value);

 private:
  struct Flag {
    CLI::Option* option;
    std::string variable;
    ReadValue read;
    bool required = false;
  };
  class Help;

  CLI::Option* Switch(const std::string& names, ReadValue read, const std::string& help);
  CLI::Option* Remember(CLI::Option* option, ReadValue read);
  void AddLogFlags();
  static void ReadEnvironment(const std::vector<Flag>& flags);

  Invocation& invocation_;
  CLI::App& app_;
  std::shared_ptr<std::vector<Flag>> flags_;
};

// Flags that do nothing in some case, and are refused there.
class GivenFlags {
 public:
  void Add(const CLI::Option* option);
  std::string First() const;  // the name of one that is on the command line; empty: none is

 private:
  struct Flag {
    std::string name;
    std::function<bool()> on_command_line;
  };
  std::vector<Flag> flags_;
};

// What Verb::Threads left behind, or the number that every part of the program takes by default.
int ThreadsOrDefault(int64_t given);

// The verbs; each is defined in the file of its name.
void AddAdapt(CLI::App& root, Invocation& invocation);
void AddRun(CLI::App& root, Invocation& invocation);
void AddChat(CLI::App& root, Invocation& invocation);
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
void AddServe(CLI::App& root, Invocation& invocation);
void AddNode(CLI::App& root, Invocation& invocation);
void AddCluster(CLI::App& root, Invocation& invocation);
void AddKey(CLI::App& root, Invocation& invocation);
void AddMemory(CLI::App& root, Invocation& invocation);
void AddSafety(CLI::App& root, Invocation& invocation);
void AddMcp(CLI::App& root, Invocation& invocation);
void AddCompletion(CLI::App& root, Invocation& invocation);
void AddVerbs(CLI::App& root, Invocation& invocation);  // all of them

// The words of a command line as the parser should get them, the program's name apart: of "--name=" it would
// otherwise take the next word for the value, and of a file "[a,b]" make two.
std::vector<std::string> LiteralWords(const CLI::App& root, const std::vector<std::string>& words);

// Becomes the trainer with these arguments; returns only if there is none, saying what to do.
absl::Status ExecTrainer(char** arguments);

}  // namespace omni::cli
