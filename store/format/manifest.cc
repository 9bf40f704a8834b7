#include "store/format/manifest.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "engine/base/json.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr char kModelFormat[] = "omni-model";
constexpr char kDeltasFormat[] = "omni-deltas";
constexpr int64_t kNewestModel = 2;  // a model is of the lowest version that can say its config
constexpr int64_t kDeltasVersion = 1;
constexpr char kChecksumKey[] = "checksum";
constexpr size_t kMaxNameBytes = 255;
constexpr char kNoChecksum[] = "00000000000000000000000000000000";

std::string ChecksumField() { return absl::StrCat("\"", kChecksumKey, "\": \""); }

// The checksum is of the text with zeros in its own place, so that a reader needs no canonical JSON.
std::string Seal(Json j) {
  j[kChecksumKey] = kNoChecksum;
  std::string text = j.dump(2) + "\n";
  const std::string sum = ContentHash(text).Hex();
  text.replace(text.find(ChecksumField()) + ChecksumField().size(), sum.size(), sum);
  return text;
}

bool ChecksumHolds(std::string text) {
  const size_t field = text.find(ChecksumField());
  constexpr size_t kDigits = sizeof kNoChecksum - 1;
  if (field == std::string::npos || text.size() - field < ChecksumField().size() + kDigits) return false;
  const size_t at = field + ChecksumField().size();
  const std::string sum = text.substr(at, kDigits);
  text.replace(at, kDigits, kNoChecksum);
  return ContentHash(text).Hex() == sum;
}

absl::Status Damaged(const std::string& path, absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat(path, ": ", what, "; the file is damaged: copy it again or pack the model again"));
}

absl::StatusOr<Json> Unseal(const std::string& path, const std::string& text, const std::string& format,
                            int64_t newest) {
  absl::StatusOr<Json> parsed = ParseJson<Json>(text);
  if (!parsed.ok()) return Damaged(path, absl::StrCat("the text ", parsed.status().message()));
  const Json& j = *parsed;
  if (!j.is_object()) return Damaged(path, "not a JSON object");
  if (j.value("format", Json()) != Json(format)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": its \"format\" is not \"", format, "\"; this is not a packed model"));
  }
  const Json version = j.value("version", Json());
  if (!version.is_number_integer()) return Damaged(path, "\"version\" is not a number");
  if (version < Json(1) || version > Json(newest)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": format version ", version.dump(),
                                                      ", this program reads up to ", newest,
                                                      "; use a matching program or pack the model again"));
  }
  if (!ChecksumHolds(text)) return Damaged(path, "it fails its checksum");
  return parsed;
}

// What else a writer may have put in is not covered by the model hash, so nothing else may be there.
absl::Status CheckCanonical(const std::string& path, const std::string& text, const std::string& encoded) {
  if (text == encoded) return absl::OkStatus();
  return Damaged(path, "it is not written as this program writes it");
}

std::optional<Hash128> ParseHash(const Json& j) {
  if (!j.is_string()) return std::nullopt;
  Hash128 h;
  const std::string text = j.get<std::string>();
  if (text.size() != 32) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t digit = std::string_view("0123456789abcdef").find(text[i]);
    if (digit == std::string_view::npos) return std::nullopt;
    uint64_t& half = i < 16 ? h.high : h.low;
    half = half << 4 | digit;
  }
  return h;
}

bool ParseCount(const Json& j, const char* key, int64_t* value) {
  const auto it = j.find(key);
  if (it == j.end() || !it->is_number_unsigned() || it->get<uint64_t>() > INT64_MAX) return false;
  *value = it->get<int64_t>();
  return true;
}

// Names are joined to the directory's path and shown in messages: nothing may point out of it, or be more
// than a name.
bool IsFileName(const std::string& name) {
  const auto plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_' || c == '/';
  };
  return !name.empty() && name.size() <= kMaxNameBytes && name[0] != '/' &&
         name.find("..") == std::string::npos && std::all_of(name.begin(), name.end(), plain);
}

Json FilesJson(const FileTable& files) {
  Json out = Json::object();
  for (const auto& [name, digest] : files)
    out[name] = {{"bytes", digest.bytes}, {"xxh3_128", digest.hash.Hex()}};
  return out;
}

std::optional<FileTable> ParseFiles(const Json& j) {
  const auto it = j.find("files");
  if (it == j.end() || !it->is_object()) return std::nullopt;
  FileTable files;
  for (auto entry = it->begin(); entry != it->end(); ++entry) {
    FileDigest digest;
    if (!entry->is_object() || !ParseCount(*entry, "bytes", &digest.bytes)) return std::nullopt;
    const std::optional<Hash128> hash = ParseHash(entry->value("xxh3_128", Json()));
    if (!hash || !IsFileName(entry.key())) return std::nullopt;
    digest.hash = *hash;
    files[entry.key()] = digest;
  }
  return files;
}

}  // namespace

