#include "engine/around/perspectives.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include <absl/strings/str_cat.h>

#include "engine/around/distribution.h"
#include "engine/base/quoted.h"
#include "engine/base/splitmix.h"
#include "engine/decode/router.h"

namespace omni {
namespace {

constexpr std::string_view kUses[] = {"confidence", "majority", "average"};
constexpr std::string_view kAllowed =
    "near or far, then any of ,use=confidence|majority|average ,every=N ,examine=N ,below=P ,above=NATS "
    ",tau=NATS";

absl::Status Wrong(std::string_view text, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("perspectives ", Quoted(text), ": ", std::string(what),
                                                 "; it may be ", std::string(kAllowed)));
}

template <typename T>
std::optional<T> NumberFrom(std::string_view text, T low, T high) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= low) || !(value <= high))
    return std::nullopt;
  return value;
}

// The nearest expert that is not `other`; in a model whose members are fixed, of another region.
ExpertId SecondNearest(const RouteChoice& c, ExpertId other, bool by_region) {
  float best = std::numeric_limits<float>::infinity();
  ExpertId second = other;
  for (int32_t e = 0; e < c.experts; ++e) {
    const ExpertId expert(e);
    if (by_region ? c.config->RegionOf(expert) == c.config->RegionOf(other) : expert == other) continue;
    float distance = TorusDistanceSquared(c.point, c.positions + 3 * e);
    if (c.bias != nullptr) distance = distance - c.bias[e];
    if (distance < best) {
      best = distance;
      second = expert;
    }
  }
  return second;
}

ExpertId NearestTo(const RouteChoice& c, const TorusPoint& z) {
  return NearestExpert(z, c.positions, c.bias, c.experts);
}

}  // namespace

absl::StatusOr<PerspectiveSettings> ParsePerspectives(std::string_view text) {
  PerspectiveSettings settings;
  std::string_view rest = text;
  const auto next = [&rest] {
    const size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view part = rest.substr(0, comma);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    return part;
  };
  const bool trailing_comma = text.ends_with(',');
  if (const std::string_view kind = next(); kind == "near" || kind == "far") {
    settings.kind = kind == "near" ? PerspectiveKind::kNear : PerspectiveKind::kFar;
  } else {
    return Wrong(text, "it begins with neither near nor far");
  }
  if (trailing_comma) return Wrong(text, "it ends with a comma");
  while (!rest.empty()) {
    const std::string_view part = next();
    const size_t equals = part.find('=');
    const std::string_view name = part.substr(0, equals);
    const std::string_view value = equals == part.npos ? std::string_view() : part.substr(equals + 1);
    bool good = false;
    const auto whole = [&](int64_t* to) {
      const auto number = NumberFrom<int64_t>(value, 0, int64_t{1} << 40);
      if (number.has_value()) *to = *number;
      good = number.has_value();
    };
    const auto real = [&](float* to, float high) {
      const auto number = NumberFrom<float>(value, 0.0f, high);
      if (number.has_value()) *to = *number;
      good = number.has_value();
    };
    if (name == "use") {
      const auto* const use = std::find(std::begin(kUses), std::end(kUses), value);
      good = use != std::end(kUses);
      if (good) settings.use = static_cast<PerspectiveUse>(use - std::begin(kUses));
    } else if (name == "every") {
      whole(&settings.every);
    } else if (name == "examine") {
      whole(&settings.examine);
    } else if (name == "below") {
      real(&settings.below, 1.0f);
    } else if (name == "above") {
      real(&settings.above, 100.0f);
    } else if (name == "tau") {
      real(&settings.tau.emplace(), 1.0f);
    }
    if (!good) return Wrong(text, absl::StrCat("there is something wrong with ", Quoted(part)));
  }
  if (settings.every == 0 && settings.examine == 0)
    return Wrong(text, "with every=0 and examine=0 no token is ever looked at");
  return settings;
}

const char* PerspectiveKindName(PerspectiveKind kind) {
  return kind == PerspectiveKind::kNear ? "near" : "far";
}

std::string PerspectiveText(const PerspectiveSettings& s) {
  const auto shortest = [](float value) {
    char text[32];
    return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
  };
  return absl::StrCat(PerspectiveKindName(s.kind), ",use=", std::string(kUses[static_cast<size_t>(s.use)]),
                      ",every=", s.every, ",examine=", s.examine, ",below=", shortest(s.below),
                      ",above=", shortest(s.above), s.tau.has_value() ? ",tau=" + shortest(*s.tau) : "");
}

