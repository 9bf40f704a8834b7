// How long what is kept of sessions stays there: until nobody has taken one up for so long, whether or not
// its answer had ended. Without a thread of its own; only whoever leads runs it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/counters.h"
#include "cluster/session_log.h"

namespace omni {

struct RetentionOptions {
  std::chrono::milliseconds keep = std::chrono::minutes(10);
  // Between looks; a session is kept for up to so much longer.
  std::chrono::milliseconds look() const;
};

// One thread, but for the log's callbacks.
class SessionRetention {
 public:
  using Clock = std::chrono::steady_clock;

  class Owner {
   public:
    virtual ~Owner() = default;
    virtual bool InUse(const std::string& id) = 0;   // somebody is given its answer now
    virtual void Post(std::function<void()> f) = 0;  // runs it later on the state's thread; thread-safe
  };

  // All references outlive the log's callbacks.
  SessionRetention(RetentionOptions options, SessionLog& log, Counter& forgotten, Owner& owner)
      : options_(options), log_(log), forgotten_(forgotten), owner_(owner) {}

  void OnTick(Clock::time_point now);  // as long as this process leads, at least every second
  void Stop() { stopped_ = true; }     // what is under way is the last
  // False: it is being forgotten just now; `then` is called when it is gone. True: whoever is InUse from now
  // on is not forgotten.
  bool MayBegin(const std::string& id, std::function<void()> then);

 private:
  void OnTimes(absl::StatusOr<LoggedTimes> times);
  void ForgetNext();
  void Rest();

  const RetentionOptions options_;
  SessionLog& log_;
  Counter& forgotten_;
  Owner& owner_;

  bool stopped_ = false, busy_ = false, more_ = false;  // more_: than went in one look
  Clock::time_point now_, looked_, next_;
  std::vector<std::string> over_;  // to be forgotten; the last one is being forgotten if `forgetting_`
  bool forgetting_ = false;
  std::vector<std::function<void()>> waiting_;  // until that is gone
};

}  // namespace omni
