// An adapter: small parameters, learned from a text, that change a model's token step for whoever asks for
// them (engine/decode/row_adapter.h says where they act). docs/adaptation.md has the formulas.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/decode/route_policy.h"
#include "engine/decode/row_adapter.h"
#include "engine/model/weights.h"

namespace omni {

// What of the layers is learned.
enum class AdaptLayers {
  kNone,
  kCores,  // LoRA-XS: a 4 x 4 core a PDR layer between factors that stay, and two gains a layer
  kLora,   // both factors of a rank-4 change of every W_p, and the gains
};

// Which parameters an adapter has.
struct AdapterParts {
  bool bias = true, gain = true;
  int64_t head_rank = 256;  // of the map of the last hidden state, at most d; 0: none
  AdaptLayers layers = AdaptLayers::kCores;
  bool positions = false;  // of the experts

  bool operator==(const AdapterParts&) const = default;
};

// Blocks of an adapter's parameters; those that it has not are empty.
enum class AdapterBlock { kBias, kGain, kMap, kLayerGains, kCores, kLeft, kRight, kPositions };
inline constexpr AdapterBlock kAdapterBlocks[] = {
    AdapterBlock::kBias,  AdapterBlock::kGain, AdapterBlock::kMap,   AdapterBlock::kLayerGains,
    AdapterBlock::kCores, AdapterBlock::kLeft, AdapterBlock::kRight, AdapterBlock::kPositions};
const char* AdapterBlockName(AdapterBlock block);

// What it was learned from, for lists.
struct AdapterOrigin {
  int64_t tokens = 0;               // learned from
  int64_t held_out_tokens = 0;      // that decided what was kept
  float nats_before = 0, nats = 0;  // per held-out token, without it and with it
  float drift = 0;                  // nats a token by which the model's own text became less likely

  bool operator==(const AdapterOrigin&) const = default;
};

class Adapter {
 public:
  // All zero: changes nothing. Frozen factors are made from the seed alone. `config` is valid.
  Adapter(const ModelConfig& config, const AdapterParts& parts, std::string model_hash);
  // All zero, of `parts` of like's, with which it shares its frozen factors: a gradient, moments, a
  // direction.
  Adapter(const Adapter& like, const AdapterParts& parts);

  const AdapterParts& parts() const { return parts_; }  // head_rank at most d
  const std::string& model_hash() const { return model_hash_; }
  AdapterOrigin& origin() { return origin_; }
  const AdapterOrigin& origin() const { return origin_; }

  // bias [V], gain [d], map [d, head_rank], layer gains [L, 2] (mixer, FFN), cores [PDR layers, 4, 4], left
  // [PDR layers, d, 4], right [PDR layers, 4, d], positions [expert layers, experts, 3] as differences.
  std::span<float> values(AdapterBlock block) { return blocks_[static_cast<size_t>(block)]; }
  std::span<const float> values(AdapterBlock block) const { return blocks_[static_cast<size_t>(block)]; }
  int64_t size() const;  // parameters
  void Clear(AdapterBlock block);
  // The parameters take other's values, which has the same parts and model.
  void CopyValues(const Adapter& other);

  // Points into this adapter, which must neither move nor be let go of. Without the head: layers alone.
  RowAdapter View(bool with_head = true) const;
  // What its values are as a direction to differentiate in (adapt_tangents.h): frozen factors are null.
  std::vector<LayerChange> DirectionView() const;
  // OK, or FailedPrecondition: it is of another model or shape.
  absl::Status Fits(const ModelConfig& config, std::string_view model_hash) const;

  // 32 hex digits, of all that it changes: the same for equal parts and values of a model, wherever they were
  // learned, and for no others.
  std::string Hash() const;
  std::string Write() const;  // docs/formats/adapter.md
  // Refuses cut, altered and unknown bytes, shapes beyond every model's, and values that are not finite.
  static absl::StatusOr<Adapter> Read(std::string_view bytes);

 private:
  Adapter() = default;
  std::string Bytes(const AdapterOrigin& origin, bool with_checksum) const;
  void MakeShape();
  void MakeFrozen();

  AdapterParts parts_;
  std::string model_hash_;
  AdapterOrigin origin_;
  uint32_t d_ = 0, vocab_ = 0, layers_ = 0, attention_period_ = 0, experts_ = 0;
  std::vector<float> blocks_[std::size(kAdapterBlocks)];
  struct Frozen {
    std::vector<float> basis, left, right;  // one left and one right for all layers
  };
  std::shared_ptr<const Frozen> frozen_;  // of all copies
};

// Routes by positions that an adapter has moved. Any number of sessions may share one.
class AdaptedPositions : public RoutePolicy {
 public:
  // `adapter` has positions, and outlives it.
  AdaptedPositions(const ModelConfig& config, const Adapter& adapter)
      : config_(config), moves_(adapter.values(AdapterBlock::kPositions)) {}
  AdaptedPositions(const ModelConfig& config, std::span<const float> moves)
      : config_(config), moves_(moves) {}
  ExpertId Choose(const RouteChoice& choice) override;
  // What `policy` chooses where the router's experts, and its own choice, are those moved ones.
  ExpertId ChooseBy(RoutePolicy& policy, const RouteChoice& choice) const;

 private:
  RouteChoice Moved(const RouteChoice& choice) const;  // until the next call on this thread

  const ModelConfig config_;
  const std::span<const float> moves_;
};

// A policy among the positions that an adapter has moved, if it has. Both outlive it.
class AmongMoved : public RoutePolicy {
 public:
  AmongMoved(const AdaptedPositions* positions, RoutePolicy& policy)
      : positions_(positions), policy_(policy) {}
  ExpertId Choose(const RouteChoice& choice) override {
    return positions_ == nullptr ? policy_.Choose(choice) : positions_->ChooseBy(policy_, choice);
  }

 private:
  const AdaptedPositions* const positions_;
  RoutePolicy& policy_;
};

// An adapter as sessions use it: immutable and shared.
class ReadyAdapter {
 public:
  ReadyAdapter(const ModelConfig& config, Adapter adapter);
  ReadyAdapter(const ReadyAdapter&) = delete;
  ReadyAdapter& operator=(const ReadyAdapter&) = delete;

  const Adapter& adapter() const { return adapter_; }
  const RowAdapter& rows() const { return rows_; }
  AdaptedPositions* policy() const { return policy_.get(); }  // null: the model's routes
  const std::string& hash() const { return hash_; }           // Adapter::Hash

 private:
  const Adapter adapter_;
  const std::string hash_;
  const RowAdapter rows_;
  const std::unique_ptr<AdaptedPositions> policy_;
};

}  // namespace omni
