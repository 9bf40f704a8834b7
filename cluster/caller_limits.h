// What one caller may have of a server, however many others there are.
//
//     auto permit = limits.Enter(caller);            // ResourceExhausted says when to come back
//     if (!permit.ok()) return permit.status();
//     (*permit)->OnTokens(prompt.size());            // and 1 for each token that is drawn
//     if (auto s = (*permit)->InTime(); !s.ok()) …   // DeadlineExceeded: it has had its time
//
// Tokens are counted when they are used, and a bucket that fills again with so many a minute pays for them. A
// request begins if there is anything in it, and may leave it owing: nobody has to guess how long an answer
// will be, an answer that has begun is not cut off, and whoever owes waits until that is paid.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

struct CallerLimitOptions {
  int64_t requests = 0;               // at one time; 0: no limit
  int64_t tokens_per_minute = 0;      // of prompts and answers; 0: no limit
  std::chrono::milliseconds time{0};  // that one request may take; 0: no limit
};

// Thread-safe.
class CallerLimits {
 public:
  using Clock = std::chrono::steady_clock;

  explicit CallerLimits(CallerLimitOptions options, std::function<Clock::time_point()> now = Clock::now);
  ~CallerLimits();

  // A request under way, until it is destroyed. May outlive the limits. Thread-safe.
  class Permit {
   public:
    virtual ~Permit() = default;
    virtual void OnTokens(int64_t tokens) = 0;
    virtual absl::Status InTime() const = 0;
  };
  // ResourceExhausted, with RetryAfter: it has as many requests under way as it may, or has used its tokens.
  absl::StatusOr<std::shared_ptr<Permit>> Enter(const std::string& caller);

  size_t callers() const;  // of which anything is known

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// When it is worth asking again; zero: nothing is said of that.
void SetRetryAfter(absl::Status& status, std::chrono::milliseconds after);
std::chrono::milliseconds RetryAfter(const absl::Status& status);

}  // namespace omni
