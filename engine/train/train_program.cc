#include "engine/train/train_program.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "engine/base/interrupt.h"
#include "engine/train/flags.h"

namespace omni::train {
namespace {

constexpr int kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitInterrupted = 130;

std::string Joined(const std::string& name, const std::vector<std::string>& words) {
  std::string out = name;
  for (const std::string& word : words) out += " " + word;
  return out;
}

// One line, whatever the message was made of.
int Report(const std::string& message, int code) {
  std::string line;
  for (char c : message) line += c == '\n' || c == '\r' ? ' ' : c;
  std::fprintf(stderr, "omni train: %s\n", line.c_str());
  return code;
}

int Print(const std::string& text) {
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (written) return kExitOk;
  return Report(std::string("standard output: cannot be written: ") + std::strerror(errno), kExitFailure);
}

int RunOrThrow(const std::string& name, const std::vector<std::string>& arguments,
               const std::function<void()>& begin, const Trainer& train) {
  absl::StatusOr<CommandLine> line =
      ParseCommandLine(arguments, [](const std::string& variable) { return std::getenv(variable.c_str()); });
  if (!line.ok())
    return Report(std::string(line.status().message()) + " (see omni train --help)", kExitUsage);
  if (line->help) return Print(*line->help);
  begin();
  line->settings.command = Joined(name, arguments);
  const InterruptGuard interrupt;
  const absl::Status status = train(line->settings, InterruptGuard::Requested);
  if (status.ok()) return kExitOk;
  return Report(std::string(status.message()), absl::IsCancelled(status) ? kExitInterrupted : kExitFailure);
}

}  // namespace

int TrainProgram(const std::string& name, const std::vector<std::string>& arguments,
                 const std::function<void()>& begin, const Trainer& train) {
  try {
    return RunOrThrow(name, arguments, begin, train);
  } catch (const std::exception& e) {
    return Report(e.what(), kExitFailure);
  } catch (...) {
    return Report("ended by an error without a name", kExitFailure);
  }
}

}  // namespace omni::train
