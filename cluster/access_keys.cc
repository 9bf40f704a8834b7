#include "cluster/access_keys.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <utility>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/time/time.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "engine/base/json.h"
#include "engine/base/open_file.h"
#include "engine/base/replace_file.h"
#include "engine/base/system_error.h"
#include "store/state/state_dir.h"

namespace omni {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMostBytes = 4 << 20;  // of the file: kMostKeys of the longest fit
constexpr size_t kLongestName = 64;
constexpr mode_t kOwnerAlone = 0600;
constexpr int64_t kFirstYear = 0, kLastYear = 253'402'300'799;  // 1970 and 9999, in seconds

bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
           c == '_' || c == '.' || c == '@';
  });
}

std::string Hex(const unsigned char* bytes, size_t n) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes), n));
}

// Of entry `i`, whose values are not shown: one of them may be a key that somebody put there by mistake.
absl::Status Wrong(size_t i, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("has in keys[", i, "] ", what));
}

const std::string* Text(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() || !it->is_string() ? nullptr : it->get_ptr<const std::string*>();
}

std::optional<KeyTime> ParseTime(const std::string* text) {
  absl::Time time;
  std::string error;
  if (text == nullptr || !absl::ParseTime("%Y-%m-%dT%H:%M:%SZ", *text, &time, &error)) return std::nullopt;
  const int64_t seconds = absl::ToUnixSeconds(time);
  if (seconds < kFirstYear || seconds > kLastYear) return std::nullopt;
  return KeyTime(std::chrono::seconds(seconds));
}

absl::StatusOr<AccessKey> ParseKey(const Json& json, size_t i) {
  if (!json.is_object()) return Wrong(i, "no object");
  for (const auto& [name, value] : json.items()) {
    static const std::set<std::string> kKnown = {"id", "name", "scopes", "created", "expires", "sha256"};
    if (!kKnown.contains(name))
      return Wrong(i, absl::StrCat("the field ", Quoted(name), ", which is not known"));
  }
  AccessKey key;
  const std::string* const id = Text(json, "id");
  if (id == nullptr || id->size() != kKeyIdDigits || !IsHex(*id)) return Wrong(i, "no id of 12 hex digits");
  key.id = *id;
  const std::string* const name = Text(json, "name");
  if (name == nullptr || !IsName(*name))
    return Wrong(i, "no name of 1 to 64 characters of A-Z a-z 0-9 - _ . @");
  key.name = *name;
  const auto scopes = json.find("scopes");
  if (scopes == json.end() || !scopes->is_array()) return Wrong(i, "no list of scopes");
  for (const Json& scope : *scopes) {
    const absl::StatusOr<Scopes> one =
        Scopes::Parse(scope.is_string() ? scope.get_ref<const std::string&>() : std::string());
    if (!one.ok()) return Wrong(i, "a scope that is not infer, tasks or admin");
    key.scopes = key.scopes | *one;
  }
  if (key.scopes.empty()) return Wrong(i, "no scope");
  const std::optional<KeyTime> created = ParseTime(Text(json, "created"));
  if (!created.has_value()) return Wrong(i, "no time 'created' such as 2026-11-26T15:00:00Z");
  key.created = *created;
  if (json.contains("expires")) {
    key.expires = ParseTime(Text(json, "expires"));
    if (!key.expires.has_value())
      return Wrong(i, "an 'expires' that is no time such as 2026-11-26T15:00:00Z");
  }
  const std::string* const hash = Text(json, "sha256");
  if (hash == nullptr || hash->size() != 2 * key.hash.size() || !IsHex(*hash))
    return Wrong(i, "no 'sha256' of 64 hex digits");
  const std::string bytes = absl::HexStringToBytes(*hash);
  std::copy(bytes.begin(), bytes.end(), key.hash.begin());
  return key;
}

absl::StatusOr<FileDescriptor> Lock(const std::string& path) {
  FileDescriptor lock(
      ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, kOwnerAlone));
  if (lock.get() < 0) return SystemError(path, "create the lock file", errno);
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return SystemError(path, "lock", errno);
  }
  return lock;
}

absl::Status Replace(const std::string& path, const std::vector<AccessKey>& keys) {
  absl::StatusOr<FileReplacement> file = FileReplacement::Begin(path, kOwnerAlone);
  if (!file.ok()) return file.status();
  if (absl::Status s = file->Append(KeysText(keys)); !s.ok()) return s;
  return file->Commit();
}

}  // namespace