bool DueAt(const PerspectiveSettings& settings, int64_t position) {
  return settings.every > 0 && position % settings.every == 0;
}

bool ExaminedAt(const PerspectiveSettings& settings, int64_t position) {
  return settings.examine > 0 && position % settings.examine == 0;
}

bool Uncertain(const PerspectiveSettings& settings, const kernels::Ops& ops, std::span<const float> logits) {
  std::vector<float> p(logits.size());
  Softmax(ops, logits, 1.0f, p);
  return *std::max_element(p.begin(), p.end()) < settings.below || Entropy(ops, p) > settings.above;
}

ExpertId PerspectiveRoute::Choose(const RouteChoice& c) {
  const ModelConfig& config = *c.config;
  const bool by_region = config.route_from == RouteFrom::kAddress;
  ExpertId chosen = c.nearest;
  if (kind_ == PerspectiveKind::kNear) {
    TorusPoint z = c.point;
    const auto axis = static_cast<size_t>(which_ - 1);
    const int64_t step = by_region ? config.region[axis] : 1;
    z[axis] = Frac(z[axis] + static_cast<float>(step) / static_cast<float>(config.lattice[axis]));
    chosen = NearestTo(c, z);
  } else if (which_ == 1) {
    chosen = SecondNearest(c, c.nearest, by_region);
  } else if (which_ == 2) {
    const float* at = c.positions + 3 * static_cast<int64_t>(c.nearest.value);
    chosen = NearestTo(c, {Frac(at[0] + 0.5f), Frac(at[1] + 0.5f), Frac(at[2] + 0.5f)});
  } else {
    const uint64_t of_position = CounterRandom(seed_, static_cast<uint64_t>(c.position));
    const uint64_t number = CounterRandom(of_position, static_cast<uint64_t>(c.layer.value));
    chosen = ExpertId(static_cast<int32_t>(number % static_cast<uint64_t>(c.experts)));
  }
  return by_region ? config.ExpertOf(config.RegionOf(chosen), config.IndexInRegion(c.nearest)) : chosen;
}

std::array<PerspectiveRoute, kPerspectives - 1> PerspectiveRoutes(PerspectiveKind kind, uint64_t seed) {
  return {PerspectiveRoute(kind, 1, seed), PerspectiveRoute(kind, 2, seed), PerspectiveRoute(kind, 3, seed)};
}

Judgement Judge(const PerspectiveSettings& settings, const kernels::Ops& ops,
                std::span<const std::span<const float>> logits, std::span<const TokenId> history,
                const SamplerSettings& sampler, float tau, WorkerPool* pool) {
  std::vector<std::vector<float>> p(logits.size());
  std::vector<TokenId> named(logits.size());
  ForEachOn(pool, logits.size(), [&](size_t i) {
    p[i].resize(logits[i].size());
    Softmax(ops, logits[i], 1.0f, p[i]);
    named[i] = Sample(logits[i], history, history.size(), sampler).token;
  });
  Judgement judgement;
  PerspectiveVerdict& verdict = judgement.verdict;
  verdict.disagreement = Disagreement(ops, p, pool);
  verdict.disagree = verdict.disagreement >= tau;
  verdict.token = named[0];
  const auto votes = [&named](TokenId token) {
    return static_cast<int>(std::count(named.begin(), named.end(), token));
  };
  int most = 0;
  TokenId favourite = named[0];
  for (TokenId token : named) {
    if (votes(token) <= most) continue;
    most = votes(token);
    favourite = token;
  }
  verdict.uncertain = verdict.disagree && most < 2;
  if (settings.use == PerspectiveUse::kMajority && verdict.disagree && most >= 2) verdict.token = favourite;
  if (settings.use == PerspectiveUse::kAverage) {
    const std::vector<float> equal(p.size(), 1.0f / static_cast<float>(p.size()));
    std::vector<float> mixed(p[0].size());
    Mix(p, equal, mixed);
    ops.log(mixed.data(), static_cast<int64_t>(mixed.size()), mixed.data());
    verdict.token = Sample(mixed, history, history.size(), sampler).token;
    judgement.average = std::move(mixed);
  }
  verdict.votes = votes(verdict.token);
  verdict.changed = verdict.token != named[0];
  verdict.probability = p[0][verdict.token.index()];
  return judgement;
}

}  // namespace omni
