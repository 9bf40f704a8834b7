#include <unistd.h>

#include <string>

#include "cli/verb.h"
#include "store/model/find_model.h"

namespace omni::cli {

// The trainer is a program of its own, so that its libraries are never loaded by the others.
absl::Status ExecTrainer(char** arguments) {
  std::vector<char*> argv;
  std::string name = "omni-train";
  argv.push_back(name.data());
  for (char** a = arguments; *a != nullptr; ++a) argv.push_back(*a);
  argv.push_back(nullptr);
  const std::string beside = ProgramDir() + "/omni-train";
  execv(beside.c_str(), argv.data());
  execvp(name.c_str(), argv.data());
  return absl::UnavailableError(
      "the trainer is not in this build: neither " + beside +
      " nor omni-train in PATH can be run; build with -DOMNI_TRAINER=ON (needs libtorch)");
}

void AddTrain(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "train", "Train a model (all arguments go to omni-train)",
            "  omni train --help");
}

}  // namespace omni::cli
