#include "engine/decode/eval.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numbers>

#include <absl/strings/str_cat.h>

#include "engine/decode/cpu_decoder.h"
#include "engine/text/pretoken.h"

namespace omni {
namespace {

constexpr std::string_view kSeparator = "<|endoftext|>";

// One document under way: inputs tokens[0 .. n-2], targets tokens[1 .. n-1].
struct Stream {
  explicit Stream(const ModelConfig& config) : state(config) {}
  SessionState state;
  std::vector<TokenId> tokens;
  size_t next = 0;  // input
  size_t document = 0;
  double bytes_per_token = 0;
  size_t left() const { return tokens.empty() ? 0 : tokens.size() - 1 - next; }
};

class Evaluation {
 public:
  Evaluation(const ModelWeights& weights, ExpertSource& source, const Tokenizer& tokenizer, WorkerPool& pool,
             const EvalOptions& options, std::vector<std::string_view> documents, const kernels::Ops& ops)
      : weights_(weights),
        source_(source),
        tokenizer_(tokenizer),
        pool_(pool),
        options_(options),
        documents_(std::move(documents)),
        decoder_(weights, pool, ops),
        nats_(documents_.size()) {
    const auto count = std::ssize(documents_);
    if (options.max_tokens > 0 && count > 0) per_document_ = (options.max_tokens + count - 1) / count;
    for (std::string_view document : documents_) all_bytes_ += static_cast<double>(document.size());
  }

  absl::StatusOr<EvalResult> Run() {
    const size_t streams =
        std::min(documents_.size(),
                 static_cast<size_t>(std::min(options_.parallel_documents, options_.rows_per_batch)));
    for (size_t i = 0; i < streams; ++i) streams_.push_back(std::make_unique<Stream>(weights_.config));
    while (FillBatch()) {
      absl::StatusOr<std::span<const float>> logits =
          RunBatch(decoder_, weights_.config, source_, pool_, rows_);
      if (!logits.ok()) return logits.status();
      Score(*logits);
      if (options_.progress) options_.progress(std::min(1.0, done_bytes_ / std::max(1.0, all_bytes_)));
    }
    for (double nats : nats_) result_.nats += nats;
    return result_;
  }

 private:
  void Open(Stream& stream) {
    const std::string_view text = documents_[next_document_];
    stream.document = next_document_++;
    stream.next = 0;
    stream.state.Reset();
    stream.tokens = tokenizer_.Encode(text);
    result_.bytes += static_cast<int64_t>(text.size());
    if (options_.carry) {
      if (!stream.tokens.empty())
        result_.bytes -= static_cast<int64_t>(tokenizer_.Bytes(stream.tokens[0]).size());
    } else {
      stream.tokens.insert(stream.tokens.begin(), Tokenizer::kEndOfText);
      stream.tokens.push_back(Tokenizer::kEndOfText);
      if (per_document_ > 0 && std::ssize(stream.tokens) > per_document_ + 1) Cut(stream, text.size());
    }
    stream.bytes_per_token =
        static_cast<double>(text.size()) / std::max(1.0, static_cast<double>(stream.left()));
    if (!stream.tokens.empty()) result_.tokens += static_cast<int64_t>(stream.tokens.size()) - 1;
  }

  // Only the bytes of the document's tokens that are left count.
  void Cut(Stream& stream, size_t bytes) {
    stream.tokens.resize(static_cast<size_t>(per_document_ + 1));
    result_.bytes -= static_cast<int64_t>(bytes);
    for (TokenId token : stream.tokens)
      if (token != Tokenizer::kEndOfText)
        result_.bytes += static_cast<int64_t>(tokenizer_.Bytes(token).size());
  }

  // Shares the rows of a pass among the documents under way; false when all is predicted.
  bool FillBatch() {
    rows_.clear();
    targets_.clear();
    size_t live = 0;
    for (auto& stream : streams_) {
      while (stream->left() == 0 && next_document_ < documents_.size()) Open(*stream);
      live += stream->left() > 0;
    }
    for (auto& stream : streams_) {
      if (stream->left() == 0) continue;
      const size_t room = static_cast<size_t>(options_.rows_per_batch) - rows_.size();
      const size_t take = std::min(stream->left(), room / live--);
      done_bytes_ += static_cast<double>(take) * stream->bytes_per_token;
      for (size_t i = 0; i < take; ++i, ++stream->next) {
        rows_.push_back({&stream->state, stream->tokens[stream->next], true, options_.policy});
        rows_.back().adapter = options_.adapter;
        targets_.push_back({stream->tokens[stream->next + 1], stream->document});
      }
    }
    return !rows_.empty();
  }

