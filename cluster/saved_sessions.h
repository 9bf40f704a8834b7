// Sessions that were saved by name: what there is to say of each, and its tokens. Both are bytes here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/coordination.h"
#include "store/state/database.h"

namespace omni {

struct SavedSession {
  std::string id;
  uint64_t revision = 0;  // another after every change, and never 0
  std::string about;
  std::string tokens;  // empty in lists
};

// Thread-safe. Callbacks come once, on a thread of the store or before the call returns. Ids have no slash.
class SavedSessions {
 public:
  using Done = std::function<void(absl::Status)>;

  virtual ~SavedSessions() = default;
  // All or nothing, lasting when it is done, as far as the database or the store makes it so; gives the new
  // revision. `expected` is that of what it takes the place of, 0 if nothing. AlreadyExists: there is one
  // where none was expected; Aborted: it is of another revision, or gone. ResourceExhausted: it would be one
  // more than kMost of those whose ids begin like this one up to its last dot.
  virtual void Put(const SavedSession& session, uint64_t expected,
                   std::function<void(absl::StatusOr<uint64_t>)> done) = 0;
  virtual void Find(const std::string& id, std::function<void(absl::StatusOr<SavedSession>)> done) = 0;
  // Those whose ids begin so, ascending by id, without tokens.
  virtual void List(const std::string& prefix,
                    std::function<void(absl::StatusOr<std::vector<SavedSession>>)> done) = 0;
  virtual void Delete(const std::string& id, Done done) = 0;  // NotFound

  static constexpr size_t kMost = 10'000;
};

// In a database of this node, which outlives it.
std::unique_ptr<SavedSessions> MakeDatabaseSavedSessions(Database& database);
// In the coordination store, which outlives it; whoever does not lead by revision `term()` changes nothing,
// and is told Unavailable.
std::unique_ptr<SavedSessions> MakeStoreSavedSessions(CoordinationStore& store,
                                                      std::function<uint64_t()> term);

}  // namespace omni
