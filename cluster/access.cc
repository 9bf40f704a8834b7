#include "cluster/access.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "cluster/file_reloader.h"
#include "engine/base/log.h"

namespace omni {
namespace {

constexpr size_t kLongestHeader = 512;  // bytes; a key has 82

using Table = std::unordered_map<std::string, AccessKey>;  // by id

std::shared_ptr<const Table> TableOf(std::vector<AccessKey> keys) {
  auto table = std::make_shared<Table>();
  for (AccessKey& key : keys) {
    std::string id = key.id;
    table->emplace(std::move(id), std::move(key));
  }
  return table;
}

}  // namespace

absl::Status Allow(const Caller& caller, Scope scope) {
  if (caller.scopes.Has(scope)) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(
      "this key may not do that: it has the scope ", caller.scopes.Text(), ", and ", ScopeName(scope),
      " is needed; use another, or make one with omni key create --scope ", ScopeName(scope)));
}

absl::StatusOr<std::string_view> BearerKey(std::string_view header) {
  constexpr std::string_view kScheme = "bearer";
  const auto wrong = [](const char* what) { return absl::UnauthenticatedError(what); };
  if (header.empty()) return wrong("this server wants a key: send the header 'Authorization: Bearer KEY'");
  if (header.size() > kLongestHeader) return wrong("the Authorization header is too long to hold a key");
  const size_t space = header.find(' ');
  const std::string_view scheme = header.substr(0, space);
  if (!absl::EqualsIgnoreCase({scheme.data(), scheme.size()}, {kScheme.data(), kScheme.size()}))
    return wrong("the Authorization header must be 'Bearer KEY'; no other kind is known here");
  std::string_view key = space == header.npos ? std::string_view() : header.substr(space);
  while (key.starts_with(' ')) key.remove_prefix(1);
  while (key.ends_with(' ')) key.remove_suffix(1);
  const bool plain = std::all_of(key.begin(), key.end(), [](char c) { return absl::ascii_isgraph(c); });
  if (key.empty() || !plain) return wrong("the Authorization header must be 'Bearer KEY', and holds no key");
  return key;
}

struct Access::Impl {
  Impl(std::string p, Clocks c)
      : path(std::move(p)),
        now(std::move(c.now)),
        reloader(
            {path}, [this] { return Take(); }, NotReloaded, std::move(c.ticks)) {}

  absl::Status Take() {
    absl::StatusOr<std::vector<AccessKey>> keys = ReadKeys(path);
    if (!keys.ok()) return keys.status();
    const size_t count = keys->size();
    std::shared_ptr<const Table> read = TableOf(*std::move(keys));
    const std::lock_guard lock(mutex);
    if (table != nullptr)
      LogInfo("keys_reloaded", "{path} was read again: {keys} keys", {{"path", path}, {"keys", count}});
    table = std::move(read);
    return absl::OkStatus();
  }
  static void NotReloaded(const absl::Status& why) {
    LogWarning("keys_not_reloaded", "the keys that were there stay in force: {reason}",
               {{"reason", std::string_view(why.message().data(), why.message().size())}});
  }

  const std::string path;
  const std::function<std::chrono::system_clock::time_point()> now;
  const AccessKey nobody;  // what a key that is not known is compared with

  mutable std::mutex mutex;
  std::shared_ptr<const Table> table;
  FileReloader reloader;
};

Access::Access(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Access::~Access() = default;

absl::StatusOr<std::unique_ptr<Access>> Access::Open(const std::string& path) { return Open(path, Clocks()); }

absl::StatusOr<std::unique_ptr<Access>> Access::Open(const std::string& path, Clocks clocks) {
  auto impl = std::make_unique<Impl>(path, std::move(clocks));
  if (absl::Status s = impl->reloader.Open(); !s.ok()) return s;
  return std::unique_ptr<Access>(new Access(std::move(impl)));
}

absl::StatusOr<Caller> Access::Check(std::string_view key) {
  impl_->reloader.Look();
  std::shared_ptr<const Table> table;
  {
    const std::lock_guard lock(impl_->mutex);
    table = impl_->table;
  }
  const std::string_view id = KeyId(key);
  const auto it = table->find(std::string(id));
  const AccessKey& entry = it == table->end() ? impl_->nobody : it->second;
  if (!SameHash(entry.hash, HashKey(key)) || id.empty())
    return absl::UnauthenticatedError("this server does not know the key; see omni key list");
  if (entry.expires.has_value() && impl_->now() >= *entry.expires) {
    return absl::UnauthenticatedError(absl::StrCat("the key ", entry.id, " has expired, at ",
                                                   KeyTimeText(*entry.expires),
                                                   "; make another with omni key create"));
  }
  return Caller{entry.name, entry.scopes};
}

absl::StatusOr<Caller> Access::CheckHeader(std::string_view header) {
  const absl::StatusOr<std::string_view> key = BearerKey(header);
  if (!key.ok()) return key.status();
  return Check(*key);
}

size_t Access::keys() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->table->size();
}
const std::string& Access::path() const { return impl_->path; }

}  // namespace omni
