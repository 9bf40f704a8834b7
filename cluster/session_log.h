// What is kept of sessions so that they outlive their coordinator: the request, then the tokens of the
// answer, each before it is shown. Prompt, settings and tokens so far are all that a session is: whoever goes
// on from them gives the tokens that would have followed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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

// What the log knows of the time that passes: it counts that in which somebody led, so that a clock which is
// set, a night switched off or a change of coordinators takes nobody's answer away before its time.
struct LoggedTimes {
  struct Session {
    std::string id;
    std::optional<std::chrono::milliseconds> idle_since;  // by `now`; none: it was in use of late
  };
  std::chrono::milliseconds now{0};
  std::vector<Session> sessions;
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
  // Leaves nothing of it. If that breaks off, what is left is a session that goes on from fewer tokens, and
  // may be forgotten again.
  virtual void Forget(const std::string& id, Done done) = 0;

  // Of all sessions; a new one is not idle.
  virtual void Times(std::function<void(absl::StatusOr<LoggedTimes>)> done) = 0;
  // Records the time and these sessions' being idle since or not, at most kMostTimes of them. They must be
  // there and not be forgotten meanwhile.
  virtual void SetTimes(const LoggedTimes& times, Done done) = 0;
  static constexpr size_t kMostTimes = 100;
  virtual void Touch(const std::string& id, Done done) = 0;  // it is in use, and not idle
};

// In a database of this node; how lasting is the database's affair. `database` outlives the log.
std::unique_ptr<SessionLog> MakeDatabaseSessionLog(Database& database);

// In the coordination store, where whichever coordinator leads finds it. Every write holds only as long as
// the leader record is of revision `term()`: what a deposed coordinator still computes is not logged, and so
// not shown. `store` outlives the log.
std::unique_ptr<SessionLog> MakeStoreSessionLog(CoordinationStore& store, std::function<uint64_t()> term);

}  // namespace omni
