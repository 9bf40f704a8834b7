#include "engine/around/perspective_run.h"

#include <algorithm>
#include <memory>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/around/safety_stage.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/eval.h"

namespace omni {
namespace {

struct Stream {
  explicit Stream(const ModelConfig& config) : state(config) {}
  SessionState state;
  std::vector<TokenId> tokens;
  size_t next = 0, document = 0;
  bool over() const { return next + 1 >= tokens.size(); }
};

class Run {
 public:
  Run(const ModelWeights& weights, const Tokenizer& tokenizer, WorkerPool& pool,
      const PerspectiveRunOptions& options, std::vector<std::string_view> documents, const kernels::Ops& ops)
      : config_(weights.config),
        tokenizer_(tokenizer),
        pool_(pool),
        documents_(std::move(documents)),
        decoder_(weights, pool, ops),
        rows_each_(options.others ? kPerspectives : 1),
        adapter_(options.adapter),
        positions_(adapter_ == nullptr ? nullptr : adapter_->policy()),
        policy_(options.policy != nullptr ? options.policy : positions_),
        safety_(&pool, ops),
        polytope_(options.polytope),
        routes_(PerspectiveRoutes(options.kind, options.seed)) {
    for (PerspectiveRoute& route : routes_) others_.emplace_back(positions_, route);
    const auto count = static_cast<int64_t>(documents_.size());
    if (options.max_tokens > 0) per_document_ = (options.max_tokens + count - 1) / count;
    for (int64_t i = 0; i < std::min(count, options.parallel_documents); ++i)
      streams_.push_back(std::make_unique<Stream>(config_));
  }

  absl::Status All(ExpertSource& source, const std::function<void(double)>& progress,
                   absl::FunctionRef<void(std::span<const LookedToken>)> visit) {
    while (Fill()) {
      absl::StatusOr<std::span<const float>> logits = RunBatch(decoder_, config_, source, pool_, rows_);
      if (!logits.ok()) return logits.status();
      if (polytope_ != nullptr) {
        if (absl::Status s = Project(); !s.ok()) return s;
        logits = decoder_.logits();
        if (!logits.ok()) return logits.status();
      }
      const auto vocab = static_cast<size_t>(config_.vocab);
      for (size_t i = 0; i < looked_.size(); ++i) {
        const size_t own = i * rows_each_ + rows_each_ - 1;  // after the rows aside
        looked_[i].hidden = decoder_.hidden(static_cast<int64_t>(own));
        looked_[i].logits[0] = logits->subspan(own * vocab, vocab);
        for (size_t k = 1; k < rows_each_; ++k)
          looked_[i].logits[k] = logits->subspan((own - rows_each_ + k) * vocab, vocab);
      }
      visit(looked_);
      if (progress) progress(Share());
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Project() {
    std::vector<TokenRow> rows(rows_.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].polytope = polytope_;
      rows[i].hidden = decoder_.hidden(static_cast<int64_t>(i));
    }
    safety_.Run(rows, nullptr);
    for (const TokenRow& row : rows) {
      if (!row.status.ok()) return row.status;
    }
    decoder_.StartLogits();
    return absl::OkStatus();
  }

  void Open(Stream& stream) {
    stream.document = next_document_;
    stream.tokens = tokenizer_.Encode(documents_[next_document_++]);
    stream.tokens.insert(stream.tokens.begin(), Tokenizer::kEndOfText);
    stream.tokens.push_back(Tokenizer::kEndOfText);
    if (per_document_ > 0 && std::ssize(stream.tokens) > per_document_ + 1)
      stream.tokens.resize(static_cast<size_t>(per_document_ + 1));
    stream.next = 0;
    stream.state.Reset();
  }

  // One token of every document under way, four rows each.
  bool Fill() {
    rows_.clear();
    looked_.clear();
    std::vector<Stream*> live;
    for (auto& stream : streams_) {
      while (stream->over() && next_document_ < documents_.size()) Open(*stream);
      if (!stream->over()) live.push_back(stream.get());
    }
    for (Stream* stream : live) {
      const TokenId token = stream->tokens[stream->next++], target = stream->tokens[stream->next];
      for (size_t k = 0; k < rows_each_; ++k) {
        const bool aside = k + 1 < rows_each_;
        rows_.push_back({&stream->state, token, true, aside ? &others_[k] : policy_});
        rows_.back().aside = aside;
        if (adapter_ != nullptr) rows_.back().adapter = &adapter_->rows();
      }
      const int64_t bytes =
          target == Tokenizer::kEndOfText ? 0 : static_cast<int64_t>(tokenizer_.Bytes(target).size());
      looked_.push_back(
          {target, bytes, {}, stream->document, std::span(stream->tokens).first(stream->next), {}});
    }
    return !rows_.empty();
  }

  double Share() const {
    double share = static_cast<double>(next_document_);
    for (const auto& stream : streams_) {
      if (!stream->tokens.empty())
        share -= 1.0 - static_cast<double>(stream->next + 1) / static_cast<double>(stream->tokens.size());
    }
    return std::clamp(share / static_cast<double>(documents_.size()), 0.0, 1.0);
  }

  const ModelConfig& config_;
  const Tokenizer& tokenizer_;
  WorkerPool& pool_;
  const std::vector<std::string_view> documents_;
  CpuDecoder decoder_;
  const size_t rows_each_;  // of a document in a pass
  const ReadyAdapter* const adapter_;
  AdaptedPositions* const positions_;
  RoutePolicy* const policy_;
  SafetyStage safety_;
  const Projector* const polytope_;
  std::array<PerspectiveRoute, kPerspectives - 1> routes_;
  std::vector<AmongMoved> others_;  // by route
  int64_t per_document_ = 0;
  size_t next_document_ = 0;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<BatchRow> rows_;
  std::vector<LookedToken> looked_;
};

}  // namespace

absl::Status RunPerspectives(const ModelWeights& weights, ExpertSource& source, const Tokenizer& tokenizer,
                             WorkerPool& pool, std::string_view text, const PerspectiveRunOptions& options,
                             absl::FunctionRef<void(std::span<const LookedToken>)> visit,
                             const kernels::Ops& ops) {
  if (options.parallel_documents < 1 || options.max_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("perspectives over a text: ", options.max_tokens,
                                                   " tokens must be at least 0, and ",
                                                   options.parallel_documents, " documents at once 1"));
  }
  if (tokenizer.vocab() > weights.config.vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat("perspectives over a text: the tokenizer has ", tokenizer.vocab(), " tokens, the model ",
                     weights.config.vocab, "; use the tokenizer the model was trained with"));
  }
  std::vector<std::string_view> documents = SplitDocuments(text);
  if (documents.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("perspectives over a text: nothing to predict in ", text.size(), " bytes of text"));
  }
  Run run(weights, tokenizer, pool, options, std::move(documents), ops);
  return run.All(source, options.progress, visit);
}

}  // namespace omni
