// Adapters of random values, which no text has taught.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/around/adapter.h"
#include "engine/around/adapter_source.h"
#include "tests/testing/random_model.h"

namespace omni::testing {

// Every block that there can be, but for factors in the cores' place.
inline constexpr AdapterParts kAllAdapterParts = {true, true, 8, AdaptLayers::kCores, true};

inline Adapter RandomAdapter(const ModelConfig& config, const std::string& model_hash, float size,
                             uint64_t seed, const AdapterParts& parts = kAllAdapterParts) {
  Adapter adapter(config, parts, model_hash);
  Random random(seed);
  for (const AdapterBlock block : kAdapterBlocks) {
    for (float& value : adapter.values(block)) value = random.Uniform(-size, size);
  }
  adapter.origin() = {1000, 100, 3.5f, 3.25f, 0.01f};
  return adapter;
}

// Those that a test puts there, while nobody takes one.
class FixedAdapters final : public AdapterSource {
 public:
  void Put(const std::string& name, const ModelConfig& config, Adapter adapter) {
    adapters_[name] = std::make_shared<const ReadyAdapter>(config, std::move(adapter));
  }
  absl::StatusOr<std::shared_ptr<const ReadyAdapter>> Take(const AdapterChoice& choice) override {
    const auto found = adapters_.find(choice.name);
    if (found == adapters_.end()) return NoAdapter(choice, absl::NotFoundError("there is none of that name"));
    return Chosen(choice, found->second);
  }
  absl::StatusOr<std::vector<OfferedAdapter>> List() override { return std::vector<OfferedAdapter>(); }

 private:
  std::map<std::string, std::shared_ptr<const ReadyAdapter>> adapters_;
};

}  // namespace omni::testing
