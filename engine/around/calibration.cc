#include "engine/around/calibration.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <system_error>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "engine/around/distribution.h"
#include "engine/base/json.h"
#include "engine/base/replace_file.h"
#include "engine/text/text_file.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFormat = "omni-calibration";
constexpr int64_t kVersion = 1;
constexpr size_t kMostPoints = 4096;
constexpr float kLeastProbability = 1e-6f;

Json ToJson(const MonotoneMap& map) { return {{"x", map.x}, {"y", map.y}}; }

Json ToJson(const PerspectiveCalibration& c) {
  return {{"temperature", c.temperature},
          {"tau", c.tau},
          {"own_weight", c.own_weight},
          {"coefficients", c.coefficients},
          {"map", ToJson(c.map)}};
}

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(what), "; fit it anew with omni eval calibration --fit"));
}

absl::StatusOr<float> NumberAt(const Json& json, const char* key, float low, float high) {
  const auto at = json.find(key);
  if (at == json.end() || !at->is_number()) return Bad(absl::StrCat("it has no number ", key));
  const auto value = at->get<float>();
  if (!(value >= low && value <= high))
    return Bad(absl::StrCat(key, " is ", value, ", but must be ", low, " to ", high));
  return value;
}

absl::StatusOr<std::vector<float>> NumbersAt(const Json& json, const char* key) {
  const auto at = json.find(key);
  if (at == json.end() || !at->is_array() || at->size() > kMostPoints)
    return Bad(absl::StrCat("it has no list ", key, " of at most ", kMostPoints, " numbers"));
  std::vector<float> values;
  for (const Json& value : *at) {
    if (!value.is_number() || !std::isfinite(value.get<float>()))
      return Bad(absl::StrCat("in its list ", key, " is something that is no number"));
    values.push_back(value.get<float>());
  }
  return values;
}

absl::StatusOr<MonotoneMap> MapAt(const Json& json) {
  const auto at = json.find("map");
  if (at == json.end() || !at->is_object()) return Bad("it has no map");
  MonotoneMap map;
  for (auto [key, values] : {std::pair("x", &map.x), std::pair("y", &map.y)}) {
    absl::StatusOr<std::vector<float>> read = NumbersAt(*at, key);
    if (!read.ok()) return read.status();
    *values = *std::move(read);
  }
  if (map.x.size() != map.y.size()) return Bad("a map has another number of x than of y");
  for (size_t i = 0; i < map.x.size(); ++i) {
    if (map.y[i] < 0 || map.y[i] > 1 || (i > 0 && (map.x[i] <= map.x[i - 1] || map.y[i] < map.y[i - 1])))
      return Bad(absl::StrCat("point ", i, " of a map does not rise, or lies outside 0 to 1"));
  }
  return map;
}

absl::StatusOr<PerspectiveCalibration> PerspectivesAt(const Json& json) {
  if (!json.is_object()) return Bad("a kind of perspectives is no object");
  PerspectiveCalibration c;
  absl::StatusOr<float> number = NumberAt(json, "temperature", 0.01f, 100.0f);
  if (!number.ok()) return number.status();
  c.temperature = *number;
  number = NumberAt(json, "tau", 0.0f, 1.0f);
  if (!number.ok()) return number.status();
  c.tau = *number;
  number = NumberAt(json, "own_weight", 0.0f, 1.0f);
  if (!number.ok()) return number.status();
  c.own_weight = *number;
  const absl::StatusOr<std::vector<float>> coefficients = NumbersAt(json, "coefficients");
  if (!coefficients.ok()) return coefficients.status();
  if (coefficients->size() != c.coefficients.size()) return Bad("coefficients are not four");
  std::copy(coefficients->begin(), coefficients->end(), c.coefficients.begin());
  absl::StatusOr<MonotoneMap> map = MapAt(json);
  if (!map.ok()) return map.status();
  c.map = *std::move(map);
  return c;
}

