// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/decode/route_policy.h"
#include "engine/decode/row_adapter.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"
#include "kernels/op.h"

namespace omni {

struct EvalOptions {
  // false: every document begins at zero state with end-of-text as its context, and a final end-of-text is
  // predicted after it. true: the whole text is one stream, not split and with nothing added; its first token
  // is only context.
  bool carry = false;
  int64_t rows_per_batch = 256;     // tokens per pass; bounds the memory of the logits to rows x V
  int64_t parallel_documents = 16;  // share a pass; changes speed, never a result
  // Tokens predicted in all, 0: every one. Fewer than there are: documents share them equally, each from its
  // beginning, and what a short one leaves nobody gets. Not with carry.
  int64_t max_tokens = 0;
  RoutePolicy* policy = nullptr;        // in the routers' place; null: they decide
  const RowAdapter* adapter = nullptr;  // of every token; null: the model as it is
  // Called by the calling thread after every pass with the share of the text's bytes that is done. Empty: not
  // called.
  std::function<void(double share)> progress = nullptr;
};

struct EvalResult {
  double nats = 0;     // total negative log-likelihood
  int64_t tokens = 0;  // predicted
  int64_t bytes = 0;   // of the documents without separators (with carry: of the predicted tokens)
  double seconds = 0;  // wall clock, tokenizing included
  double nats_per_token() const { return tokens > 0 ? nats / static_cast<double>(tokens) : 0; }
  double bits_per_byte() const;
  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

// The documents of a text: each ends with a line `<|endoftext|>` or with the text. The line feed before and
// the line feed after the separator belong to the separator, and if it ends with CR LF the CRs before both do
// too; empty documents are dropped. Views into `text`.
std::vector<std::string_view> SplitDocuments(std::string_view text);

// Whether EvalText has a token to predict in the text.
bool AnythingToPredict(std::string_view text, const Tokenizer& tokenizer, bool carry);

// -log softmax(logits)[target] in double, ascending.
double NegativeLogLikelihood(const float* logits, int64_t vocab, TokenId target);

// Rejects a text without anything to predict, options below 1, and a tokenizer of more tokens than the model
// has; passes on the source's errors. Documents' nats are summed in document order: the result does not
// depend on threads or batching.
absl::StatusOr<EvalResult> EvalText(const ModelWeights& weights, ExpertSource& source,
                                    const Tokenizer& tokenizer, WorkerPool& pool, std::string_view text,
                                    const EvalOptions& options,
                                    const kernels::Ops& ops = kernels::ActiveOps());

}  // namespace omni
