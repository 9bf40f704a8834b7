// A random tiny model with its tokenizer, and what a plain loop without actors generates from it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "actors/generate.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/text/tokenizer.h"
#include "tests/testing/random_model.h"

namespace omni::testing {

// An expert source that fails or counts on the way to another.
class HookedSource : public ExpertSource {
 public:
  using Hook = std::function<absl::Status(LayerId, ExpertId)>;
  HookedSource(ExpertSource& inner, Hook hook) : inner_(inner), hook_(std::move(hook)) {}
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
    if (absl::Status s = hook_(layer, expert); !s.ok()) return s;
    return inner_.Acquire(layer, expert);
  }

 private:
  ExpertSource& inner_;
  Hook hook_;
};

struct TinyModel {
  explicit TinyModel(const ModelConfig& config = TinyConfig(), uint64_t seed = 11)
      : model(config, seed),
        tokenizer(*Tokenizer::Train("the cat and the dog and the end of the day\n", config.vocab)) {}

  RandomModel model;
  Tokenizer tokenizer;
};

inline GenerateRequest MakeRequest(const TinyModel& tiny, int64_t prompt, int64_t max_tokens, uint64_t seed) {
  GenerateRequest request;
  request.prompt = RandomTokens(prompt, tiny.model.config().vocab, 1000 + seed);
  request.max_tokens = max_tokens;
  request.sampler.seed = seed;
  request.stop_at_end_of_text = false;
  return request;
}

// One token a pass, one session, no actor.
inline std::vector<TokenId> PlainLoop(TinyModel& tiny, const GenerateRequest& request) {
  WorkerPool pool(1);
  CpuDecoder decoder(tiny.model.weights(), pool);
  SessionState state(tiny.model.config());
  std::vector<TokenId> tokens = request.prompt;
  const size_t prompt = tokens.size();
  for (size_t i = 0; tokens.size() < prompt + static_cast<size_t>(request.max_tokens); ++i) {
    const bool last = i + 1 == tokens.size();
    const BatchRow row{&state, tokens[i], last};
    auto logits = RunBatch(decoder, tiny.model.config(), tiny.model, pool, {&row, 1});
    EXPECT_TRUE(logits.ok()) << logits.status();
    if (last) tokens.push_back(Sample(*logits, tokens, tokens.size(), request.sampler).token);
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt), tokens.end()};
}

}  // namespace omni::testing
