#include "cluster/tasks/push_target.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "engine/base/json.h"
#include "store/file/files.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostFile = 1 << 20, kMostAllowed = 1000;
constexpr size_t kLeastKey = 16, kMostKey = 4096;

struct Network {
  std::array<uint8_t, 16> begin;
  int bits;
};

constexpr std::array<uint8_t, 16> V4(uint8_t a, uint8_t b = 0, uint8_t c = 0, uint8_t d = 0) {
  return {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d};
}

// IANA's registries of special-purpose addresses, IPv4 as mapped into IPv6.
constexpr Network kNotPublic[] = {
    {V4(0), 104},            // this network
    {V4(10), 104},           // private
    {V4(100, 64), 106},      // shared
    {V4(127), 104},          // this machine
    {V4(169, 254), 112},     // of a link
    {V4(172, 16), 108},      // private
    {V4(192, 0, 0), 120},    // protocols
    {V4(192, 0, 2), 120},    // documents
    {V4(192, 88, 99), 120},  // relays
    {V4(192, 168), 112},     // private
    {V4(198, 18), 111},      // benchmarks
    {V4(198, 51, 100), 120},
    {V4(203, 0, 113), 120},
    {V4(224), 100},  // for several
    {V4(240), 100},  // reserved
};

bool In(const std::array<uint8_t, 16>& address, const Network& network) {
  for (int bit = 0; bit < network.bits; ++bit) {
    const auto at = static_cast<size_t>(bit / 8);
    if (((address[at] ^ network.begin[at]) >> (7 - bit % 8) & 1) != 0) return false;
  }
  return true;
}

bool Allows(const PushUrl& allowed, const PushUrl& asked) {
  if (allowed.server.tls != asked.server.tls || allowed.server.host != asked.server.host ||
      allowed.server.port != asked.server.port)
    return false;
  std::string_view begin = allowed.path;
  while (begin.ends_with('/')) begin.remove_suffix(1);
  const std::string_view path = asked.path;
  return path.starts_with(begin) && (path.size() == begin.size() || path[begin.size()] == '/');
}

std::string ServerOf(const HttpUrl& url) {
  return absl::StrCat(url.tls ? "https://" : "http://", url.HostHeader());
}

absl::StatusOr<std::string> ReadKey(const std::string& path) {
  absl::StatusOr<std::string> text = ReadText(path, kMostKey);
  if (!text.ok()) return text.status();
  std::string key(absl::StripAsciiWhitespace(*text));
  if (key.size() < kLeastKey) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the key has ", key.size(), " bytes, and needs ",
                                                   kLeastKey, "; as `openssl rand -hex 32` writes one"));
  }
  return key;
}

}  // namespace

absl::StatusOr<PushUrl> ParsePushUrl(const std::string& text) {
  absl::StatusOr<HttpUrl> url = ParseHttpUrl(text);
  if (!url.ok()) return url.status();
  PushUrl parsed;
  const size_t authority = text.find("://") + 3;
  const size_t slash = text.find('/', authority);
  if (slash != text.npos) parsed.path = text.substr(slash);
  // What a server may take for another path than the one that was compared.
  const std::string plain =
      absl::StrReplaceAll(absl::AsciiStrToLower(parsed.path), {{"%2e", "."}, {"%2f", "/"}, {"%5c", "\\"}});
  const std::vector<std::string> segments = absl::StrSplit(plain, '/');
  for (const std::string& segment : segments) {
    if (segment == "." || segment == ".." || absl::StrContains(segment, "\\"))
      return absl::InvalidArgumentError("the URL's path goes up or has a backslash");
  }
  parsed.server = *std::move(url);
  parsed.server.host = absl::AsciiStrToLower(parsed.server.host);
  parsed.server.path.clear();
  return parsed;
}