std::array<float, 4> ConfidenceFeatures(float largest, float disagreement, int agreeing) {
  const float p = std::clamp(largest, kLeastProbability, 1.0f - kLeastProbability);
  return {1.0f, kernels::Log(p) - kernels::Log(1.0f - p), disagreement,
          static_cast<float>(agreeing) / static_cast<float>(kPerspectives)};
}

}  // namespace

float MonotoneMap::At(float value) const {
  if (x.empty()) return value;
  const auto above = static_cast<size_t>(std::upper_bound(x.begin(), x.end(), value) - x.begin());
  if (above == 0) return y.front();
  if (above == x.size()) return y.back();
  const float share = (value - x[above - 1]) / (x[above] - x[above - 1]);
  return y[above - 1] + share * (y[above] - y[above - 1]);
}

MonotoneMap FitIsotonic(std::span<const float> scores, std::span<const uint8_t> right, int64_t groups) {
  struct Block {
    double scores = 0, right = 0, count = 0;
    double y() const { return right / count; }
  };
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  std::vector<Block> blocks;
  const size_t n = order.size(), wanted = std::min(n, static_cast<size_t>(groups));
  for (size_t g = 0, next = 0; g < wanted; ++g) {
    Block block;
    for (const size_t end = n * (g + 1) / wanted; next < end; ++next) {
      block.scores += static_cast<double>(scores[order[next]]);
      block.right += right[order[next]];
      block.count += 1;
    }
    blocks.push_back(block);
    while (blocks.size() > 1 && blocks[blocks.size() - 2].y() >= blocks.back().y()) {
      const Block last = blocks.back();
      blocks.pop_back();
      blocks.back().scores += last.scores;
      blocks.back().right += last.right;
      blocks.back().count += last.count;
    }
  }
  MonotoneMap map;
  for (const Block& block : blocks) {
    const auto x = static_cast<float>(block.scores / block.count);
    const auto y = static_cast<float>(block.y());
    if (!map.x.empty() && x <= map.x.back()) continue;  // equal scores that groups cut apart
    map.x.push_back(x);
    map.y.push_back(y);
  }
  return map;
}

std::string ToJson(const Calibration& c) {
  Json json = {{"format", kFormat},  {"version", kVersion},          {"model_hash", c.model_hash},
               {"tokens", c.tokens}, {"temperature", c.temperature}, {"map", ToJson(c.map)}};
  if (c.near.has_value()) json["near"] = ToJson(*c.near);
  if (c.far.has_value()) json["far"] = ToJson(*c.far);
  return JsonText(json, 1) + "\n";
}

absl::StatusOr<Calibration> CalibrationFromJson(std::string_view text, std::string_view model_hash) {
  const absl::StatusOr<Json> json = ParseJson<Json>(text);
  if (!json.ok()) return Bad(absl::StrCat("the text ", json.status().message()));
  if (!json->is_object() || json->value("format", Json()) != kFormat) return Bad("it is no calibration");
  if (json->value("version", Json()) != kVersion)
    return Bad(absl::StrCat("its version is another than ", kVersion));
  Calibration c;
  c.model_hash = model_hash;
  if (json->value("model_hash", Json()) != c.model_hash)
    return Bad(absl::StrCat("it was fitted to another model than ", c.model_hash));
  const absl::StatusOr<float> tokens = NumberAt(*json, "tokens", 1, 1e15f);
  if (!tokens.ok()) return tokens.status();
  c.tokens = json->at("tokens").get<int64_t>();
  const absl::StatusOr<float> temperature = NumberAt(*json, "temperature", 0.01f, 100.0f);
  if (!temperature.ok()) return temperature.status();
  c.temperature = *temperature;
  absl::StatusOr<MonotoneMap> map = MapAt(*json);
  if (!map.ok()) return map.status();
  c.map = *std::move(map);
  for (auto [key, to] : {std::pair("near", &c.near), std::pair("far", &c.far)}) {
    const auto at = json->find(key);
    if (at == json->end()) continue;
    absl::StatusOr<PerspectiveCalibration> read = PerspectivesAt(*at);
    if (!read.ok()) return read.status();
    *to = *std::move(read);
  }
  return c;
}

