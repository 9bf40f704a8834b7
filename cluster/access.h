// Who calls, and what they may do: the keys of a file (cluster/access_keys.h), looked at again when the file
// changes.
//
//     auto caller = access->Check(key);                     // Unauthenticated: no key of this file
//     if (!caller.ok()) return caller.status();
//     if (auto s = Allow(*caller, Scope::kInfer); !s.ok()) return s;  // PermissionDenied
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/access_keys.h"

namespace omni {

struct Caller {
  std::string name;  // of the key, of which one caller may have several; empty: nobody in particular
  Scopes scopes;
};

// PermissionDenied says which scope is missing.
absl::Status Allow(const Caller& caller, Scope scope);

// The key in the value of an Authorization header: "Bearer KEY", the word in any case. Unauthenticated says
// what is wrong, without the value. The view is into `header`.
absl::StatusOr<std::string_view> BearerKey(std::string_view header);

// Thread-safe.
class Access {
 public:
  struct Clocks {
    std::function<std::chrono::system_clock::time_point()> now = std::chrono::system_clock::now;
    std::function<std::chrono::steady_clock::time_point()> ticks = std::chrono::steady_clock::now;
  };
  // ReadKeys' errors.
  static absl::StatusOr<std::unique_ptr<Access>> Open(const std::string& path, Clocks clocks);
  static absl::StatusOr<std::unique_ptr<Access>> Open(const std::string& path);
  ~Access();

  // Whose key it is. Unauthenticated: it is not in the file, is no key, or has expired. If nobody looked
  // within the last second, looks first whether the file is another (FileReloader); one that cannot be read,
  // or is no file of keys, leaves the old keys as they are, and the log says so.
  absl::StatusOr<Caller> Check(std::string_view key);
  // The same for the value of an Authorization header.
  absl::StatusOr<Caller> CheckHeader(std::string_view header);

  size_t keys() const;  // that there are, expired ones too
  const std::string& path() const;

 private:
  struct Impl;
  explicit Access(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
