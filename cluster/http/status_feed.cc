#include "cluster/http/status_feed.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include "engine/base/log.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

// What all watchers are told of a moment, and the lines of the log since the moment before.
struct Told {
  std::string status;
  int64_t log_after = 0, log_last = 0;
  std::string log;  // empty: none
  Clock::time_point made;
};

std::string StatusEvent(const std::string& json) {
  return absl::StrCat("event: status\ndata: ", json, "\n\n");
}

std::string LogEvent(const std::string& boot, const std::vector<RecentEvent>& events) {
  if (events.empty()) return {};
  return absl::StrCat("id: ", boot, "-", events.back().number, "\nevent: log\ndata: ", EventsJson(events),
                      "\n\n");
}

}  // namespace

struct StatusFeed::Impl : public std::enable_shared_from_this<StatusFeed::Impl> {
  class Watcher;

  Impl(Options o, StatusJson j, std::function<StatusMoment()> n, const RecentEvents& e)
      : options(std::move(o)), json(std::move(j)), now(std::move(n)), events(e) {}

  void Run();
  std::shared_ptr<const Told> Make();
  void Tell(const std::shared_ptr<const Told>& told);
  bool Add(const std::shared_ptr<HttpExchange>& exchange);  // false: its streams have ended
  void Remove(Watcher* watcher);

  const Options options;
  const StatusJson json;
  const std::function<StatusMoment()> now;
  const RecentEvents& events;
  std::atomic<int64_t> made{0};

  // On the server's thread.
  std::vector<Watcher*> watchers;
  std::shared_ptr<const Told> latest;

  // On the feed's thread.
  std::vector<int64_t> before;  // expert rows at the moment before
  int64_t log_after = 0;

  mutable std::mutex mutex;  // guards all that follows
  std::condition_variable changed;
  int64_t count = 0;                     // of watchers
  bool telling = false;                  // a moment is on its way to the server's thread
  bool over = false, ended = false;      // the feed; its streams
  std::shared_ptr<HttpExchange> poster;  // somebody's, to reach the server's thread with
  bool running = false;
  std::thread thread;  // while there are watchers, and to be joined
};

class StatusFeed::Impl::Watcher final : public HttpCall {
 public:
  // Of one that was added.
  Watcher(std::shared_ptr<Impl> feed, std::shared_ptr<HttpExchange> exchange, int64_t log_told)
      : feed_(std::move(feed)), exchange_(std::move(exchange)), log_told_(log_told) {
    feed_->watchers.push_back(this);
  }
  ~Watcher() override { feed_->Remove(this); }

  void OnQuiet() override {
    if (exchange_->unsent() == 0) exchange_->Write(": here\n\n");
  }
  void Tell(const Told& told) {
    // The first comes behind the answer's head, which may not have gone yet.
    if (std::exchange(told_, true) && exchange_->unsent() > 0) return;
    if (log_told_ == told.log_after) {
      exchange_->Write(absl::StrCat(told.log, told.status));
      log_told_ = told.log_last;
      return;
    }
    const std::vector<RecentEvent> lines = feed_->events.After(log_told_);
    if (!lines.empty()) log_told_ = lines.back().number;
    exchange_->Write(absl::StrCat(LogEvent(feed_->options.boot, lines), told.status));
  }
  void End() { exchange_->End(); }

 private:
  const std::shared_ptr<Impl> feed_;
  const std::shared_ptr<HttpExchange> exchange_;
  int64_t log_told_ = 0;
  bool told_ = false;  // anything
};

bool StatusFeed::Impl::Add(const std::shared_ptr<HttpExchange>& exchange) {
  std::lock_guard lock(mutex);
  if (ended) return false;
  ++count;
  poster = exchange;
  changed.notify_all();
  if (running || over) return true;
  if (thread.joinable()) thread.join();  // it is at its very end
  try {
    thread = std::thread([this] { Run(); });
    running = true;
  } catch (const std::system_error& refused) {  // asked again for the next watcher
    LogWarning("status_not_told", "no thread can be had to tell what happens: {reason}",
               {{"reason", refused.what()}});
  }
  return true;
}