absl::StatusOr<std::optional<Calibration>> ReadCalibration(const std::string& model_directory,
                                                           std::string_view model_hash) {
  const std::string path = absl::StrCat(model_directory, "/", std::string(kCalibrationFile));
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return std::nullopt;
  const absl::StatusOr<std::string> text = ReadText(path);
  if (!text.ok()) return text.status();
  absl::StatusOr<Calibration> calibration = CalibrationFromJson(*text, model_hash);
  if (!calibration.ok()) {
    return absl::Status(calibration.status().code(),
                        absl::StrCat(path, ": ", calibration.status().message()));
  }
  return *std::move(calibration);
}

absl::Status WriteCalibration(const std::string& model_directory, const Calibration& calibration) {
  return ReplaceFile(absl::StrCat(model_directory, "/", std::string(kCalibrationFile)), ToJson(calibration));
}

float TauOf(const PerspectiveSettings& settings, const Calibration* calibration) {
  if (settings.tau.has_value()) return *settings.tau;
  if (calibration != nullptr && calibration->Of(settings.kind).has_value())
    return calibration->Of(settings.kind)->tau;
  return PerspectiveCalibration().tau;
}

float OwnConfidence(const Calibration* calibration, const kernels::Ops& ops, std::span<const float> logits) {
  // The largest of e is exp(0), and so the largest probability 1 / sum.
  std::vector<float> scaled(logits.begin(), logits.end()), e(logits.size());
  if (calibration != nullptr) {
    for (float& logit : scaled) logit *= 1.0f / calibration->temperature;
  }
  float max = 0;
  const float largest =
      1.0f / ops.exp_sum(scaled.data(), static_cast<int64_t>(scaled.size()), e.data(), &max);
  return calibration == nullptr ? largest : calibration->map.At(largest);
}

Mixture MixPerspectives(const PerspectiveCalibration& calibration, const kernels::Ops& ops,
                        std::span<const std::span<const float>> logits, float disagreement,
                        WorkerPool* pool) {
  std::vector<std::vector<float>> p(logits.size());
  std::vector<float> weights(logits.size(),
                             (1.0f - calibration.own_weight) / static_cast<float>(logits.size() - 1));
  weights[0] = calibration.own_weight;
  std::vector<int64_t> largest(logits.size());
  ForEachOn(pool, logits.size(), [&](size_t i) {
    p[i].resize(logits[i].size());
    Softmax(ops, logits[i], 1.0f / calibration.temperature, p[i]);
    largest[i] = ArgMax(p[i]);
  });
  Mixture mixture;
  mixture.p.resize(logits[0].size());
  Mix(p, weights, mixture.p);
  const int64_t likeliest = ArgMax(mixture.p);
  mixture.likeliest = TokenId(static_cast<int32_t>(likeliest));
  const auto agreeing = static_cast<int>(std::count(largest.begin(), largest.end(), likeliest));
  mixture.features = ConfidenceFeatures(mixture.p[static_cast<size_t>(likeliest)], disagreement, agreeing);
  float sum = 0;
  for (size_t i = 0; i < mixture.features.size(); ++i)
    sum += calibration.coefficients[i] * mixture.features[i];
  mixture.score = kernels::Sigmoid(sum);
  mixture.confidence = calibration.map.At(mixture.score);
  return mixture;
}

float PerspectiveConfidence(const Calibration* calibration, PerspectiveKind kind, const kernels::Ops& ops,
                            std::span<const std::span<const float>> logits, float disagreement, float tau,
                            WorkerPool* pool) {
  if (calibration != nullptr && calibration->Of(kind).has_value())
    return MixPerspectives(*calibration->Of(kind), ops, logits, disagreement, pool).confidence;
  const Mixture average = MixPerspectives(PerspectiveCalibration(), ops, logits, disagreement, pool);
  return tau > 0 ? average.p[average.likeliest.index()] * std::max(0.0f, 1.0f - disagreement / tau) : 0.0f;
}

}  // namespace omni
