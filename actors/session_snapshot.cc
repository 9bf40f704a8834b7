#include "actors/session_snapshot.h"

#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>
#include <xxhash.h>
#include <nlohmann/json.hpp>

#include "engine/base/json.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'T', 'A', 'L', 'K'};
constexpr uint32_t kVersion = 1;
constexpr size_t kHeadBytes =
    sizeof kMagic + 4 + 8 + 8;  // magic, version, bytes of the JSON and of the state
constexpr size_t kSumBytes = 8;

template <typename T>
void Put(std::string* to, T value) {
  to->append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T Get(std::string_view from, size_t at) {
  T value;
  std::memcpy(&value, from.data() + at, sizeof value);
  return value;
}

// Stop strings are bytes, JSON is text: two hex digits a byte.
std::string ToHex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (unsigned char c : bytes) {
    hex += kDigits[c >> 4];
    hex += kDigits[c & 15];
  }
  return hex;
}

bool FromHex(const std::string& hex, std::string* bytes) {
  if (hex.size() % 2 != 0) return false;
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  for (size_t i = 0; i < hex.size(); i += 2) {
    for (char c : {hex[i], hex[i + 1]}) {
      if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f')) return false;
    }
    *bytes += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  }
  return true;
}

Json ToJson(const SessionSnapshot& snapshot, std::string_view model_hash) {
  const GenerateRequest& r = snapshot.request;
  Json tokens = Json::array(), stops = Json::array();
  for (TokenId t : snapshot.tokens) tokens.push_back(t.value);
  for (const std::string& stop : r.stops) stops.push_back(ToHex(stop));
  Json json = {{"model", std::string(model_hash)},
               {"tokens", std::move(tokens)},
               {"generated", snapshot.generated},
               {"max_tokens", r.max_tokens},
               {"stops", std::move(stops)},
               {"stop_at_end_of_text", r.stop_at_end_of_text},
               {"keep", r.keep},
               {"alternatives", r.alternatives},
               {"routes", r.routes},
               {"temperature", r.sampler.temperature},
               {"top_k", r.sampler.top_k},
               {"top_p", r.sampler.top_p},
               {"min_p", r.sampler.min_p},
               {"repetition_penalty", r.sampler.repetition_penalty},
               {"repetition_window", r.sampler.repetition_window},
               {"seed", r.sampler.seed}};
  if (r.perspectives.has_value()) json["perspectives"] = PerspectiveText(*r.perspectives);
  if (r.context_memory) json["context_memory"] = true;
  if (!r.memory.scope.empty()) json["memory"] = {{"scope", r.memory.scope}, {"version", r.memory.version}};
  if (!r.safety.polytope.empty()) json["safety"] = {{"polytope", r.safety.polytope}, {"hash", r.safety.hash}};
  if (!r.adapter.name.empty()) json["adapter"] = {{"name", r.adapter.name}, {"hash", r.adapter.hash}};
  return json;
}

absl::Status Bad(std::string_view what) {
  return absl::DataLossError(absl::StrCat("saved session: ", absl::string_view(what.data(), what.size()),
                                          "; it cannot be gone on with"));
}

