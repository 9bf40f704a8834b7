// What is kept of sessions so that they outlive their coordinator: the request, then the tokens of the
// answer, each before it is shown. Prompt, settings and tokens so far are all that a session is: whoever goes
// on from them gives the tokens that would have followed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/coordination.h"
#include "engine/base/ids.h"
#include "store/state/database.h"

namespace omni {

struct LoggedSession {
  std::string request;          // as the client gave it
  std::vector<TokenId> tokens;  // of the answer
  std::string finished;         // why it ended; empty: it goes on
};

// Tokens of one session that follow those logged before.
struct LoggedTokens {
  std::string id;
  int64_t first = 0;  // the number of the first, from 0 on
  std::vector<TokenId> tokens;
  std::string finished;  // if the answer ends with them
};

// Thread-safe. Callbacks come once, on a thread of the log or before the call returns.
class SessionLog {
 public:
  using Done = std::function<void(absl::Status)>;

  virtual ~SessionLog() = default;
  // AlreadyExists: there is one of this name.
  virtual void Begin(const std::string& id, std::string request, Done done) = 0;
  // All or nothing, lasting when it is done. One call after another: the order is the caller's.
  virtual void Append(std::vector<LoggedTokens> tokens, Done done) = 0;
  virtual void Find(const std::string& id,
                    std::function<void(absl::StatusOr<LoggedSession>)> done) = 0;  // NotFound: none
  // Of sessions that ended or were last added to so long ago.
  virtual void Forget(const std::string& id, Done done) = 0;
};

// In a database of this node; how lasting is the database's affair. `database` outlives the log.
std::unique_ptr<SessionLog> MakeDatabaseSessionLog(Database& database);

// In the coordination store, where whichever coordinator leads finds it. Every write holds only as long as
// the leader record is of revision `term()`: what a deposed coordinator still computes is not logged, and so
// not shown. `store` outlives the log.
std::unique_ptr<SessionLog> MakeStoreSessionLog(CoordinationStore& store, std::function<uint64_t()> term);

}  // namespace omni
