#include "engine/model/config.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>
#include <utility>

#include "engine/base/json.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr const char* kAxis[3] = {"x", "y", "z"};
constexpr int64_t kMaxExperts = 65536;
constexpr double kMaxParameters = 1125899906842624.0;  // 2^50, a thousand times the design target

absl::Status Bad(absl::string_view field, absl::string_view value, absl::string_view limit) {
  return absl::InvalidArgumentError(
      absl::StrCat("model config: ", field, " is ", value, "; it must be ", limit));
}

absl::Status InRange(absl::string_view field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return Bad(field, absl::StrCat(value), absl::StrCat("in [", min, ", ", max, "]"));
}

absl::Status ValidateName(const std::string& name) {
  const bool plain = name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") == std::string::npos;
  if (!name.empty() && name.size() <= 64 && plain) return absl::OkStatus();
  return Bad("preset", absl::StrCat("a name of ", name.size(), " bytes"),
             "1 to 64 of the characters a-z, 0-9, '-', '_' and '.'");
}

absl::Status ValidateRanges(const ModelConfig& c) {
  const struct {
    const char* field;
    int64_t value, min, max;
  } ranges[] = {
      {"layers", c.layers, 1, 1024},
      {"attention_period", c.attention_period, 1, 1024},
      {"d", c.d, 2, 65536},
      {"r", c.r, 1, 65536},
      {"f", c.f, 1, int64_t{1} << 20},
      {"heads", c.heads, 1, 65536},
      {"kv_heads", c.kv_heads, 1, 65536},
      {"window", c.window, 1, int64_t{1} << 20},
      {"vocab", c.vocab, 257, int64_t{1} << 24},
      {"base_neurons", c.base_neurons, 0, int64_t{1} << 20},
      {"member_neurons", c.member_neurons, 0, int64_t{1} << 20},
      {"own_neurons", c.own_neurons, 0, int64_t{1} << 20},
      {"state_norm_period", c.state_norm_period, 1, int64_t{1} << 40},
  };
  for (const auto& r : ranges) {
    if (absl::Status s = InRange(r.field, r.value, r.min, r.max); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status ValidateLattice(const ModelConfig& c) {
  int64_t experts = 1;
  for (int axis = 0; axis < 3; ++axis) {
    const std::string lattice = absl::StrCat("lattice.", kAxis[axis]);
    const std::string region = absl::StrCat("region.", kAxis[axis]);
    if (absl::Status s = InRange(lattice, c.lattice[axis], 1, kMaxExperts); !s.ok()) return s;
    if (absl::Status s = InRange(region, c.region[axis], 1, kMaxExperts); !s.ok()) return s;
    if (c.lattice[axis] % c.region[axis] != 0) {
      return Bad(region, absl::StrCat(c.region[axis]),
                 absl::StrCat("a divisor of ", lattice, " = ", c.lattice[axis]));
    }
    experts *= c.lattice[axis];
    if (experts > kMaxExperts) {
      return Bad("lattice", absl::StrCat(c.lattice[0], "x", c.lattice[1], "x", c.lattice[2]),
                 absl::StrCat("of at most ", kMaxExperts, " experts"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateShape(const ModelConfig& c) {
  if (c.d % c.heads != 0) return Bad("heads", absl::StrCat(c.heads), absl::StrCat("a divisor of d = ", c.d));
  if (c.head_dim() % 2 != 0) {
    return Bad("heads", absl::StrCat(c.heads), absl::StrCat("such that d / heads is even, and d is ", c.d));
  }
  if (c.heads % c.kv_heads != 0) {
    return Bad("kv_heads", absl::StrCat(c.kv_heads), absl::StrCat("a divisor of heads = ", c.heads));
  }
  return absl::OkStatus();
}

absl::Status ValidateGroups(const ModelConfig& c) {
  const struct {
    const char* field;
    int64_t neurons;
  } groups[] = {
      {"base_neurons", c.base_neurons}, {"member_neurons", c.member_neurons}, {"own_neurons", c.own_neurons}};
  int64_t sum = 0;
  for (const auto& group : groups) {
    sum += group.neurons;
    if (sum <= c.f) continue;
    return Bad(group.field, absl::StrCat(group.neurons),
               absl::StrCat("such that no more than f = ", c.f, " neurons belong to groups"));
  }
  if (c.own_neurons != 0 && (c.f - c.own_neurons) % 64 != 0) {
    return Bad("own_neurons", absl::StrCat(c.own_neurons),
               absl::StrCat("0, or such that f - own_neurons is a multiple of 64, and f is ", c.f));
  }
  // Where each group but the first begins: a tile belongs to one group.
  const int64_t region = c.base_neurons, member = region + c.region_neurons();
  if (region < c.f && region % 64 != 0)
    return Bad("base_neurons", absl::StrCat(region), "f, or a multiple of 64");
  if (c.member_neurons != 0 && member % 64 != 0) {
    return Bad(
        "member_neurons", absl::StrCat(c.member_neurons),
        absl::StrCat("0, or such that base and region neurons, here ", member, ", are a multiple of 64"));
  }
  return absl::OkStatus();
}

absl::Status ValidateRoutes(const ModelConfig& c) {
  if (!c.has_slow_state()) {
    if (c.slow_rate == 0.0f) return absl::OkStatus();
    return Bad("slow_rate", absl::StrCat(c.slow_rate), "0 where route_from is token");
  }
  if (!(c.slow_rate > 0.0f && c.slow_rate <= 1.0f))
    return Bad("slow_rate", absl::StrCat(c.slow_rate), "in (0, 1]");
  if (c.route_from == RouteFrom::kAddress && c.experts_per_region() > 256) {
    return Bad("region", absl::StrCat(c.experts_per_region(), " experts"),
               "of at most 256 experts where route_from is address");
  }
  return absl::OkStatus();
}

absl::Status ValidateReals(const ModelConfig& c) {
  if (!(c.decay_floor >= -80.0f && c.decay_floor < 0.0f)) {
    return Bad("decay_floor", absl::StrCat(c.decay_floor), "in [-80, 0)");
  }
  if (!(c.rope_theta > 1.0 && c.rope_theta <= 1e12)) {
    return Bad("rope_theta", absl::StrCat(c.rope_theta), "in (1, 1e12]");
  }
  return absl::OkStatus();
}

absl::Status ValidateSize(const ModelConfig& c) {
  const double d = static_cast<double>(c.d), f = static_cast<double>(c.f), r = static_cast<double>(c.r);
  const double layer = 4 * d * d + 2 * r * d + 3 * d * f * static_cast<double>(c.num_experts());
  const double bound = static_cast<double>(c.layers) * layer + static_cast<double>(c.vocab) * d;
  if (bound <= kMaxParameters) return absl::OkStatus();
  return Bad("the number of parameters", absl::StrCat("about ", bound),
             absl::StrCat("at most ", kMaxParameters));
}

using Json = nlohmann::ordered_json;

// The one list of the file's keys, in the file's order.
template <typename Config, typename Fn>
void VisitFields(Config& c, Fn&& fn) {
  fn("preset", c.preset);
  fn("layers", c.layers);
  fn("attention_period", c.attention_period);
  fn("d", c.d);
  fn("r", c.r);
  fn("f", c.f);
  fn("heads", c.heads);
  fn("kv_heads", c.kv_heads);
  fn("window", c.window);
  fn("vocab", c.vocab);
  fn("lattice", c.lattice);
  fn("region", c.region);
  fn("own_neurons", c.own_neurons);
  fn("key_scale", c.key_scale);
  fn("readout_norm", c.readout_norm);
  fn("decay_floor", c.decay_floor);
  fn("state_norm_period", c.state_norm_period);
  fn("rope_theta", c.rope_theta);
}

// Those that format 2 adds.
template <typename Config, typename Fn>
void VisitFormat2(Config& c, Fn&& fn) {
  fn("route_from", c.route_from);
  fn("slow_rate", c.slow_rate);
  fn("route_bias", c.route_bias);
  fn("base_neurons", c.base_neurons);
  fn("member_neurons", c.member_neurons);
}

constexpr std::pair<RouteFrom, const char*> kRouteFrom[] = {
    {RouteFrom::kToken, "token"}, {RouteFrom::kAhead, "ahead"}, {RouteFrom::kAddress, "address"}};

std::string NameOf(RouteFrom value) {
  for (const auto& [route_from, name] : kRouteFrom) {
    if (route_from == value) return name;
  }
  return "";
}

template <typename T>
const T& Written(const T& value) {
  return value;
}
std::string Written(RouteFrom value) { return NameOf(value); }

absl::Status Take(const Json& value, const char* key, int64_t* out) {
  // Beyond int64 nlohmann holds the number as unsigned.
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX)) {
    return Bad(key, "of another type", "a whole number");
  }
  *out = value.get<int64_t>();
  return absl::OkStatus();
}

absl::Status Take(const Json& value, const char* key, double* out) {
  if (!value.is_number()) return Bad(key, "of another type", "a number");
  *out = value.get<double>();
  return absl::OkStatus();
}

absl::Status Take(const Json& value, const char* key, float* out) {
  double wide = 0;
  if (absl::Status s = Take(value, key, &wide); !s.ok()) return s;
  if (!(std::fabs(wide) <= 1e30)) return Bad(key, absl::StrCat(wide), "within float's range");
  *out = static_cast<float>(wide);
  return absl::OkStatus();
}

absl::Status Take(const Json& value, const char* key, bool* out) {
  if (!value.is_boolean()) return Bad(key, "of another type", "true or false");
  *out = value.get<bool>();
  return absl::OkStatus();
}

absl::Status Take(const Json& value, const char* key, std::string* out) {
  if (!value.is_string()) return Bad(key, "of another type", "a string");
  *out = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status Take(const Json& value, const char* key, RouteFrom* out) {
  for (const auto& [route_from, name] : kRouteFrom) {
    if (!value.is_string() || value.get_ref<const std::string&>() != name) continue;
    *out = route_from;
    return absl::OkStatus();
  }
  return Bad(key, "of another kind", "\"token\", \"ahead\" or \"address\"");
}

absl::Status Take(const Json& value, const char* key, std::array<int64_t, 3>* out) {
  if (!value.is_array() || value.size() != 3)
    return Bad(key, "of another type", "a list of three whole numbers");
  for (size_t i = 0; i < 3; ++i) {
    if (absl::Status s = Take(value[i], key, &(*out)[i]); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

int ModelConfig::format() const {
  const ModelConfig plain;
  const auto added = [](const ModelConfig& c) {
    return std::tie(c.route_from, c.slow_rate, c.route_bias, c.base_neurons, c.member_neurons);
  };
  return added(*this) == added(plain) ? 1 : 2;
}

RegionId ModelConfig::RegionOf(ExpertId e) const {
  const int64_t i = e.value % lattice[0], j = e.value / lattice[0] % lattice[1],
                k = e.value / lattice[0] / lattice[1];
  const int64_t blocks_x = lattice[0] / region[0], blocks_y = lattice[1] / region[1];
  return RegionId(
      static_cast<int32_t>(i / region[0] + blocks_x * (j / region[1] + blocks_y * (k / region[2]))));
}

ExpertId ModelConfig::ExpertOf(RegionId id, int64_t index) const {
  const int64_t blocks_x = lattice[0] / region[0], blocks_y = lattice[1] / region[1];
  const int64_t i = id.value % blocks_x * region[0] + index % region[0];
  const int64_t j = id.value / blocks_x % blocks_y * region[1] + index / region[0] % region[1];
  const int64_t k = id.value / blocks_x / blocks_y * region[2] + index / region[0] / region[1];
  return ExpertId(static_cast<int32_t>(i + lattice[0] * (j + lattice[1] * k)));
}

int64_t ModelConfig::IndexInRegion(ExpertId e) const {
  const int64_t i = e.value % lattice[0], j = e.value / lattice[0] % lattice[1],
                k = e.value / lattice[0] / lattice[1];
  return i % region[0] + region[0] * (j % region[1] + region[1] * (k % region[2]));
}

ParameterCount CountParameters(const ModelConfig& c) {
  int64_t attention_layers = 0;
  for (int64_t l = 0; l < c.layers; ++l) attention_layers += c.IsAttention(l);
  const int64_t pdr_layers = c.layers - attention_layers;
  ParameterCount n;
  n.pdr = pdr_layers * (3 * c.d * c.d + 2 * c.r * c.d);
  n.gqa = attention_layers * (2 * c.d * c.d + 2 * c.kv_heads * c.head_dim() * c.d);
  n.shared_ffn = attention_layers * 3 * c.d * c.f;
  n.embedding = c.vocab * c.d;
  n.router = pdr_layers * 3 * c.d;
  n.per_expert = pdr_layers * 3 * c.d * c.f;
  n.experts = c.num_experts() * n.per_expert;
  const int64_t norms = c.d * (2 * c.layers + 1 + (c.readout_norm ? pdr_layers : 0));
  n.norms_router = norms + pdr_layers * (c.d + (c.route_bias ? 4 : 3) * c.num_experts());
  return n;
}

std::vector<std::string> PresetNames() { return {"perspective-1t", "mini", "char", "tiny"}; }

absl::StatusOr<ModelConfig> Preset(const std::string& name) {
  ModelConfig c;
  c.preset = name;
  if (name == "perspective-1t") {
    c.layers = 80;
    c.d = 4096, c.r = 256, c.f = 11008;
    c.heads = 32, c.kv_heads = 8, c.window = 512;
    c.vocab = 32768;
    c.own_neurons = 1088;  // 17 of 172 tiles
    // Why so many of each: docs/decisions/0012-routes.md.
    c.route_from = RouteFrom::kAddress;
    c.slow_rate = 0.0625f;
    c.base_neurons = 27 * 64;
    c.member_neurons = 64 * 64;
  } else if (name == "mini" || name == "char") {
    c.layers = 8;
    c.d = 192, c.r = 32, c.f = 512;
    c.heads = 4, c.kv_heads = 2, c.window = 512;
    c.vocab = name == "mini" ? 4096 : 257;
    c.own_neurons = 64;
  } else if (name == "tiny") {
    c.layers = 4;
    c.d = 64, c.r = 16, c.f = 128;
    c.heads = 4, c.kv_heads = 2, c.window = 16;
    c.vocab = 300;
    c.own_neurons = 64;
  } else {
    return absl::NotFoundError(
        absl::StrCat("no preset is named '", name, "'; there are ", absl::StrJoin(PresetNames(), ", ")));
  }
  return c;
}

absl::Status Validate(const ModelConfig& c) {
  for (auto check : {ValidateRanges, ValidateLattice, ValidateShape, ValidateGroups, ValidateRoutes,
                     ValidateReals, ValidateSize}) {
    if (absl::Status s = check(c); !s.ok()) return s;
  }
  return ValidateName(c.preset);
}

std::string ToJson(const ModelConfig& c) {
  Json j = Json::object();
  const auto write = [&](const char* key, const auto& value) { j[key] = Written(value); };
  VisitFields(c, write);
  if (c.format() > 1) VisitFormat2(c, write);
  return j.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<ModelConfig> ConfigFromJson(const std::string& text) {
  const absl::StatusOr<Json> parsed = ParseJson<Json>(text);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("model config: the text ", parsed.status().message()));
  }
  const Json& j = *parsed;
  if (!j.is_object()) return absl::InvalidArgumentError("model config: the text is not a JSON object");
  std::set<std::string> unknown;
  for (auto it = j.begin(); it != j.end(); ++it) unknown.insert(it.key());
  ModelConfig c;
  absl::Status status;
  const auto read = [&](const char* key, auto& value) {
    unknown.erase(key);
    if (!status.ok()) return;
    const auto it = j.find(key);
    status = it == j.end()
                 ? absl::InvalidArgumentError(absl::StrCat("model config: key '", key, "' is missing"))
                 : Take(*it, key, &value);
  };
  VisitFields(c, read);
  bool format2 = false;
  VisitFormat2(c, [&](const char* key, const auto&) { format2 = format2 || j.contains(key); });
  if (format2) VisitFormat2(c, read);
  if (!status.ok()) return status;
  if (!unknown.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("model config: unknown key ", Quoted(*unknown.begin()),
                                                   "; remove it, or use a newer version of this program"));
  }
  if (status = Validate(c); !status.ok()) return status;
  return c;
}

}  // namespace omni