absl::StatusOr<PushConfig> LoadPushConfig(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadText(path, kMostFile);
  if (!text.ok()) return text.status();
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  const absl::StatusOr<Json> json = ParseJson<Json>(*text);
  if (!json.ok()) return wrong(absl::StrCat("the text ", json.status().message()));
  if (!json->is_object()) return wrong("the text is no JSON object");
  PushConfig config;
  std::string key_file;
  for (const auto& [key, value] : json->items()) {
    const bool is_text = value.is_string();
    if (key == "allow" && value.is_array() && value.size() <= kMostAllowed) {
      for (const Json& one : value) {
        if (!one.is_string()) return wrong("'allow' is no list of URLs");
        absl::StatusOr<PushUrl> url = ParsePushUrl(one.get<std::string>());
        if (!url.ok()) return wrong(absl::StrCat("'allow': ", url.status().message()));
        config.allow.push_back(*std::move(url));
      }
    } else if (key == "key_file" && is_text) {
      key_file = value.get<std::string>();
    } else if (key == "ca_file" && is_text) {
      config.ca_file = value.get<std::string>();
    } else {
      return wrong(absl::StrCat(Quoted(key),
                                " is not known here, or is not what it should be: 'allow' is a "
                                "list of URLs, 'key_file' and 'ca_file' are paths"));
    }
  }
  if (config.allow.empty()) return wrong("'allow' names nobody, so nobody would be told");
  if (key_file.empty()) return wrong("'key_file' is missing: what notifications are signed with");
  absl::StatusOr<std::string> key = ReadKey(key_file);
  if (!key.ok()) return key.status();
  config.key = *std::move(key);
  if (config.ca_file.empty()) return config;
  // Whether it can be read is known now, and not at the first notification.
  HttpClientOptions with;
  with.url = "https://localhost";
  with.ca_file = config.ca_file;
  if (absl::Status s = HttpClient::Make(std::move(with)).status(); !s.ok()) return s;
  return config;
}

absl::StatusOr<PushTarget> CheckPushUrl(const PushConfig& config, const std::string& url) {
  const absl::StatusOr<PushUrl> asked = ParsePushUrl(url);
  if (!asked.ok()) return asked.status();
  for (const PushUrl& allowed : config.allow) {
    if (Allows(allowed, *asked)) return PushTarget{ServerOf(asked->server), asked->path};
  }
  return absl::PermissionDeniedError(
      absl::StrCat(ServerOf(asked->server),
                   " is not among the addresses that this server may tell; whoever runs "
                   "it allows them in the file of --push"));
}

bool IsPublicAddress(const std::string& address) {
  std::array<uint8_t, 16> bytes = V4(0);
  if (::inet_pton(AF_INET, address.c_str(), bytes.data() + 12) != 1 &&
      ::inet_pton(AF_INET6, address.c_str(), bytes.data()) != 1)
    return false;
  const bool v4 = std::equal(bytes.begin(), bytes.begin() + 12, V4(0).begin());
  if (v4) {
    return std::none_of(std::begin(kNotPublic), std::end(kNotPublic),
                        [&](const Network& network) { return In(bytes, network); });
  }
  // 2000::/3 is what is given out; of it, what stands for IPv4 addresses or for nobody is left out.
  const bool given = (bytes[0] & 0xe0) == 0x20;
  const bool teredo = bytes[0] == 0x20 && bytes[1] == 0x01 && bytes[2] < 0x02;  // 2001::/23
  const bool six_to_four = bytes[0] == 0x20 && bytes[1] == 0x02;
  const bool documents = (bytes[0] == 0x20 && bytes[1] == 0x01 && bytes[2] == 0x0d && bytes[3] == 0xb8) ||
                         (bytes[0] == 0x3f && bytes[1] == 0xff);
  return given && !teredo && !six_to_four && !documents;
}

FindHost FindPublicHost(FindHost find) {
  return [find = std::move(find)](const std::string& host) -> absl::StatusOr<std::vector<std::string>> {
    absl::StatusOr<std::vector<std::string>> found = find != nullptr ? find(host) : FindHostBySystem(host);
    if (!found.ok()) return found.status();
    found->erase(std::remove_if(found->begin(), found->end(),
                                [](const std::string& address) { return !IsPublicAddress(address); }),
                 found->end());
    if (!found->empty()) return found;
    return absl::PermissionDeniedError(
        "all of its addresses are this machine's or a private network's; allow an address in place of the "
        "name if that is meant");
  };
}

std::string SignPush(const std::string& key, const std::string& time, const std::string& body) {
  const std::string text = absl::StrCat(time, ".", body);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &bytes);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), bytes));
}

}  // namespace omni