// Throws Json::exception for a field of another type, which Restore turns into an error.
absl::Status FromJson(const Json& json, const ModelConfig& config, SessionSnapshot* snapshot) {
  GenerateRequest& r = snapshot->request;
  for (const Json& token : json.at("tokens")) {
    const auto value = token.get<int64_t>();
    if (value < 0 || value >= config.vocab) return Bad("a token is outside the vocabulary");
    snapshot->tokens.push_back(TokenId(static_cast<int32_t>(value)));
  }
  snapshot->generated = json.at("generated").get<int64_t>();
  r.max_tokens = json.at("max_tokens").get<int64_t>();
  for (const Json& stop : json.at("stops")) {
    std::string bytes;
    if (!FromHex(stop.get<std::string>(), &bytes) || bytes.empty()) return Bad("a stop string is damaged");
    r.stops.push_back(std::move(bytes));
  }
  r.stop_at_end_of_text = json.at("stop_at_end_of_text").get<bool>();
  r.keep = json.at("keep").get<bool>();
  const auto alternatives = json.value("alternatives", int64_t{0});
  if (alternatives < 0 || alternatives > kMostAlternatives)
    return Bad("its number of alternatives is out of range");
  r.alternatives = static_cast<int32_t>(alternatives);
  r.routes = json.value("routes", false);
  if (const auto perspectives = json.find("perspectives"); perspectives != json.end()) {
    const absl::StatusOr<PerspectiveSettings> read = ParsePerspectives(perspectives->get<std::string>());
    if (!read.ok()) return Bad("its perspectives cannot be read");
    r.perspectives = *read;
  }
  r.context_memory = json.value("context_memory", false);
  if (const auto memory = json.find("memory"); memory != json.end()) {
    r.memory.scope = memory->at("scope").get<std::string>();
    r.memory.version = memory->at("version").get<std::string>();
    if (r.memory.scope.empty()) return Bad("its memory has no scope");
  }
  if (const auto safety = json.find("safety"); safety != json.end()) {
    r.safety.polytope = safety->at("polytope").get<std::string>();
    r.safety.hash = safety->at("hash").get<std::string>();
    if (r.safety.polytope.empty()) return Bad("its polytope has no name");
  }
  if (const auto adapter = json.find("adapter"); adapter != json.end()) {
    r.adapter.name = adapter->at("name").get<std::string>();
    r.adapter.hash = adapter->at("hash").get<std::string>();
    if (r.adapter.name.empty() || r.adapter.hash.empty()) return Bad("its adapter has no name or hash");
  }
  r.sampler.temperature = json.at("temperature").get<float>();
  r.sampler.top_k = json.at("top_k").get<int32_t>();
  r.sampler.top_p = json.at("top_p").get<float>();
  r.sampler.min_p = json.at("min_p").get<float>();
  r.sampler.repetition_penalty = json.at("repetition_penalty").get<float>();
  r.sampler.repetition_window = json.at("repetition_window").get<int32_t>();
  r.sampler.seed = json.at("seed").get<uint64_t>();
  const auto tokens = static_cast<int64_t>(snapshot->tokens.size());
  const int64_t seen = snapshot->state.position();
  if (snapshot->generated < 0 || snapshot->generated >= tokens || seen >= tokens || r.max_tokens < 1) {
    return Bad("its counts do not fit each other");
  }
  return Validate(r.sampler);
}

}  // namespace

SessionSnapshot SessionSnapshot::Clone() const {
  return {request, tokens, generated, state.Clone(), contexts};
}

std::string SessionSnapshot::Save(std::string_view model_hash) const {
  const std::string json = ToJson(*this, model_hash).dump(-1, ' ', true, Json::error_handler_t::replace);
  const std::string state_bytes = state.Save();
  std::string bytes(kMagic, sizeof kMagic);
  Put(&bytes, kVersion);
  Put<uint64_t>(&bytes, json.size());
  Put<uint64_t>(&bytes, state_bytes.size());
  bytes += json;
  bytes += state_bytes;
  Put<uint64_t>(&bytes, XXH3_64bits(bytes.data(), bytes.size()));
  return bytes;
}

absl::StatusOr<SessionSnapshot> SessionSnapshot::Restore(const ModelConfig& config,
                                                         std::string_view model_hash,
                                                         std::string_view bytes) {
  if (bytes.size() < kHeadBytes + kSumBytes || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0)
    return Bad("these are not its bytes");
  const auto version = Get<uint32_t>(bytes, sizeof kMagic);
  if (version != kVersion)
    return Bad(absl::StrCat("of version ", version, ", this program knows ", kVersion));
  const auto json_bytes = Get<uint64_t>(bytes, sizeof kMagic + 4);
  const auto state_bytes = Get<uint64_t>(bytes, sizeof kMagic + 12);
  const size_t rest = bytes.size() - kHeadBytes - kSumBytes;
  if (json_bytes > rest || state_bytes != rest - json_bytes) return Bad("cut or of the wrong length");
  if (XXH3_64bits(bytes.data(), bytes.size() - kSumBytes) != Get<uint64_t>(bytes, bytes.size() - kSumBytes)) {
    return Bad("its checksum fails");
  }
  const absl::StatusOr<Json> json = ParseJson<Json>(std::string(bytes.substr(kHeadBytes, json_bytes)));
  if (!json.ok() || !json->is_object()) return Bad("its settings cannot be read");
  try {
    const auto made_with = json->at("model").get<std::string>();
    if (made_with != model_hash) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the saved session belongs to the model ", made_with, ", this is ",
          absl::string_view(model_hash.data(), model_hash.size()), "; go on with the model that began it"));
    }
    absl::StatusOr<SessionState> state =
        SessionState::Restore(config, std::string(bytes.substr(kHeadBytes + json_bytes, state_bytes)));
    if (!state.ok()) return state.status();
    SessionSnapshot snapshot{{}, {}, 0, *std::move(state), nullptr};
    if (absl::Status s = FromJson(*json, config, &snapshot); !s.ok()) return s;
    return snapshot;
  } catch (const Json::exception&) {
    return Bad("a setting is missing or of another kind");
  }
}

}  // namespace omni