const char* ScopeName(Scope scope) {
  switch (scope) {
    case Scope::kInfer:
      return "infer";
    case Scope::kTasks:
      return "tasks";
    case Scope::kAdmin:
      return "admin";
  }
  return "";
}

absl::StatusOr<Scopes> Scopes::Parse(std::string_view text) {
  Scopes scopes;
  for (const absl::string_view word : absl::StrSplit(absl::string_view(text.data(), text.size()), ',')) {
    const auto known = std::find_if(std::begin(kScopes), std::end(kScopes),
                                    [&](Scope scope) { return word == ScopeName(scope); });
    if (known == std::end(kScopes)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted({word.data(), word.size()}), " is no scope; infer, tasks and admin are"));
    }
    scopes = scopes | *known;
  }
  return scopes;
}

std::string Scopes::Text() const {
  std::string text;
  for (const Scope scope : kScopes) {
    if (Has(scope)) absl::StrAppend(&text, text.empty() ? "" : ",", ScopeName(scope));
  }
  return text;
}

KeyHash HashKey(std::string_view key) {
  KeyHash hash{};
  // With a digest that is built in it fails for want of memory alone; nothing is a key then.
  if (EVP_Digest(key.data(), key.size(), hash.data(), nullptr, EVP_sha256(), nullptr) != 1) hash.fill(0);
  return hash;
}

std::string_view KeyId(std::string_view key) {
  constexpr std::string_view kPrefix = kKeyPrefix;
  if (key.size() != kPrefix.size() + kKeyIdDigits + 1 + kKeySecretDigits || !key.starts_with(kPrefix))
    return {};
  const std::string_view id = key.substr(kPrefix.size(), kKeyIdDigits);
  const std::string_view secret = key.substr(key.size() - kKeySecretDigits);
  return key[kPrefix.size() + kKeyIdDigits] == '_' && IsHex(id) && IsHex(secret) ? id : std::string_view();
}

bool SameHash(const KeyHash& a, const KeyHash& b) {
  return a != KeyHash{} && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string KeyTimeText(KeyTime time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(time.time_since_epoch().count()),
                          absl::UTCTimeZone());
}

absl::StatusOr<std::vector<AccessKey>> ParseKeys(std::string_view text) {
  if (text.size() > kMostBytes) return absl::InvalidArgumentError("is too long to be a file of keys");
  const absl::StatusOr<Json> json = ParseJson<Json>(text);
  if (!json.ok()) return json.status();
  if (!json->is_object() || json->value("version", Json()) != 1 || json->size() != 2)
    return absl::InvalidArgumentError("is no object of 'version', which must be 1, and 'keys'");
  const auto list = json->find("keys");
  if (list == json->end() || !list->is_array() || list->size() > kMostKeys)
    return absl::InvalidArgumentError(absl::StrCat("has no list 'keys' of up to ", kMostKeys));
  std::vector<AccessKey> keys;
  std::set<std::string> ids;
  for (size_t i = 0; i < list->size(); ++i) {
    absl::StatusOr<AccessKey> key = ParseKey((*list)[i], i);
    if (!key.ok()) return key.status();
    if (!ids.insert(key->id).second) return Wrong(i, "an id that another has");
    keys.push_back(*std::move(key));
  }
  return keys;
}

std::string KeysText(const std::vector<AccessKey>& keys) {
  Json list = Json::array();
  for (const AccessKey& key : keys) {
    Json scopes = Json::array();
    for (const Scope scope : kScopes) {
      if (key.scopes.Has(scope)) scopes.push_back(ScopeName(scope));
    }
    Json json = {{"id", key.id},
                 {"name", key.name},
                 {"scopes", std::move(scopes)},
                 {"created", KeyTimeText(key.created)},
                 {"sha256", Hex(key.hash.data(), key.hash.size())}};
    if (key.expires.has_value()) json["expires"] = KeyTimeText(*key.expires);
    list.push_back(std::move(json));
  }
  return JsonText(Json{{"version", 1}, {"keys", std::move(list)}}, 1) + "\n";
}

absl::StatusOr<std::string> DefaultKeysFile() {
  absl::StatusOr<std::string> dir = StateDir();
  if (!dir.ok()) return dir;
  return absl::StrCat(*dir, "/keys.json");
}

