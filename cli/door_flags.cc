#include "cli/door_flags.h"

#include <filesystem>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/http/tls.h"

namespace omni::cli {
namespace {

constexpr int64_t kUsualRequests = 64;  // of one caller at one time, where keys tell callers apart
constexpr int64_t kMost = int64_t{1} << 40;

// Empty: no keys are wanted.
absl::StatusOr<std::string> KeysFile(const std::string& given) {
  if (given == kNoKeys) return std::string();
  if (!given.empty()) return given;
  const absl::StatusOr<std::string> usual = DefaultKeysFile();
  if (!usual.ok()) return std::string();  // then omni key made none there either
  // Whoever has made keys wants them to be asked for; a link counts, wherever it leads.
  std::error_code error;
  const std::filesystem::file_type found = std::filesystem::symlink_status(*usual, error).type();
  if (found == std::filesystem::file_type::not_found) return std::string();
  if (found == std::filesystem::file_type::none) {
    return absl::UnavailableError(absl::StrCat(
        *usual, ": cannot be looked for: ", error.message(),
        ", so whether keys are wanted is not known; make it readable, name a file with --keys, or "
        "say --keys none"));
  }
  return *usual;
}

}  // namespace

void DoorFlags::Add(Verb& verb) {
  verb.Path(
      "--keys", keys_,
      "File of the keys that callers must show (omni key makes it); none: whoever reaches this address may "
      "do everything (default: keys.json below $XDG_STATE_HOME/omni if it is there, else none)");
  verb.Path("--tls-cert", certificate_,
            "PEM file of the certificate for HTTPS, and those that lead to its "
            "authority; read again when it changes");
  verb.Path("--tls-key", key_, "PEM file of that certificate's key");
  verb.Texts(
      "--cors-origin", cors_origins_,
      "An origin, as https://chat.example, whose pages may ask by a browser; may be given several times");
  verb.Number("--caller-requests", requests_, {0, kMost},
              "Requests that one caller may have under way; 0: any number (default 64, without keys 0)");
  verb.Number("--caller-tokens", tokens_per_minute_, {0, kMost},
              "Tokens of prompts and answers that one caller may use a minute; 0: any number (default 0)");
  verb.Duration("--caller-time", time_, "For how long one request may be answered (default 1h)");
  verb.Number("--max-answer", most_tokens_, {1, kMost},
              "Tokens that one answer may have (default: the context)");
  verb.Size("--max-body", body_, "Bytes that the body of one request may have (default 8M)");
}

absl::Status DoorFlags::Apply(HttpDoor::Behind& behind, HttpServerOptions& server) const {
  for (const std::string& origin : cors_origins_) {
    if (absl::Status s = CheckOrigin(origin); !s.ok())
      return UsageError(absl::StrCat("--cors-origin: ", s.message()));
  }
  if (certificate_.empty() != key_.empty())
    return UsageError("--tls-cert and --tls-key go together; give both, or neither");
  const absl::StatusOr<std::string> file = KeysFile(keys_);
  if (!file.ok()) return file.status();
  const HttpSecurity security{!certificate_.empty(), !file->empty()};
  if (absl::Status s = CheckHttpAddress(server.listen, security); !s.ok())
    return UsageError(absl::StrCat("--listen: ", s.message()));
  if (!file->empty()) {
    absl::StatusOr<std::unique_ptr<Access>> access = Access::Open(*file);
    if (!access.ok()) return access.status();
    behind.guard.access = *std::move(access);
  }
  if (!certificate_.empty()) {
    absl::StatusOr<std::unique_ptr<TlsContext>> tls = TlsContext::Open(certificate_, key_);
    if (!tls.ok()) return tls.status();
    server.tls = *std::move(tls);
  }
  behind.guard.cors_origins = cors_origins_;
  CallerLimitOptions limits;
  limits.requests = requests_ >= 0 ? requests_ : security.keys ? kUsualRequests : 0;
  limits.tokens_per_minute = tokens_per_minute_;
  limits.time = time_;
  behind.limits = std::make_shared<CallerLimits>(limits);
  server.body_bytes = static_cast<uint64_t>(body_);
  return absl::OkStatus();
}

void DoorFlags::Apply(const HttpDoor::Behind& behind, const HttpServerOptions& server,
                      ClusterNodeOptions& node) const {
  node.access = behind.guard.access;
  node.limits = behind.limits;
  node.most_tokens = most_tokens_;
  if (node.access != nullptr) node.tls = server.tls;
}

std::string DoorFlags::Describe(const HttpDoor::Behind& behind, const HttpServerOptions& server) {
  const HttpGuardOptions& guard = behind.guard;
  if (guard.access == nullptr && server.tls == nullptr) return {};
  const std::string keys = guard.access == nullptr
                               ? std::string("no keys: whoever reaches it may do everything")
                               : absl::StrCat("callers need a key of ", guard.access->path(), ", which has ",
                                              guard.access->keys());
  return absl::StrCat(keys, server.tls == nullptr ? " · no TLS" : " · TLS");
}

}  // namespace omni::cli
