// Files of keys and Authorization headers: whatever bytes they are, keys that can be written and read again,
// or an error that can be shown.
#include "cluster/access.h"

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 150000;

std::vector<std::string> Seeds() {
  AccessKey key;
  key.id = "0123456789ab";
  key.name = "notebook";
  key.scopes = Scopes::All();
  key.created = KeyTime(std::chrono::seconds(1'780'000'000));
  AccessKey other = key;
  other.id = "ba9876543210";
  other.expires = key.created + std::chrono::hours(24);
  const std::string text = "omni_0123456789ab_" + std::string(64, 'e');
  return {KeysText({}),     KeysText({key}),   KeysText({key, other}), "{\"version\":1,\"keys\":[null]}",
          "Bearer " + text, "bearer  " + text, "Basic azp2",           text};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string_view text = View(data, size);
  if (const auto keys = ParseKeys(text); keys.ok()) {
    for (const AccessKey& key : *keys) {
      Require(!key.scopes.empty() && !key.name.empty() && key.id.size() == kKeyIdDigits, "a key is whole");
      Require(*Scopes::Parse(key.scopes.Text()) == key.scopes, "scopes are read as they are written");
    }
    const auto again = ParseKeys(KeysText(*keys));
    Require(again.ok() && *again == *keys, "keys are read as they are written");
  } else {
    RequireReadable(keys.status());
  }
  if (const auto key = BearerKey(text); key.ok()) {
    Require(!key->empty() && key->find(' ') == key->npos && key->size() < size,
            "a key is part of the header");
    const std::string_view id = KeyId(*key);
    Require(id.empty() || id.size() == kKeyIdDigits, "an id has its length");
  } else {
    RequireReadable(key.status());
  }
  return 0;
}