void StatusFeed::Impl::Remove(Watcher* watcher) {
  std::erase(watchers, watcher);
  std::lock_guard lock(mutex);
  if (--count > 0) return;
  poster = nullptr;
  telling = false;  // what was on its way goes with its watcher
}

void StatusFeed::Impl::Run() {
  std::unique_lock lock(mutex);
  while (true) {
    if (over || ended || count == 0) break;
    if (!telling) {
      telling = true;
      const std::shared_ptr<HttpExchange> to = poster;
      lock.unlock();
      std::shared_ptr<const Told> told;
      try {
        told = Make();
      } catch (const std::bad_alloc&) {  // this moment is left out
      }
      to->Post([weak = weak_from_this(), told] {
        if (const auto self = weak.lock()) self->Tell(told);
      });
      lock.lock();
    }
    changed.wait_for(lock, options.interval, [this] { return over; });
  }
  before.clear();
  running = false;
}

std::shared_ptr<const Told> StatusFeed::Impl::Make() {
  auto told = std::make_shared<Told>();
  StatusMoment moment = now();
  told->status = StatusEvent(json.Text(moment, before));
  before = std::move(moment.now.swarm.expert_rows);
  const std::vector<RecentEvent> lines = events.After(log_after);
  told->log_after = log_after;
  if (!lines.empty()) log_after = lines.back().number;
  told->log_last = log_after;
  told->log = LogEvent(options.boot, lines);
  told->made = Clock::now();
  ++made;
  return told;
}

void StatusFeed::Impl::Tell(const std::shared_ptr<const Told>& told) {
  {
    std::lock_guard lock(mutex);
    telling = false;
  }
  if (told == nullptr) return;
  latest = told;
  for (Watcher* watcher : watchers) watcher->Tell(*told);
}

StatusFeed::StatusFeed(Options options, StatusJson json, std::function<StatusMoment()> now,
                       const RecentEvents& events)
    : impl_(std::make_shared<Impl>(std::move(options), std::move(json), std::move(now), events)) {}

StatusFeed::~StatusFeed() { Stop(); }

void StatusFeed::Stop() {
  std::thread thread;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->over = true;
    impl_->changed.notify_all();
    thread.swap(impl_->thread);
  }
  if (thread.joinable()) thread.join();
}

std::shared_ptr<HttpCall> StatusFeed::Watch(const HttpRequest& request,
                                            std::shared_ptr<HttpExchange> exchange) {
  if (!impl_->Add(exchange)) return nullptr;
  HttpAnswer head;
  head.content_type = "text/event-stream";
  head.headers = {{"Cache-Control", "no-store"}};
  exchange->Begin(head);
  // A number of another process's log says nothing of this one's.
  int64_t log_told = 0;
  const std::string last = request.Header("last-event-id");
  const size_t dash = last.rfind('-');
  if (dash == std::string::npos || last.substr(0, dash) != impl_->options.boot ||
      !absl::SimpleAtoi(last.substr(dash + 1), &log_told)) {
    log_told = 0;
  }
  auto watcher = std::make_shared<Impl::Watcher>(impl_, std::move(exchange),
                                                 std::clamp<int64_t>(log_told, 0, impl_->events.last()));
  // The next one comes within an interval; with nobody else there, at once.
  if (impl_->latest != nullptr && Clock::now() - impl_->latest->made <= impl_->options.interval)
    watcher->Tell(*impl_->latest);
  return watcher;
}

std::string StatusFeed::Moment() { return impl_->json.Text(impl_->now(), {}); }

void StatusFeed::End() {
  std::lock_guard lock(impl_->mutex);
  impl_->ended = true;
  if (impl_->poster == nullptr) return;
  impl_->poster->Post([weak = impl_->weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    const std::vector<Impl::Watcher*> all = self->watchers;
    for (Impl::Watcher* watcher : all) watcher->End();
  });
}

int64_t StatusFeed::watchers() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->count;
}
int64_t StatusFeed::made() const { return impl_->made; }

}  // namespace omni
