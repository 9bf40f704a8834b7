#include "cluster/tasks/task_pusher.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "actors/task/task_log.h"
#include "cluster/http/http_client.h"
#include "engine/base/threads.h"

namespace omni {
namespace {

constexpr int kBatchEvents = 64;
constexpr size_t kBatchBytes = 256 << 10;
constexpr std::chrono::milliseconds kNotNow{1'000};      // until the store, or whoever leads, is asked again
constexpr std::chrono::milliseconds kLookAgain{60'000};  // while nothing is due
constexpr size_t kMostAnswer = 64 << 10;

const TaskClient kAnybody{"", true};

}  // namespace

const TaskPusher::Key TaskPusher::kScan;

absl::StatusOr<std::unique_ptr<TaskPusher>> TaskPusher::Start(TaskPusherOptions options, TaskEngine& engine) {
  const int threads = options.threads;
  if (absl::Status s = CheckThreads(threads, "tell of tasks"); !s.ok()) return s;
  std::unique_ptr<TaskPusher> pusher(new TaskPusher(std::move(options), engine));
  engine.AddListener(pusher.get());  // before the records are read, so that nothing comes between
  for (int n = 0; n < threads; ++n) pusher->threads_.emplace_back([self = pusher.get()] { self->Run(); });
  return pusher;
}

TaskPusher::~TaskPusher() {
  engine_.RemoveListener(this);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void TaskPusher::Added(const TaskPush& push) {
  const absl::StatusOr<PushTarget> target = CheckPushUrl(options_.config, push.url);
  const std::lock_guard lock(mutex_);
  Add(push, target.ok() ? target->server : "", /*anew=*/true);
}

// Locked. One that is allowed no more has no server, and is as one that is away, until it is given up.
void TaskPusher::Add(const TaskPush& push, const std::string& server, bool anew) {
  const Key key(push.task, push.name);
  const auto [it, fresh] = all_.try_emplace(key);
  One& one = it->second;
  if (const auto at = servers_.find(one.server); !fresh && !one.busy && one.news && at != servers_.end()) {
    at->second.due.erase({one.due, key});
    Forget(at);
  }
  if (fresh || anew) {
    one.told = push.told;
    one.due = {};
    one.failures = 0;
    ++one.version;
  }
  one.server = server;
  one.news = true;
  if (!one.busy) Wait(key, one);
  changed_.notify_one();
}

void TaskPusher::OnChanged(const std::set<TaskId>& tasks) {
  const std::lock_guard lock(mutex_);
  if (all_.empty()) return;
  bool any = false;
  for (const TaskId& task : tasks) {
    for (auto it = all_.lower_bound({task, ""}); it != all_.end() && it->first.first == task; ++it) {
      One& one = it->second;
      if (std::exchange(one.news, true) || one.busy) continue;
      Wait(it->first, one);
      any = true;
    }
  }
  if (any) changed_.notify_all();
}

std::optional<TaskPusher::Key> TaskPusher::Next(std::unique_lock<std::mutex>& lock) {
  while (!stopping_) {
    const Clock::time_point now = Clock::now();
    if (options_.serving != nullptr && now >= looked_ + kNotNow) {
      LookWhoServes(lock, now);
      continue;
    }
    if (scan_ && now >= scan_at_) {
      scan_ = false;
      return kScan;
    }
    Clock::time_point wake = now + (options_.serving != nullptr ? kNotNow : kLookAgain);
    if (scan_) wake = std::min(wake, scan_at_);
    auto next = servers_.end();
    for (auto it = servers_.begin(); it != servers_.end(); ++it) {
      const Server& server = it->second;
      if (server.due.empty() || server.busy >= options_.of_server) continue;  // until one of them is done
      if (server.failing && failing_ >= most_failing()) continue;
      if (server.due.begin()->first > now) {
        wake = std::min(wake, server.due.begin()->first);
      } else if (next == servers_.end() || *server.due.begin() < *next->second.due.begin()) {
        next = it;
      }
    }
    if (next != servers_.end()) {
      Server& server = next->second;
      const Key key = server.due.begin()->second;
      server.due.erase(server.due.begin());
      ++server.busy;
      One& one = all_.at(key);
      one.busy = true;
      one.news = false;
      return key;
    }
    changed_.wait_until(lock, wake);
  }
  return std::nullopt;
}

// Whoever comes to keep tasks again has not heard of what was recorded meanwhile.
void TaskPusher::LookWhoServes(std::unique_lock<std::mutex>& lock, Clock::time_point now) {
  looked_ = now;
  lock.unlock();
  const bool serves = options_.serving().ok();
  lock.lock();
  if (serves && !served_) scan_ = true;
  served_ = serves;
}

void TaskPusher::Scan(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  std::vector<std::pair<TaskPush, std::string>> found;
  const absl::Status scanned = engine_.reader().ScanPushes([&](const TaskPush& push) {
    const absl::StatusOr<PushTarget> target = CheckPushUrl(options_.config, push.url);
    found.emplace_back(push, target.ok() ? target->server : "");
  });
  lock.lock();
  for (const auto& [push, server] : found) Add(push, server, /*anew=*/false);
  if (scanned.ok()) return;
  scan_ = true;
  scan_at_ = Clock::now() + kNotNow;
}

void TaskPusher::Run() {
  std::unique_lock lock(mutex_);
  while (const std::optional<Key> key = Next(lock)) {
    if (*key == kScan) {
      Scan(lock);
      continue;
    }
    One one = all_.at(*key);
    const auto server = servers_.find(one.server);  // stays while it is busy
    const bool failing = server->second.failing;
    failing_ += failing;
    lock.unlock();
    const Outcome outcome = Tell(*key, one);
    lock.lock();
    failing_ -= failing;
    --server->second.busy;
    if (outcome != Outcome::kGone && outcome != Outcome::kNotNow)
      server->second.failing = outcome == Outcome::kFailed;
    One& now = all_.at(*key);
    now.busy = false;
    if (now.version == one.version) {
      now.told = one.told;
      now.failures = one.failures;
    }
    Done(*key, outcome);
    Forget(server);
    changed_.notify_all();
  }
}

// Locked. One with which nothing is to be done; that it failed is known as long as somebody waits for it.
void TaskPusher::Forget(std::map<std::string, Server>::iterator server) {
  if (server->second.busy == 0 && server->second.due.empty()) servers_.erase(server);
}

// Locked.
void TaskPusher::Done(const Key& key, Outcome outcome) {
  One& one = all_.at(key);
  const Clock::time_point now = Clock::now();
  switch (outcome) {
    case Outcome::kGone:
      if (!one.news) {
        all_.erase(key);
        return;
      }
      break;  // it has come again meanwhile
    case Outcome::kAllTold:
    case Outcome::kMore:
      one.failures = 0;
      one.due = {};
      one.news = one.news || outcome == Outcome::kMore;
      break;
    case Outcome::kNotNow:
      one.due = now + kNotNow;
      one.news = true;
      break;
    case Outcome::kFailed: {
      if (one.failures++ == 0) one.failing_since = now;
      const auto most = static_cast<double>(options_.most.count());
      double wait = static_cast<double>(options_.first.count());
      for (int n = 1; n < one.failures && wait < most; ++n) wait *= 2;
      wait = std::min(wait, most) * (1 - 0.5 * std::uniform_real_distribution<double>(0, 1)(random_));
      one.due = now + std::chrono::milliseconds(static_cast<int64_t>(wait));
      one.news = true;
      break;
    }
  }
  if (one.news) Wait(key, one);
}

TaskPusher::Outcome TaskPusher::Tell(const Key& key, One& one) {
  const auto& [task, name] = key;
  if (options_.serving != nullptr && !options_.serving().ok()) return Outcome::kNotNow;
  const TaskReader& reader = engine_.reader();
  const absl::StatusOr<TaskPush> push = reader.FindPush(kAnybody, task, name);
  if (absl::IsNotFound(push.status())) return Outcome::kGone;
  const absl::StatusOr<TaskState> state = push.ok() ? reader.Find(kAnybody, task) : push.status();
  if (absl::IsNotFound(state.status())) return Outcome::kGone;
  if (!state.ok()) return Outcome::kNotNow;
  one.told = std::max(one.told, push->told);
  const absl::StatusOr<std::vector<TaskEvent>> events =
      reader.Events(kAnybody, task, one.told, kBatchEvents, kBatchBytes);
  if (absl::IsNotFound(events.status())) return Outcome::kGone;
  if (!events.ok()) return Outcome::kNotNow;
  const absl::StatusOr<PushTarget> target = CheckPushUrl(options_.config, push->url);
  for (const TaskEvent& event : *events) {
    const std::string body = options_.body(*state, event);
    if (!body.empty()) {
      const absl::Status sent = target.ok() ? Send(*push, *target, body) : target.status();
      if (!sent.ok()) {
        if (Stopping()) return Outcome::kNotNow;
        if (options_.failed != nullptr) options_.failed(one.server, sent);
        const bool over = one.failures > 0 && Clock::now() - one.failing_since >= options_.give_up;
        if (!over) {
          // Once a day's tries would fill the log.
          if (one.failures < 3) LogPushFailed(one.server, task, one.failures + 1, sent);
          return Outcome::kFailed;
        }
        LogPushGivenUp(one.server, task, sent);
      }
      engine_.Pushed(task, name, push->url, event.number, [](const absl::Status&) {});
      if (sent.ok()) one.failures = 0;
    }
    one.told = event.number;
  }
  return static_cast<int>(events->size()) == kBatchEvents || one.told < state->last_event ? Outcome::kMore
                                                                                          : Outcome::kAllTold;
}

absl::Status TaskPusher::Send(const TaskPush& push, const PushTarget& target, const std::string& body) {
  const std::string time = absl::StrCat(
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
  HttpClientOptions with;
  with.url = target.server;
  with.ca_file = target.server.starts_with("https://") ? options_.config.ca_file : "";
  with.connect_time = with.silence = options_.answer_time;
  with.most_bytes = kMostAnswer;
  with.find_host = FindPublicHost(options_.find_host);
  with.headers = {{"Content-Type", "application/a2a+json"},
                  {"Omni-Timestamp", time},
                  {"Omni-Signature", absl::StrCat("sha256=", SignPush(options_.config.key, time, body))}};
  if (!push.token.empty()) {
    // Receivers look for either name.
    with.headers.emplace_back("X-A2A-Notification-Token", push.token);
    with.headers.emplace_back("A2A-Notification-Token", push.token);
  }
  if (!push.scheme.empty())
    with.headers.emplace_back("Authorization", absl::StrCat(push.scheme, " ", push.credentials));
  const absl::StatusOr<std::unique_ptr<HttpClient>> client = HttpClient::Make(std::move(with));
  if (!client.ok()) return client.status();
  // A server that says a little now and then would be listened to for ever.
  const Clock::time_point until = Clock::now() + 3 * options_.answer_time;
  const absl::StatusOr<HttpClient::Answer> answer =
      (*client)->Post(target.path.empty() ? "/" : target.path, body, nullptr,
                      [&] { return !Stopping() && Clock::now() < until; });
  if (!answer.ok()) return answer.status();
  if (answer->status / 100 == 2) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      target.server, ": it answered ", answer->status,
      answer->status / 100 == 3 ? "; whoever is told is told where it was said, and nowhere else" : ""));
}

}  // namespace omni
