#include "engine/train/corpus.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/threads.h"
#include "engine/train/data.h"

namespace omni::train {
namespace {

struct Texts {
  std::string train, valid, hash;
};

absl::StatusOr<Texts> ReadTexts(const TrainSettings& s) {
  absl::StatusOr<std::string> text = ReadCorpus(s.data);
  if (!text.ok()) return text.status();
  Texts texts;
  texts.train = std::move(*text);
  texts.hash = TextHash(texts.train);
  const auto cut = [&](double share) {
    const auto size = static_cast<double>(texts.train.size());
    return texts.train.size() - static_cast<size_t>(size * share);
  };
  if (s.holdout > 0) texts.train.resize(cut(s.holdout));
  if (s.tune > 0) {
    const size_t keep = cut(s.tune);
    texts.valid = texts.train.substr(keep);
    texts.train.resize(keep);
  } else if (!s.valid.empty()) {
    absl::StatusOr<std::string> valid = ReadCorpus(s.valid);
    if (!valid.ok()) return valid.status();
    texts.valid = std::move(*valid);
  }
  return texts;
}

absl::StatusOr<Tokenizer> MakeTokenizer(const TrainSettings& s, const std::string& text) {
  absl::StatusOr<Tokenizer> tokenizer =
      s.tokenizer.empty()
          ? Tokenizer::Train(std::string_view(text).substr(0, static_cast<size_t>(s.tokenizer_bytes)),
                             s.config.vocab)
          : Tokenizer::Load(s.tokenizer);
  if (tokenizer.ok() && tokenizer->vocab() != s.config.vocab) {
    return absl::InvalidArgumentError(absl::StrCat(s.tokenizer, ": vocabulary ", tokenizer->vocab(),
                                                   ", the model's is ", s.config.vocab, "; give --vocab ",
                                                   tokenizer->vocab()));
  }
  return tokenizer;
}

absl::Status CheckLengths(const Corpus& corpus, const TrainSettings& s) {
  if (static_cast<int64_t>(corpus.train.size()) <= s.tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the corpus has ", corpus.train.size(),
                                                   " tokens, fewer than one segment of ", s.tokens,
                                                   "; give more text or a smaller --seq"));
  }
  if (s.eval_every == 0 || (s.valid.empty() && s.tune == 0)) return absl::OkStatus();
  const auto valid = static_cast<int64_t>(corpus.valid.size());
  if (ShapeOfValidation(valid, s).segments > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      s.tune > 0 ? "--tune" : "--valid", ": the validation text has ", valid, " tokens, and ", s.tokens + 1,
      " are needed for one segment of --seq ", s.tokens, "; give more text or a smaller --seq"));
}

double BytesPerToken(const std::string& text, const std::vector<int32_t>& tokens) {
  return static_cast<double>(text.size()) / static_cast<double>(std::max<size_t>(1, tokens.size()));
}

}  // namespace

absl::StatusOr<Corpus> LoadCorpus(const TrainSettings& s, const std::optional<EarlierCorpus>& earlier) {
  const absl::StatusOr<Texts> texts = ReadTexts(s);
  if (!texts.ok()) return texts.status();
  if (earlier && !earlier->data_hash.empty() && earlier->data_hash != texts->hash) {
    return absl::InvalidArgumentError(
        absl::StrCat("--data: this is not the text that the run was started with (its hash is ", texts->hash,
                     ", not ", earlier->data_hash,
                     "); resume with the same files in the same order, or begin a new run with --start"));
  }
  absl::StatusOr<Tokenizer> tokenizer = earlier ? earlier->tokenizer : MakeTokenizer(s, texts->train);
  if (!tokenizer.ok()) return tokenizer.status();
  Corpus corpus;
  corpus.tokenizer = std::move(*tokenizer);
  corpus.data_hash = texts->hash;
  const int threads = s.threads > 0 ? static_cast<int>(s.threads) : DefaultThreads();
  corpus.train = EncodeCorpus(corpus.tokenizer, texts->train, threads);
  corpus.train_bytes_per_token = BytesPerToken(texts->train, corpus.train);
  corpus.valid = EncodeCorpus(corpus.tokenizer, texts->valid, threads);
  corpus.valid_bytes_per_token = BytesPerToken(texts->valid, corpus.valid);
  if (absl::Status st = CheckLengths(corpus, s); !st.ok()) return st;
  return corpus;
}

ValidationShape ShapeOfValidation(int64_t tokens, const TrainSettings& s) {
  ValidationShape shape;
  shape.tokens = std::min(tokens, s.eval_tokens + 1);
  shape.batch = std::clamp<int64_t>(shape.tokens / (4 * s.tokens), 1, 8);
  shape.segments = std::max<int64_t>(0, (shape.tokens - 1) / (shape.batch * s.tokens));
  return shape;
}

}  // namespace omni::train
