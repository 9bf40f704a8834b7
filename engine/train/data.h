// Text to token streams: files (.txt, .xz), folders of them, separators, and `batch` endless cursors over the
// result.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/text/tokenizer.h"

namespace omni::train {

// All text of `paths` in order (folders: their .txt and .xz files by name, in whatever case the ending is).
// Fails on an unreadable, empty or binary file (a NUL byte in it), naming it, and on a folder that holds
// files compressed in another way, of which it would otherwise silently read a part.
absl::StatusOr<std::string> ReadCorpus(const std::vector<std::string>& paths);

// Documents as engine/decode/eval.h splits them: each ends with a line <|endoftext|> and becomes its tokens
// and one kEndOfText. Text without separators is one stream, no kEndOfText added. Documents are shared out
// among the threads; the result does not depend on their number.
std::vector<int32_t> EncodeCorpus(const Tokenizer& tokenizer, const std::string& text, int threads = 1);

// What identifies a text or a file's bytes: XXH3 of 64 bits as 16 hex digits.
std::string TextHash(std::string_view text);

// Which tokens of the text a cursor reads.
enum class Stride {
  kPlain,      // every one
  kFibonacci,  // at gaps of 1, 1, 2, 3, 5, 8, 13 over and over, anew with every segment
};

// `batch` cursors spread evenly over the tokens, each reading on and wrapping round.
class Streams {
 public:
  Streams(std::vector<int32_t> tokens, int64_t batch, Stride stride = Stride::kPlain);
  // A segment of `count` tokens of every cursor: inputs and targets [batch * count], targets being the tokens
  // that are next in the text. The cursors move on.
  void Next(int64_t count, int32_t* inputs, int32_t* targets);
  void Skip(int64_t segments, int64_t count);  // the cursors move on as Next would move them
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  const std::vector<int64_t>& cursors() const { return at_; }
  void set_cursors(std::vector<int64_t> at) { at_ = std::move(at); }

 private:
  std::vector<int32_t> tokens_;
  std::vector<int64_t> at_;
  Stride stride_;
};

}  // namespace omni::train
