// A model's configuration as JSON: what is accepted is valid, reads as it writes, and its numbers can be
// computed with.
#include "engine/model/config.h"

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 40000;

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (const char* preset : {"perspective-1t", "mini", "tiny"}) seeds.push_back(ToJson(*Preset(preset)));
  ModelConfig format2 = *Preset("tiny");
  format2.route_from = RouteFrom::kAddress, format2.slow_rate = 0.0625f, format2.route_bias = true;
  format2.own_neurons = 0, format2.member_neurons = 64;
  seeds.push_back(ToJson(format2));
  seeds.push_back(R"({"preset":)" + std::string(100000, '[') + std::string(100000, ']') + "}");
  seeds.push_back("{\"a\\nb\\u001b[2J" + std::string(5000, 'x') + "\":1}");
  return seeds;
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const absl::StatusOr<ModelConfig> config = ConfigFromJson(std::string(View(data, size)));
  if (!config.ok()) {
    RequireReadable(config.status());
    return 0;
  }
  Require(Validate(*config).ok(), "an accepted configuration is valid");
  const std::string text = ToJson(*config);
  const absl::StatusOr<ModelConfig> again = ConfigFromJson(text);
  Require(again.ok() && *again == *config, "a configuration reads as it was written");
  Require(ToJson(*again) == text, "equal configurations give equal text");
  const ParameterCount count = CountParameters(*config);
  Require(count.total() > 0 && count.active() <= count.total(), "parameters can be counted");
  const int64_t experts = config->num_experts();
  for (int64_t e = 0; e < experts; e += 1 + experts / 16) {
    const ExpertId expert(static_cast<int32_t>(e));
    const RegionId region = config->RegionOf(expert);
    Require(region.value >= 0 && region.value < config->num_regions(), "an expert's region exists");
    Require(config->ExpertOf(region, config->IndexInRegion(expert)) == expert,
            "an expert is found in its region");
  }
  return 0;
}
