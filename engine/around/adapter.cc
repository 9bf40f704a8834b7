#include "engine/around/adapter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/around/adapter_bytes.h"
#include "engine/base/splitmix.h"
#include "engine/decode/router.h"

namespace omni {
namespace {

constexpr uint64_t kBasisSeed = 0x6261736973, kLeftSeed = 0x6c656674, kRightSeed = 0x7269676874;
// Of W_p's rank-4 change: left's elements are +-1/2, so that a core of size c changes p by about c.
constexpr float kLeftScale = 0.5f;

float Sign(uint64_t seed, uint64_t counter) { return (CounterRandom(seed, counter) & 1) != 0 ? 1.0f : -1.0f; }

int64_t PdrLayers(int64_t layers, int64_t period) { return layers - layers / period; }

}  // namespace

const char* AdapterBlockName(AdapterBlock block) {
  constexpr const char* kNames[] = {"bias",  "gain", "map",   "layer gains",
                                    "cores", "left", "right", "positions"};
  return kNames[static_cast<size_t>(block)];
}

Adapter::Adapter(const ModelConfig& config, const AdapterParts& parts, std::string model_hash)
    : parts_(parts),
      model_hash_(std::move(model_hash)),
      d_(static_cast<uint32_t>(config.d)),
      vocab_(static_cast<uint32_t>(config.vocab)),
      layers_(static_cast<uint32_t>(config.layers)),
      attention_period_(static_cast<uint32_t>(config.attention_period)),
      experts_(static_cast<uint32_t>(config.num_experts())) {
  parts_.head_rank = std::clamp<int64_t>(parts_.head_rank, 0, config.d);
  MakeShape();
  std::vector<float>& right = blocks_[static_cast<size_t>(AdapterBlock::kRight)];
  for (size_t i = 0; i < right.size(); ++i)
    right[i] = Sign(kRightSeed, i) / std::sqrt(static_cast<float>(config.d));
  MakeFrozen();
}

Adapter::Adapter(const Adapter& like, const AdapterParts& parts)
    : parts_(parts),
      model_hash_(like.model_hash_),
      d_(like.d_),
      vocab_(like.vocab_),
      layers_(like.layers_),
      attention_period_(like.attention_period_),
      experts_(like.experts_),
      frozen_(like.frozen_) {
  MakeShape();
}

void Adapter::MakeShape() {
  const int64_t d = d_, pdr = PdrLayers(layers_, attention_period_);
  const auto make = [this](AdapterBlock block, bool wanted, int64_t size) {
    blocks_[static_cast<size_t>(block)].assign(wanted ? static_cast<size_t>(size) : 0, 0.0f);
  };
  const bool cores = parts_.layers == AdaptLayers::kCores, lora = parts_.layers == AdaptLayers::kLora;
  make(AdapterBlock::kBias, parts_.bias, vocab_);
  make(AdapterBlock::kGain, parts_.gain, d);
  make(AdapterBlock::kMap, parts_.head_rank > 0, d * parts_.head_rank);
  make(AdapterBlock::kLayerGains, cores || lora, 2 * static_cast<int64_t>(layers_));
  make(AdapterBlock::kCores, cores, pdr * kAdapterRank * kAdapterRank);
  make(AdapterBlock::kLeft, lora, pdr * d * kAdapterRank);
  make(AdapterBlock::kRight, lora, pdr * kAdapterRank * d);
  make(AdapterBlock::kPositions, parts_.positions, pdr * 3 * static_cast<int64_t>(experts_));
}

// Rows of random signs, orthogonal in expectation and of length 1; the map of full rank needs none.
void Adapter::MakeFrozen() {
  const int64_t d = d_;
  const float row = 1.0f / std::sqrt(static_cast<float>(d));
  const auto made = std::make_shared<Frozen>();
  frozen_ = made;
  if (parts_.head_rank > 0 && parts_.head_rank < d) {
    made->basis.resize(static_cast<size_t>(parts_.head_rank * d));
    for (size_t i = 0; i < made->basis.size(); ++i) made->basis[i] = Sign(kBasisSeed, i) * row;
  }
  if (parts_.layers != AdaptLayers::kCores) return;
  made->left.resize(static_cast<size_t>(d * kAdapterRank));
  made->right.resize(made->left.size());
  for (size_t i = 0; i < made->left.size(); ++i) {
    made->left[i] = Sign(kLeftSeed, i) * kLeftScale;
    made->right[i] = Sign(kRightSeed, i) * row;
  }
}

int64_t Adapter::size() const {
  int64_t sum = 0;
  for (const std::vector<float>& block : blocks_) sum += std::ssize(block);
  return sum;
}

void Adapter::Clear(AdapterBlock block) { std::ranges::fill(values(block), 0.0f); }

void Adapter::CopyValues(const Adapter& other) {
  for (size_t i = 0; i < std::size(blocks_); ++i) std::ranges::copy(other.blocks_[i], blocks_[i].begin());
}

RowAdapter Adapter::View(bool with_head) const {
  const auto block = [this](AdapterBlock b) { return values(b).empty() ? nullptr : values(b).data(); };
  RowAdapter view;
  if (with_head) {
    view.head.bias = block(AdapterBlock::kBias);
    view.head.gain = block(AdapterBlock::kGain);
    view.head.map = block(AdapterBlock::kMap);
    view.head.rank = parts_.head_rank;
    view.head.basis = frozen_->basis.empty() ? nullptr : frozen_->basis.data();
  }
  if (parts_.layers == AdaptLayers::kNone) return view;
  const float* gains = block(AdapterBlock::kLayerGains);
  const int64_t factor = int64_t{d_} * kAdapterRank;
  int64_t pdr = 0;
  for (int64_t l = 0; l < layers_; ++l) {
    LayerChange& change = view.layers.emplace_back();
    change.mixer_gain = gains[2 * l];
    change.ffn_gain = gains[2 * l + 1];
    if (l % attention_period_ == attention_period_ - 1) continue;
    if (parts_.layers == AdaptLayers::kCores) {
      change.left = frozen_->left.data();
      change.core = block(AdapterBlock::kCores) + pdr * kAdapterRank * kAdapterRank;
      change.right = frozen_->right.data();
    } else {
      change.left = block(AdapterBlock::kLeft) + pdr * factor;
      change.right = block(AdapterBlock::kRight) + pdr * factor;
    }
    ++pdr;
  }
  return view;
}

std::vector<LayerChange> Adapter::DirectionView() const {
  std::vector<LayerChange> layers = View(false).layers;
  if (parts_.layers != AdaptLayers::kCores) return layers;
  for (LayerChange& change : layers) change.left = change.right = nullptr;
  return layers;
}

absl::Status Adapter::Fits(const ModelConfig& config, std::string_view model_hash) const {
  if (model_hash_ != model_hash) {
    return absl::FailedPreconditionError(absl::StrCat("the adapter was learned with model ", model_hash_,
                                                      ", and this is ", std::string(model_hash),
                                                      "; learn it anew: omni adapt FILE"));
  }
  if (d_ != config.d || vocab_ != config.vocab || layers_ != config.layers ||
      attention_period_ != config.attention_period || experts_ != config.num_experts()) {
    return absl::FailedPreconditionError(
        "the adapter's shapes are not the model's; learn it anew: omni adapt FILE");
  }
  return absl::OkStatus();
}

RouteChoice AdaptedPositions::Moved(const RouteChoice& choice) const {
  const int64_t period = config_.attention_period, l = choice.layer.value;
  const auto first = static_cast<size_t>((l - l / period) * 3 * choice.experts);
  const std::span<const float> moves = moves_.subspan(first, static_cast<size_t>(3 * choice.experts));
  static thread_local std::vector<float> moved;
  moved.resize(moves.size());
  for (size_t i = 0; i < moves.size(); ++i) moved[i] = Frac(choice.positions[i] + moves[i]);
  RouteChoice among = choice;
  among.positions = moved.data();
  among.nearest = NearestExpert(choice.point, moved.data(), choice.bias, choice.experts);
  if (config_.route_from == RouteFrom::kAddress)
    among.nearest = config_.ExpertOf(config_.RegionOf(among.nearest), config_.IndexInRegion(choice.nearest));
  return among;
}

ExpertId AdaptedPositions::Choose(const RouteChoice& choice) { return Moved(choice).nearest; }

ExpertId AdaptedPositions::ChooseBy(RoutePolicy& policy, const RouteChoice& choice) const {
  return policy.Choose(Moved(choice));
}

ReadyAdapter::ReadyAdapter(const ModelConfig& config, Adapter adapter)
    : adapter_(std::move(adapter)),
      hash_(adapter_.Hash()),
      rows_(adapter_.View()),
      policy_(adapter_.parts().positions ? std::make_unique<AdaptedPositions>(config, adapter_) : nullptr) {}

int64_t AdapterBytes(const Adapter& adapter, int64_t d) {
  const RowAdapter view = adapter.View();
  int64_t values = adapter.size();
  if (view.head.basis != nullptr) values += view.head.rank * d;
  for (const LayerChange& layer : view.layers) {
    if (layer.core == nullptr) continue;
    values += 2 * kAdapterRank * d;  // one left and one right, of all layers
    break;
  }
  return values * static_cast<int64_t>(sizeof(float));
}

}  // namespace omni
