// Adapters: what is accepted is written as the same bytes and can be used, and nothing is made for bytes that
// are refused.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "engine/around/adapter.h"
#include "engine/decode/head_change.h"
#include "kernels/op.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 100000;

namespace {

constexpr char kModel[] = "0123456789abcdef0123456789abcdef";

ModelConfig SmallConfig() {
  ModelConfig c;
  c.layers = 3, c.attention_period = 2;
  c.d = 4, c.r = 2, c.f = 64, c.heads = 2, c.kv_heads = 1, c.window = 3, c.vocab = 257;
  c.lattice = {2, 2, 1}, c.region = {2, 1, 1};
  return c;
}

std::string Bytes(const AdapterParts& parts) {
  Adapter adapter(SmallConfig(), parts, kModel);
  float next = 0;
  for (const AdapterBlock block : kAdapterBlocks) {
    for (float& value : adapter.values(block)) value = std::sin(next += 1);
  }
  adapter.origin() = {100, 10, 3, 2, 0.5f};
  return adapter.Write();
}

void Check(const std::string& bytes) {
  absl::StatusOr<Adapter> adapter = Adapter::Read(bytes);
  if (!adapter.ok()) return RequireReadable(adapter.status());
  Require(adapter->Write() == bytes, "an adapter is written as the bytes it was read from");
  const std::string hash = adapter->Hash();
  Require(hash.size() == 32, "an adapter has a hash");
  const RowAdapter view = adapter->View();
  const size_t biases = adapter->values(AdapterBlock::kBias).size();
  Require((view.head.bias != nullptr) == (biases > 0), "a view has what there is");
  const size_t gains = adapter->values(AdapterBlock::kGain).size();
  if (gains > 0) {
    std::vector<float> y(gains, 1.0f);
    ChangeHidden(view.head, kernels::ActiveOps(), static_cast<int64_t>(gains), y.data());
  }
  if (const absl::Status fits = adapter->Fits(SmallConfig(), kModel); !fits.ok())
    return RequireReadable(fits);
  const ReadyAdapter ready(SmallConfig(), *std::move(adapter));
  Require(ready.hash() == hash, "an adapter has one hash");
  if (ready.policy() == nullptr) return;
  const ModelConfig config = SmallConfig();
  const std::vector<float> positions(static_cast<size_t>(3 * config.num_experts()), 0.25f);
  const RouteChoice choice{
      LayerId(2), 0,      {0.1f, 0.2f, 0.3f}, ExpertId(0), positions.data(), config.num_experts(),
      nullptr,    &config};
  Require(ready.policy()->Choose(choice).value < config.num_experts(), "an expert of the layer is chosen");
}

}  // namespace

std::vector<std::string> Seeds() {
  return {Bytes({true, true, 4, AdaptLayers::kCores, true}),
          Bytes({true, true, 2, AdaptLayers::kLora, false}),
          Bytes({false, false, 0, AdaptLayers::kNone, true})};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string input(View(data, size));
  Check(input);
  Check(WithChecksum(input));
  return 0;
}
