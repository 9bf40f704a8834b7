// The keys that callers show at the doors, as they are kept: one small file, keys.json, mode 0600, which
// holds of each key what it may do and the SHA-256 of its text, and not the text.
//
//   {"version": 1, "keys": [{"id": "5f1c0a9be2d4", "name": "notebook", "scopes": ["infer"],
//     "created": "2026-11-26T15:00:00Z", "expires": "2027-02-24T15:00:00Z", "sha256": "<64 hex digits>"}]}
//
// A key is "omni_ID_SECRET": 12 hex digits by which it is found, and 64 that are 256 bits of chance. Nobody
// guesses such a secret from its hash, however fast that can be computed; so there is neither salt nor a slow
// function, which passwords need.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// What a caller may do; none includes another.
enum class Scope : uint8_t {
  kInfer,  // ask the model
  kTasks,  // hand in work that outlives the call
  kAdmin   // look at and change what serves
};
inline constexpr Scope kScopes[] = {Scope::kInfer, Scope::kTasks, Scope::kAdmin};
const char* ScopeName(Scope scope);  // "infer"

class Scopes {
 public:
  constexpr Scopes() = default;
  constexpr Scopes(Scope scope) : bits_(Bit(scope)) {}
  // "infer,admin"; InvalidArgument says which are known.
  static absl::StatusOr<Scopes> Parse(std::string_view text);
  static constexpr Scopes All() { return Scopes(Scope::kInfer) | Scope::kTasks | Scope::kAdmin; }

  constexpr bool Has(Scope scope) const { return (bits_ & Bit(scope)) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  std::string Text() const;
  constexpr Scopes operator|(Scopes other) const {
    Scopes both;
    both.bits_ = static_cast<uint8_t>(bits_ | other.bits_);
    return both;
  }
  constexpr bool operator==(const Scopes&) const = default;

 private:
  static constexpr uint8_t Bit(Scope scope) {
    return static_cast<uint8_t>(1u << static_cast<unsigned>(scope));
  }
  uint8_t bits_ = 0;
};

using KeyHash = std::array<unsigned char, 32>;
using KeyTime = std::chrono::sys_seconds;

struct AccessKey {
  std::string id, name;
  Scopes scopes;
  KeyTime created;
  std::optional<KeyTime> expires;
  KeyHash hash{};
  bool operator==(const AccessKey&) const = default;
};

inline constexpr size_t kMostKeys = 4096;
inline constexpr size_t kKeyIdDigits = 12, kKeySecretDigits = 64;
inline constexpr char kKeyPrefix[] = "omni_";

KeyHash HashKey(std::string_view key);
// The id in a key's text; empty: it is no key.
std::string_view KeyId(std::string_view key);
// In time that does not tell where they differ.
bool SameHash(const KeyHash& a, const KeyHash& b);
std::string KeyTimeText(KeyTime time);  // "2026-11-26T15:00:00Z"

// The file's text. InvalidArgument, to be read after "the text", never with a hash in it.
absl::StatusOr<std::vector<AccessKey>> ParseKeys(std::string_view text);
std::string KeysText(const std::vector<AccessKey>& keys);

// Below $XDG_STATE_HOME/omni: what `omni key` changes and `omni serve` reads where nothing else is said.
absl::StatusOr<std::string> DefaultKeysFile();

// NotFound, there is no file; FailedPrecondition, others than its owner may write it; InvalidArgument, it is
// no file of keys. All name it.
absl::StatusOr<std::vector<AccessKey>> ReadKeys(const std::string& path);

struct NewKey {
  AccessKey entry;
  std::string key;  // its text, which is nowhere else
};
// Both read the file, change it and replace it whole, under a lock (PATH.lock): two at a time lose nothing.
// The file and its folder are made if need be. InvalidArgument: the name, no scope, an end before now.
absl::StatusOr<NewKey> CreateKey(const std::string& path, const std::string& name, Scopes scopes,
                                 std::optional<std::chrono::seconds> valid, KeyTime now);
// NotFound: no such id.
absl::StatusOr<AccessKey> RevokeKey(const std::string& path, const std::string& id);

}  // namespace omni
