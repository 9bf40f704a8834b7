#include "engine/around/recall_stage.h"

#include <algorithm>
#include <new>
#include <optional>
#include <vector>

#include "engine/around/distribution.h"
#include "engine/around/perspectives.h"
#include "engine/around/recall.h"

namespace omni {
namespace {

constexpr size_t kTokens = 96;  // that are looked at: more than all words of a key and what is begun

}  // namespace

std::string RecallText(const Tokenizer& tokenizer, std::span<const TokenId> history) {
  std::string text;
  for (TokenId token : history.last(std::min(kTokens, history.size()))) {
    if (token == Tokenizer::kEndOfText) {
      text.clear();  // what was before it is another text
    } else {
      text += tokenizer.Bytes(token);
    }
  }
  return text;
}

void RecallStage::Decide(TokenRow& row) const {
  try {
    const std::optional<Recollection> got = Recall(*row.stored, RecallText(tokenizer_, row.history));
    RecallNote& note = row.notes.recall.emplace();
    if (!got.has_value()) return;
    const std::vector<TokenId> tokens = tokenizer_.Encode(got->rest);
    if (tokens.empty() || tokens.front().index() >= row.model_logits.size()) return;
    std::vector<float> p(row.model_logits.size());
    Softmax(ops_, row.model_logits, 1.0f, p);
    row.choice = Sampled{tokens.front(), p[tokens.front().index()]};
    note = {true, static_cast<int32_t>(got->words), static_cast<int32_t>(got->begun),
            static_cast<int32_t>(got->votes)};
  } catch (const std::bad_alloc&) {
    row.status = absl::ResourceExhaustedError("no memory to ask the memory of texts");
  }
}

bool RecallStage::Run(std::span<TokenRow> rows, const Done&) {
  std::vector<TokenRow*> asked;
  for (TokenRow& row : rows) {
    const bool uncertain = row.verdict != nullptr && row.verdict->uncertain;
    if (row.stored != nullptr && uncertain && !row.known && !row.choice.has_value() && row.status.ok())
      asked.push_back(&row);
  }
  if (asked.empty()) return true;
  const auto decide = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) Decide(*asked[static_cast<size_t>(i)]);
  };
  if (pool_ == nullptr) {
    decide(0, std::ssize(asked));
  } else {
    pool_->Run(std::ssize(asked), 1, decide);
  }
  return true;
}

}  // namespace omni
