#include "cli/prompt.h"

#include <absl/strings/str_cat.h>

#include "cli/verb.h"
#include "engine/text/text_file.h"

namespace omni::cli {

absl::StatusOr<std::string> ReadPrompt(const std::string& argument) {
  if (argument != "-") {
    if (!argument.empty()) return argument;
    return UsageError("the prompt is empty; give some text, or - to read it from standard input");
  }
  absl::StatusOr<std::string> text = ReadStdin();
  if (text.ok() && text->empty()) return UsageError("the prompt is empty: nothing came from standard input");
  return text;
}

absl::StatusOr<std::string> ReadPromptFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadText(path);
  if (text.ok() && text->empty()) return UsageError(absl::StrCat(path, ": the prompt is empty"));
  return text;
}

}  // namespace omni::cli
