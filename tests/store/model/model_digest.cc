#include "tests/store/model/model_digest.h"

namespace omni::testing {
namespace {

void Bytes(std::string* out, const void* data, int64_t bytes) {
  out->append(static_cast<const char*>(data), static_cast<size_t>(bytes));
}
void Floats(std::string* out, const float* data, int64_t count) { Bytes(out, data, 4 * count); }

void Linear(std::string* out, const TwoBitLinear& linear) {
  if (linear.m.base == nullptr) return;
  Bytes(out, linear.m.base, linear.m.num_blocks * linear.m.num_groups * 64);
  Floats(out, linear.scale, linear.rows);
}

void Experts(std::string* out, const Model& model, int64_t layer) {
  const ModelConfig& c = model.weights().config;
  for (int64_t e = 0; e < c.num_experts(); ++e) {
    const auto tiles =
        model.experts().Acquire(LayerId(static_cast<int32_t>(layer)), ExpertId(static_cast<int32_t>(e)));
    for (const uint8_t* tile : tiles.value().tiles) Bytes(out, tile, TileLayout(c.d).payload());
  }
}

}  // namespace

std::string ModelContent(const Model& model) {
  const ModelWeights& w = model.weights();
  const ModelConfig& c = w.config;
  std::string out = ToJson(c);
  Bytes(&out, w.embedding.base, w.embedding.stride * w.embedding.rows);
  Floats(&out, w.embedding_scale, c.vocab);
  Floats(&out, w.norm_out, c.d);
  for (int64_t l = 0; l < c.layers; ++l) {
    const LayerWeights& layer = w.layers[static_cast<size_t>(l)];
    Floats(&out, layer.norm1, c.d);
    Floats(&out, layer.norm2, c.d);
    for (const TwoBitLinear* linear :
         {&layer.wp, &layer.wk, &layer.wq, &layer.wv, &layer.wo, &layer.gate, &layer.up, &layer.down}) {
      Linear(&out, *linear);
    }
    if (c.IsAttention(l)) continue;
    Floats(&out, layer.bp, c.d);
    if (c.readout_norm) Floats(&out, layer.norm_readout, c.d);
    Floats(&out, layer.route, 3 * c.d);
    Floats(&out, layer.positions, 3 * c.num_experts());
    Experts(&out, model, l);
  }
  out += model.tokenizer().Serialize();
  return out;
}

}  // namespace omni::testing