absl::StatusOr<std::vector<AccessKey>> ReadKeys(const std::string& path) {
  const absl::StatusOr<FileDescriptor> file = OpenRegular(path);
  if (!file.ok()) {
    if (!absl::IsNotFound(file.status())) return file.status();
    return absl::NotFoundError(
        absl::StrCat(path, ": there is no such file of keys; omni key create makes one"));
  }
  struct stat st {};
  if (::fstat(file->get(), &st) != 0) return SystemError(path, "look at", errno);
  if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": others than its owner may write it, and so make keys; take that away with chmod 600"));
  }
  std::string text;
  while (text.size() <= kMostBytes) {
    char buffer[16384];
    const ssize_t n = ::read(file->get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path, "read", errno);
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  absl::StatusOr<std::vector<AccessKey>> keys = ParseKeys(text);
  if (keys.ok()) return keys;
  return absl::InvalidArgumentError(absl::StrCat(path, ": the text ", keys.status().message()));
}

absl::StatusOr<NewKey> CreateKey(const std::string& path, const std::string& name, Scopes scopes,
                                 std::optional<std::chrono::seconds> valid, KeyTime now) {
  if (!IsName(name)) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(name), " is no name for a key; one has 1 to 64 characters of A-Z a-z 0-9 - _ . @"));
  }
  if (scopes.empty()) return absl::InvalidArgumentError("a key needs a scope: infer, tasks or admin");
  if (valid.has_value() && valid->count() <= 0)
    return absl::InvalidArgumentError("a key cannot end before it is made");
  const std::string folder = fs::path(path).parent_path().string();
  std::error_code error;
  if (!folder.empty()) fs::create_directories(folder, error);
  if (error) return SystemError(folder, "create the directory", error.value());
  const absl::StatusOr<FileDescriptor> lock = Lock(path + ".lock");
  if (!lock.ok()) return lock.status();
  absl::StatusOr<std::vector<AccessKey>> keys = ReadKeys(path);
  if (absl::IsNotFound(keys.status())) keys.emplace();
  if (!keys.ok()) return keys.status();
  if (keys->size() >= kMostKeys) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": has ", kMostKeys, " keys already; revoke some that are not needed"));
  }
  NewKey made;
  made.entry.name = name;
  made.entry.scopes = scopes;
  made.entry.created = now;
  if (valid.has_value()) made.entry.expires = now + *valid;
  const auto taken = [&] {
    return std::any_of(keys->begin(), keys->end(),
                       [&](const AccessKey& key) { return key.id == made.entry.id; });
  };
  unsigned char id[kKeyIdDigits / 2], secret[kKeySecretDigits / 2];
  do {
    if (RAND_bytes(id, sizeof id) != 1 || RAND_priv_bytes(secret, sizeof secret) != 1)
      return absl::InternalError("there are no random bytes to make a key of");
    made.entry.id = Hex(id, sizeof id);
  } while (taken());
  made.key = absl::StrCat(kKeyPrefix, made.entry.id, "_", Hex(secret, sizeof secret));
  OPENSSL_cleanse(secret, sizeof secret);
  made.entry.hash = HashKey(made.key);
  keys->push_back(made.entry);
  if (absl::Status s = Replace(path, *keys); !s.ok()) return s;
  return made;
}

absl::StatusOr<AccessKey> RevokeKey(const std::string& path, const std::string& id) {
  // Nothing is made where nothing is.
  if (const auto there = ReadKeys(path); !there.ok()) return there.status();
  const absl::StatusOr<FileDescriptor> lock = Lock(path + ".lock");
  if (!lock.ok()) return lock.status();
  absl::StatusOr<std::vector<AccessKey>> keys = ReadKeys(path);
  if (!keys.ok()) return keys.status();
  const auto it =
      std::find_if(keys->begin(), keys->end(), [&](const AccessKey& key) { return key.id == id; });
  if (it == keys->end()) {
    return absl::NotFoundError(absl::StrCat(path, ": has no key with the id ", Quoted(id),
                                            "; omni key list shows those that there are"));
  }
  AccessKey revoked = *std::move(it);
  keys->erase(it);
  if (absl::Status s = Replace(path, *keys); !s.ok()) return s;
  return revoked;
}

}  // namespace omni
