#include "cluster/memory_calls.h"

#include <optional>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

namespace pb = ::omni::memory::v1;

absl::StatusOr<std::vector<Association>> ReadAssociations(const pb::AddRequest& request) {
  int64_t bytes = 0;
  std::vector<Association> associations;
  for (const pb::Association& a : request.associations()) {
    bytes += static_cast<int64_t>(a.key().size() + a.value().size());
    if (bytes > kMostAssociationBytes || request.associations_size() > kMostAssociations) {
      return absl::InvalidArgumentError(absl::StrCat("associations: more than ", kMostAssociations, " or ",
                                                     kMostAssociationBytes >> 20,
                                                     " MiB in one message; send several"));
    }
    associations.push_back({a.key(), a.value()});
  }
  return associations;
}

// How many were added.
absl::StatusOr<uint64_t> AddTo(Memory& memory, const std::string& owner, const std::string& scope,
                               const pb::AddRequest& request) {
  const absl::StatusOr<std::vector<Association>> all = ReadAssociations(request);
  if (!all.ok()) return all.status();
  if (all->empty()) return 0;
  if (absl::Status s = memory.Add(scope, *all, owner); !s.ok()) return s;
  return all->size();
}

}  // namespace

absl::Status AddCall(Memory& memory, const std::string& owner, const pb::AddRequest& request,
                     pb::AddResponse& response) {
  const absl::StatusOr<uint64_t> added = AddTo(memory, owner, ScopeOrDefault(request.scope()), request);
  if (!added.ok()) return added.status();
  response.set_added(*added);
  return absl::OkStatus();
}

absl::Status AskCall(Memory& memory, const std::string& owner, const pb::AskRequest& request,
                     pb::AskResponse& response) {
  const absl::StatusOr<std::optional<Remembered>> got =
      memory.Ask(ScopeOrDefault(request.scope()), request.key(), owner);
  if (!got.ok() || !got->has_value()) return got.status();
  const Recalled& how = (*got)->how;
  response.set_found(true);
  response.set_value((*got)->value);
  response.set_distance(static_cast<uint32_t>(how.distance));
  response.set_margin(static_cast<uint32_t>(how.margin));
  response.set_votes(static_cast<uint32_t>(how.votes));
  response.set_bank_items(static_cast<uint32_t>(how.bank_items));
  return absl::OkStatus();
}

absl::Status StatsCall(Memory& memory, const std::string& owner, pb::StatsResponse& response) {
  const absl::StatusOr<std::vector<ScopeStats>> stats = memory.Stats(owner);
  if (!stats.ok()) return stats.status();
  for (const ScopeStats& s : *stats) {
    pb::Scope& scope = *response.add_scopes();
    scope.set_scope(s.scope);
    scope.set_keys(static_cast<uint64_t>(s.associations));
    scope.set_values(static_cast<uint64_t>(s.values));
    scope.set_used_banks(static_cast<uint32_t>(s.used_banks));
    scope.set_fullest_bank(static_cast<uint32_t>(s.fullest_bank));
    scope.set_bytes(static_cast<uint64_t>(s.bytes));
    scope.set_version(s.version);
  }
  return absl::OkStatus();
}

absl::Status ForgetCall(Memory& memory, const std::string& owner, const pb::ForgetRequest& request,
                        pb::ForgetResponse& response) {
  if (request.has_key() == request.all())
    return absl::InvalidArgumentError("forget wants a key, or all, and not both");
  const absl::StatusOr<int64_t> forgotten =
      memory.Forget(ScopeOrDefault(request.scope()),
                    request.all() ? std::nullopt : std::optional<std::string>(request.key()), owner);
  if (!forgotten.ok()) return forgotten.status();
  response.set_forgotten(static_cast<uint64_t>(*forgotten));
  return absl::OkStatus();
}

absl::Status ImportCall::Take(Memory& memory, const pb::AddRequest& request) {
  if (scope_.empty()) scope_ = ScopeOrDefault(request.scope());
  if (!request.scope().empty() && request.scope() != scope_)
    return absl::InvalidArgumentError("an import is into one scope, and a later message names another");
  const absl::StatusOr<uint64_t> added = AddTo(memory, owner_, scope_, request);
  if (!added.ok()) return added.status();
  added_ += *added;
  return absl::OkStatus();
}

}  // namespace omni
