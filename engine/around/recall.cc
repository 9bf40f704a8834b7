#include "engine/around/recall.h"

#include <span>
#include <utility>
#include <vector>

#include <absl/strings/ascii.h>

namespace omni {
namespace {

// Of the value what comes after `begun`, the text's end; nothing: it does not begin so.
std::optional<std::string_view> After(std::string_view value, std::string_view begun) {
  const std::vector<TextWord> words = TextWords(value.substr(0, kMostRestBytes));
  if (words.empty()) return std::nullopt;
  value.remove_prefix(words.front().begin);
  if (value.starts_with(begun)) return value.substr(begun.size());
  // The text has the whole value, and a space or a full stop more.
  if (begun.starts_with(value) && TextWords(begun.substr(value.size())).empty()) return std::string_view();
  return std::nullopt;
}

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

}  // namespace

std::optional<Recollection> Recall(const TextMemory& memory, std::string_view text) {
  const std::vector<TextWord> words = TextWords(text);
  std::optional<Recollection> best;
  for (size_t begun = 0; begun <= kMostBegunWords && begun < words.size(); ++begun) {
    const std::span<const TextWord> key(words.data(), words.size() - begun);
    const std::string_view tail = begun == 0 ? std::string_view() : text.substr(words[key.size()].begin);
    const std::vector<HyperVector> vectors = SuffixVectors(key, kMostKeyWords);
    for (size_t n = vectors.size(); n > 0; --n) {
      const std::optional<Remembered> got = memory.Ask(vectors[n - 1]);
      if (!got.has_value() || got->how.votes < kFewestRecallVotes) continue;
      const auto length = static_cast<int64_t>(n);
      if (best.has_value() &&
          (got->how.votes < best->votes || (got->how.votes == best->votes && length <= best->words))) {
        continue;
      }
      std::string_view rest = got->value;
      if (begun > 0) {
        const std::optional<std::string_view> after = After(got->value, tail);
        if (!after.has_value()) continue;
        rest = *after;
      }
      const bool apart = begun == 0 && !rest.empty() && !IsSpace(text.back()) && !IsSpace(rest.front());
      std::string next(apart ? 1 : 0, ' ');
      next += rest.substr(0, kMostRestBytes);
      best = {std::move(next), length, static_cast<int64_t>(tail.size()), got->how.votes};
    }
  }
  if (best.has_value() && best->rest.empty()) return std::nullopt;
  return best;
}

}  // namespace omni
