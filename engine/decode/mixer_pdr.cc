#include "engine/decode/mixer_pdr.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/decode/decay_change.h"

namespace omni {
namespace {

constexpr int64_t kBlockBytes = 16 << 10;  // of S: half a first-level cache, the other half for k and q

enum { kP = 0, kV = 1, kK = 2, kQ = 3 };  // order of the products

}  // namespace

PdrMixer::PdrMixer(Pass& pass)
    : pass_(pass),
      decay_floor_(static_cast<float>(std::exp(static_cast<double>(pass.config.decay_floor)))),
      root_r_(std::sqrt(static_cast<float>(pass.config.r))),
      width_(PadTo(pass.config.d, 16)),
      rank_(PadTo(pass.config.r, 16)),
      block_rows_(std::max<int64_t>(16, kBlockBytes / (4 * pass.config.r) / 16 * 16)) {}

void PdrMixer::Run(const LayerWeights& layer, LayerId id) {
  const ModelConfig& config = pass_.config;
  const int64_t rows = pass_.rows;
  const QuantizedRows in = pass_.NormAndQuantize(layer.norm1, id, &LayerChange::mixer_gain);
  const Products products = pass_.Multiply({&layer.wp, &layer.wv, &layer.wk, &layer.wq}, in);

  float* k = k_.Reserve(rows * rank_);
  float* q = q_.Reserve(rows * rank_);
  pass_.ForRows(2 * config.r * Pass::kFloatCost, [&](int64_t row) {
    float* key = k + row * rank_;
    pass_.ops.scale_rows(products.Row(kK, row), layer.wk.scale, in.scale[row], config.r, key);
    if (config.key_scale) {
      for (int64_t j = 0; j < config.r; ++j) key[j] /= root_r_;
    }
    pass_.ops.scale_rows(products.Row(kQ, row), layer.wq.scale, in.scale[row], config.r, q + row * rank_);
  });

  PrepareDecayChanges(id);
  v_.Reserve(rows * width_);
  gamma_.Reserve(rows * width_);
  float* readout = readout_.Reserve(rows * width_);
  StepStates(layer, id, products, in.scale);

  if (layer.norm_readout != nullptr) {
    pass_.ForRows(config.d * Pass::kFloatCost, [&](int64_t row) {
      pass_.ops.rms_norm(readout + row * width_, layer.norm_readout, config.d, readout + row * width_);
    });
  }
  pass_.AddLinear(layer.wo, pass_.Quantize(readout, width_, config.d));
}

// core (right h) of the rows whose decays change.
void PdrMixer::PrepareDecayChanges(LayerId id) {
  for (const Segment& segment : pass_.segments) {
    const LayerChange* change = segment.Change(id);
    if (change == nullptr || change->left == nullptr) continue;
    float* inner = decay_inner_.Reserve(pass_.rows * kAdapterRank);
    for (int64_t row = segment.first_row; row < segment.first_row + segment.count; ++row)
      DecayInner(*change, pass_.ops, pass_.H(row), pass_.config.d, inner + row * kAdapterRank);
  }
}

void PdrMixer::StepStates(const LayerWeights& layer, LayerId id, const Products& products,
                          const float* scale) {
  const ModelConfig& config = pass_.config;
  const int64_t period = config.state_norm_period;
  const int64_t blocks = (config.d + block_rows_ - 1) / block_rows_;
  for (int64_t round = 0;; ++round) {
    stretches_.clear();
    int64_t tokens = 0, asides = 0;  // asides: of the present state
    for (size_t i = 0; i < pass_.segments.size(); ++i) {
      const Segment& segment = pass_.segments[i];
      if (segment.aside) {
        if (round > 0) continue;
        ++asides;
        if (i + 1 < EndOfState(pass_.segments, i)) continue;
        stretches_.push_back({&segment, segment.first_row + 1, 0, asides, false});
        tokens += std::exchange(asides, 0);
        continue;
      }
      const int64_t to_norm =
          period - segment.position % period;  // tokens until the first normalisation, >= 1
      const int64_t begin = round == 0 ? 0 : to_norm + (round - 1) * period;
      const int64_t end = std::min(to_norm + round * period, segment.count);
      if (begin >= segment.count) continue;
      tokens += end - begin + asides;
      stretches_.push_back({&segment, segment.first_row + begin, end - begin, std::exchange(asides, 0),
                            end == to_norm + round * period});
    }
    if (stretches_.empty()) return;
    const int64_t items = static_cast<int64_t>(stretches_.size()) * blocks;
    const int64_t cost = tokens * config.d * config.r * Pass::kFloatCost / items;
    pass_.pool.Run(items, Pass::Grain(cost), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        StepBlock(layer, id, products, scale, stretches_[static_cast<size_t>(i / blocks)], i % blocks);
      }
    });
    for (const Stretch& stretch : stretches_) {
      if (stretch.normalize_after) Normalize(stretch.segment->state->pdr(id));
    }
  }
}

void PdrMixer::StepBlock(const LayerWeights& layer, LayerId id, const Products& products, const float* scale,
                         const Stretch& stretch, int64_t block) {
  const kernels::Ops& ops = pass_.ops;
  const int64_t r = pass_.config.r;
  const int64_t begin = block * block_rows_;
  const int64_t n = std::min(block_rows_, pass_.config.d - begin);
  float* S = stretch.segment->state->pdr(id) + begin * r;
  const LayerChange* change = stretch.segment->Change(id);
  for (int64_t row = stretch.first_row - stretch.asides; row < stretch.first_row + stretch.count; ++row) {
    float* v = v_.data() + row * width_ + begin;
    float* gamma = gamma_.data() + row * width_ + begin;
    ops.scale_rows(products.Row(kV, row) + begin, layer.wv.scale + begin, scale[row], n, v);
    ops.scale_rows(products.Row(kP, row) + begin, layer.wp.scale + begin, scale[row], n, gamma);
    if (change != nullptr && change->left != nullptr) {
      AddDecayChange(change->left + begin * kAdapterRank, decay_inner_.data() + row * kAdapterRank, n, gamma);
    }
    ops.decay(gamma, layer.bp + begin, decay_floor_, n, gamma);
    const float* k = k_.data() + row * rank_;
    const float* q = q_.data() + row * rank_;
    float* readout = readout_.data() + row * width_ + begin;
    if (row < stretch.first_row) {
      ops.pdr_read(S, gamma, v, k, q, n, r, readout);
    } else {
      ops.pdr_step(S, gamma, v, k, q, n, r, readout);
    }
  }
}

void PdrMixer::Normalize(float* S) {
  const int64_t d = pass_.config.d, r = pass_.config.r;
  float* row_norms = row_norms_.Reserve(d);
  float* ones = ones_.Reserve(d);
  for (int64_t i = 0; i < d; ++i) {
    row_norms[i] = pass_.ops.dot(S + i * r, S + i * r, r);
    ones[i] = 1.0f;
  }
  const float norm = std::sqrt(pass_.ops.dot(row_norms, ones, d));
  const float limit = std::sqrt(static_cast<float>(d * r));
  if (!(norm > limit)) return;
  const float factor = limit / norm;
  for (int64_t i = 0; i < d * r; ++i) S[i] *= factor;
}

}  // namespace omni