Hash128 Manifest::ModelHash() const {
  std::string text = absl::StrCat(kModelFormat, " ", config.format(), "\n");
  absl::StrAppend(&text, "config ", ContentHash(Json::parse(ToJson(config)).dump()).Hex(), "\n");
  for (const auto& [name, digest] : files) absl::StrAppend(&text, name, " ", digest.hash.Hex(), "\n");
  absl::StrAppend(&text, "deltas ", delta_digest.Hex(), "\n");
  return ContentHash(text);
}

std::string Manifest::Encode() const {
  Json j;
  j["format"] = kModelFormat;
  j["version"] = config.format();
  j["model_hash"] = ModelHash().Hex();
  j["config"] = Json::parse(ToJson(config));
  j["files"] = FilesJson(files);
  j["deltas"] = {{"keys", delta_keys}, {"xxh3_128", delta_digest.Hex()}};
  j["pack"] = {{"tile_alignment", counts.tile_alignment}, {"whole", counts.whole},
               {"stored_tiles", counts.stored_tiles},     {"whole_tables", counts.whole_tables},
               {"delta_tables", counts.delta_tables},     {"changed_tiles", counts.changed_tiles},
               {"inline_tiles", counts.inline_tiles},     {"inline_bytes", counts.inline_bytes}};
  return Seal(std::move(j));
}

absl::StatusOr<Manifest> Manifest::Parse(const std::string& path, const std::string& text) {
  absl::StatusOr<Json> j = Unseal(path, text, kModelFormat, kNewestModel);
  if (!j.ok()) return j.status();
  Manifest m;
  absl::StatusOr<ModelConfig> config = ConfigFromJson(j->value("config", Json()).dump());
  if (!config.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", config.status().message(), "; pack the model again"));
  }
  m.config = *std::move(config);
  const std::optional<FileTable> files = ParseFiles(*j);
  if (!files) return Damaged(path, "\"files\" is malformed");
  m.files = *files;
  const Json deltas = j->value("deltas", Json::object());
  const std::optional<Hash128> digest =
      deltas.is_object() ? ParseHash(deltas.value("xxh3_128", Json())) : std::nullopt;
  if (!digest || !ParseCount(deltas, "keys", &m.delta_keys)) return Damaged(path, "\"deltas\" is malformed");
  m.delta_digest = *digest;
  const Json pack = j->value("pack", Json());
  bool sane = pack.is_object() && pack.value("whole", Json()).is_boolean();
  const std::pair<const char*, int64_t*> counts[] = {
      {"tile_alignment", &m.counts.tile_alignment}, {"stored_tiles", &m.counts.stored_tiles},
      {"whole_tables", &m.counts.whole_tables},     {"delta_tables", &m.counts.delta_tables},
      {"changed_tiles", &m.counts.changed_tiles},   {"inline_tiles", &m.counts.inline_tiles},
      {"inline_bytes", &m.counts.inline_bytes}};
  for (const auto& [key, value] : counts) sane = sane && ParseCount(pack, key, value);
  if (!sane) return Damaged(path, "\"pack\" is malformed");
  m.counts.whole = pack["whole"].get<bool>();
  const std::string want = m.ModelHash().Hex();
  if (j->value("model_hash", Json()) != Json(want)) {
    return Damaged(path, absl::StrCat("its parts give the model hash ", want, ", it states another"));
  }
  if (absl::Status s = CheckCanonical(path, text, m.Encode()); !s.ok()) return s;
  return m;
}

std::string DeltaManifest::Encode() const {
  Json j;
  j["format"] = kDeltasFormat;
  j["version"] = kDeltasVersion;
  j["xxh3_128"] = delta_digest.Hex();
  j["files"] = FilesJson(files);
  return Seal(std::move(j));
}

absl::StatusOr<DeltaManifest> DeltaManifest::Parse(const std::string& path, const std::string& text) {
  absl::StatusOr<Json> j = Unseal(path, text, kDeltasFormat, kDeltasVersion);
  if (!j.ok()) return j.status();
  DeltaManifest m;
  const std::optional<FileTable> files = ParseFiles(*j);
  const std::optional<Hash128> digest = ParseHash(j->value("xxh3_128", Json()));
  if (!files || !digest) return Damaged(path, "it is malformed");
  m.files = *files;
  m.delta_digest = *digest;
  if (absl::Status s = CheckCanonical(path, text, m.Encode()); !s.ok()) return s;
  return m;
}

}  // namespace omni
