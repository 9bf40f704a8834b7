#include "cluster/caller_limits.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <utility>

#include <absl/strings/cord.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr char kRetryAfter[] = "omni/retry-after-ms";
// Beyond so many, callers that have nothing under way and owe nothing are forgotten.
constexpr size_t kMostIdle = 1024;
constexpr std::chrono::milliseconds kSoon{1000};
constexpr double kMinute = 60;

double Seconds(CallerLimits::Clock::duration t) { return std::chrono::duration<double>(t).count(); }

}  // namespace

struct CallerLimits::Impl : std::enable_shared_from_this<Impl> {
  struct Caller {
    int64_t requests = 0;
    double tokens = 0;  // that may be used; below zero: owed
    Clock::time_point filled;
  };
  class Entry;

  Impl(CallerLimitOptions o, std::function<Clock::time_point()> n) : options(o), now(std::move(n)) {}

  double capacity() const { return static_cast<double>(options.tokens_per_minute); }
  void Fill(Caller& caller, Clock::time_point at) const {
    caller.tokens = std::min(capacity(), caller.tokens + capacity() * Seconds(at - caller.filled) / kMinute);
    caller.filled = at;
  }
  // With the mutex.
  void ForgetIdle(Clock::time_point at) {
    if (callers.size() <= kMostIdle) return;
    for (auto it = callers.begin(); it != callers.end();) {
      Fill(it->second, at);
      const bool idle = it->second.requests == 0 && it->second.tokens >= capacity();
      it = idle ? callers.erase(it) : std::next(it);
    }
  }

  const CallerLimitOptions options;
  const std::function<Clock::time_point()> now;
  std::mutex mutex;
  std::unordered_map<std::string, Caller> callers;
};

class CallerLimits::Impl::Entry final : public CallerLimits::Permit {
 public:
  Entry(std::shared_ptr<Impl> limits, std::string caller, Clock::time_point begun)
      : limits_(std::move(limits)), caller_(std::move(caller)), begun_(begun) {}
  ~Entry() override {
    const std::lock_guard lock(limits_->mutex);
    --limits_->callers.at(caller_).requests;
    limits_->ForgetIdle(limits_->now());
  }
  void OnTokens(int64_t tokens) override {
    if (limits_->options.tokens_per_minute <= 0) return;
    const std::lock_guard lock(limits_->mutex);
    limits_->callers.at(caller_).tokens -= static_cast<double>(tokens);
  }
  absl::Status InTime() const override {
    const std::chrono::milliseconds most = limits_->options.time;
    if (most.count() <= 0 || limits_->now() - begun_ < most) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat("the request has taken the ", most.count() / 1000.0,
                     " s that one may take here; ask for fewer tokens, or have --caller-time raised"));
  }

 private:
  const std::shared_ptr<Impl> limits_;
  const std::string caller_;
  const Clock::time_point begun_;
};

CallerLimits::CallerLimits(CallerLimitOptions options, std::function<Clock::time_point()> now)
    : impl_(std::make_shared<Impl>(options, std::move(now))) {}
CallerLimits::~CallerLimits() = default;

absl::StatusOr<std::shared_ptr<CallerLimits::Permit>> CallerLimits::Enter(const std::string& caller) {
  const Clock::time_point now = impl_->now();
  const CallerLimitOptions& options = impl_->options;
  const std::lock_guard lock(impl_->mutex);
  const auto [it, fresh] = impl_->callers.try_emplace(caller);
  Impl::Caller& known = it->second;
  if (fresh) {
    known.tokens = impl_->capacity();
    known.filled = now;
  }
  if (options.requests > 0 && known.requests >= options.requests) {
    absl::Status status = absl::ResourceExhaustedError(
        absl::StrCat("this caller has ", options.requests,
                     " requests under way, as many as one may have here; wait until one of them has ended"));
    SetRetryAfter(status, kSoon);
    return status;
  }
  if (options.tokens_per_minute > 0) {
    impl_->Fill(known, now);
    if (known.tokens < 1) {
      absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
          "this caller has used the ", options.tokens_per_minute, " tokens a minute that one may use here"));
      const double wait = (1 - known.tokens) * kMinute / impl_->capacity();
      SetRetryAfter(status,
                    std::chrono::ceil<std::chrono::milliseconds>(std::chrono::duration<double>(wait)));
      return status;
    }
  }
  ++known.requests;
  return std::make_shared<Impl::Entry>(impl_, caller, now);
}

size_t CallerLimits::callers() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->callers.size();
}

void SetRetryAfter(absl::Status& status, std::chrono::milliseconds after) {
  status.SetPayload(kRetryAfter, absl::Cord(absl::StrCat(after.count())));
}

std::chrono::milliseconds RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryAfter);
  int64_t ms = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &ms)) ms = 0;
  return std::chrono::milliseconds(std::max<int64_t>(ms, 0));
}

}  // namespace omni
