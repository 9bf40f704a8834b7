// What learning takes of memory, before it does: the buffers of adapt_learn, adapt_texts, adapt_head and
// adapt_tangents, and of the decoder that they read with.
#include <algorithm>

#include "engine/around/adapt_learn.h"
#include "engine/around/adapt_texts.h"
#include "engine/around/adapter_bytes.h"
#include "engine/model/session_state.h"

namespace omni {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr auto kRows = static_cast<int64_t>(kAdaptBatch);

// Tangents of a session's state, in each of `directions`.
int64_t TangentBytes(const ModelConfig& c, int64_t directions) {
  const int64_t attention = c.layers / c.attention_period;
  const int64_t state = (c.layers - attention) * c.d * c.r;
  return kFloat * directions * (state + attention * 2 * c.kv_heads * c.window * c.head_dim());
}

// Of a pass with tangents: rows, columns of the products, and the experts', which may run at the same time.
int64_t TangentPassBytes(const ModelConfig& c, int64_t directions, int threads) {
  const int64_t wide = PadTo(std::max(c.d, c.f), 64), rows = kRows * (1 + directions);
  const int64_t columns = kRows * (1 + 2 * directions), tangents = kRows * directions;
  const int64_t products = columns * wide * (1 + kFloat) + tangents * wide * kFloat;
  const int64_t experts = columns * (c.d + wide + std::max<int64_t>(c.d, 2 * kTileNeurons) * kFloat) +
                          (rows + tangents) * wide * kFloat;
  const int64_t heads = std::min<int64_t>(threads, c.kv_heads) * 2 * c.window * (c.head_dim() + 1) * kFloat;
  return rows * (4 * wide + 6 * c.d) * kFloat + 2 * products + experts + heads;
}

// Of passes of the plain kind: 256 rows without logits, 64 with.
int64_t PassBytes(const ModelConfig& c) {
  constexpr int64_t kReadRows = 256, kLogitRows = 2 * kRows;
  const int64_t wide = PadTo(std::max(c.d, c.f), 64);
  return kReadRows * (8 * c.d + 4 * wide + c.heads * c.window) * kFloat +
         (2 * kLogitRows + kRows) * c.vocab * kFloat;
}

int64_t HeadBytes(const ModelConfig& c) { return kRows * (3 * c.vocab + 6 * c.d) * kFloat; }

}  // namespace

int64_t MostLearningBytes(const ModelConfig& config, const AdapterParts& parts, const AdaptSettings& settings,
                          int64_t text_bytes, int threads) {
  const Adapter adapter(config, parts, "");
  const auto values = [&](AdapterBlock block) { return std::ssize(adapter.values(block)); };
  const int64_t moments = values(AdapterBlock::kGain) + values(AdapterBlock::kMap);
  const int64_t positions = values(AdapterBlock::kPositions);
  const int64_t layers = adapter.size() - moments - values(AdapterBlock::kBias) - positions;
  int64_t directions = 0;
  if (parts.layers != AdaptLayers::kNone)
    directions = parts.layers == AdaptLayers::kLora ? 1 : settings.directions;
  // Gradient and what to go back to, moments, directions, and positions that are tried.
  const int64_t learned = kFloat * (2 * adapter.size() + moments + directions * layers + positions);
  const int64_t tokens = text_bytes * static_cast<int64_t>(2 * sizeof(TokenId));
  int64_t bytes = AdapterBytes(adapter, config.d) + learned + tokens + 4 * SessionState::BytesFor(config) +
                  PassBytes(config) + HeadBytes(config);
  if (directions > 0)
    bytes += TangentBytes(config, directions) + TangentPassBytes(config, directions, threads);
  return bytes;
}

}  // namespace omni
