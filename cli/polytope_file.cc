#include "cli/polytope_file.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_split.h>

#include "engine/text/text_file.h"
#include "store/file/files.h"

namespace omni::cli {

absl::StatusOr<std::shared_ptr<const PolytopeSet>> LoadPolytopes(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadText(path, kMostPolytopeBytes);
  if (!bytes.ok()) return bytes.status();
  return PolytopeSet::Parse(*bytes, path);
}

absl::StatusOr<std::vector<std::string>> ReadWords(const std::string& path) {
  std::vector<std::string> words;
  if (path.empty()) return words;
  absl::StatusOr<std::string> text = ReadText(path);
  if (!text.ok()) return text.status();
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty()) words.emplace_back(line);
  }
  return words;
}

}  // namespace omni::cli