  void Score(std::span<const float> logits) {
    const int64_t vocab = weights_.config.vocab;
    row_nats_.resize(rows_.size());
    // The exponentials of a row cost about as much as a few million integer products: a row is worth a
    // hand-over.
    pool_.Run(static_cast<int64_t>(rows_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const size_t row = static_cast<size_t>(i);
        row_nats_[row] = NegativeLogLikelihood(logits.data() + i * vocab, vocab, targets_[row].token);
      }
    });
    for (size_t i = 0; i < rows_.size(); ++i) nats_[targets_[i].document] += row_nats_[i];
  }

  struct Target {
    TokenId token;
    size_t document;
  };

  const ModelWeights& weights_;
  ExpertSource& source_;
  const Tokenizer& tokenizer_;
  WorkerPool& pool_;
  const EvalOptions& options_;
  const std::vector<std::string_view> documents_;
  CpuDecoder decoder_;
  EvalResult result_;
  size_t next_document_ = 0;
  int64_t per_document_ = 0;  // tokens predicted at most; 0: all
  double all_bytes_ = 0, done_bytes_ = 0;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<BatchRow> rows_;
  std::vector<Target> targets_;
  std::vector<double> row_nats_, nats_;
};

}  // namespace

double EvalResult::bits_per_byte() const {
  return bytes > 0 ? nats / std::numbers::ln2 / static_cast<double>(bytes) : 0;
}

std::vector<std::string_view> SplitDocuments(std::string_view text) {
  std::vector<std::string_view> documents;
  size_t begin = 0;  // of the document
  const auto close = [&](size_t end) {
    if (end > begin) documents.push_back(text.substr(begin, end - begin));
  };
  for (size_t line = 0; line < text.size();) {
    const size_t newline = std::min(text.find('\n', line), text.size());
    const size_t next_line = std::min(newline + 1, text.size());
    std::string_view content = text.substr(line, newline - line);
    const bool crlf = newline < text.size() && content.ends_with('\r');
    if (crlf) content.remove_suffix(1);
    if (content == kSeparator) {
      size_t end = line > begin ? line - 1 : line;
      if (crlf && end > begin && text[end - 1] == '\r') --end;
      close(end);
      begin = next_line;
    }
    line = next_line;
  }
  close(text.size());
  return documents;
}

bool AnythingToPredict(std::string_view text, const Tokenizer& tokenizer, bool carry) {
  if (!carry) return !SplitDocuments(text).empty();
  return text.size() > kMaxPretokenBytes || tokenizer.Encode(text).size() > 1;
}

double NegativeLogLikelihood(const float* logits, int64_t vocab, TokenId target) {
  const double max = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - max);
  return max + std::log(sum) - static_cast<double>(logits[target.index()]);
}

absl::StatusOr<EvalResult> EvalText(const ModelWeights& weights, ExpertSource& source,
                                    const Tokenizer& tokenizer, WorkerPool& pool, std::string_view text,
                                    const EvalOptions& options, const kernels::Ops& ops) {
  if (options.max_tokens < 0 || (options.carry && options.max_tokens > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("eval: ", options.max_tokens, " tokens at most must be 0 or more, and with carry 0"));
  }
  if (options.rows_per_batch < 1 || options.parallel_documents < 1) {
    return absl::InvalidArgumentError(absl::StrCat("eval: rows per batch ", options.rows_per_batch,
                                                   " and parallel documents ", options.parallel_documents,
                                                   " must be at least 1"));
  }
  if (tokenizer.vocab() > weights.config.vocab) {
    return absl::InvalidArgumentError(absl::StrCat("eval: the tokenizer has ", tokenizer.vocab(),
                                                   " tokens, the model ", weights.config.vocab,
                                                   "; use the tokenizer the model was trained with"));
  }
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::string_view> documents =
      options.carry ? std::vector<std::string_view>{text} : SplitDocuments(text);
  Evaluation evaluation(weights, source, tokenizer, pool, options, std::move(documents), ops);
  absl::StatusOr<EvalResult> result = evaluation.Run();
  if (!result.ok()) return result;
  if (result->tokens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("eval: nothing to predict in ", text.size(), " bytes of text"));
  }
  result->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace omni
