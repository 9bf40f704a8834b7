// The status of a process for any number of watchers, as a stream of events.
//
// A moment is made a few times a second as long as anybody watches, once for all of them, on a thread of its
// own; with nobody there the thread sleeps and nothing is made. A watcher that has not taken what it was
// told last is left out until it has: every moment is whole, so all it misses is moments that are over, and
// nothing is kept for it.
//
//     event: status          a moment (status_json.h)
//     id: BOOT-NUMBER
//     event: log             lines of the log that the watcher has not been told, the oldest first
//
// BOOT is drawn when the process starts. Who comes back and says the last id it got (Last-Event-ID) is told
// the lines since; anybody else those that are kept.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "cluster/http/http_server.h"
#include "cluster/http/recent_events.h"
#include "cluster/http/status_json.h"

namespace omni {

// Where nothing else is said, on the server's thread; made and destroyed on any.
class StatusFeed {
 public:
  struct Options {
    std::chrono::milliseconds interval{250};  // between moments
    std::string boot;                         // [0-9a-z]+
  };
  // `now` is called on any thread and does not wait. What it uses, and `events`, outlive the feed.
  StatusFeed(Options options, StatusJson json, std::function<StatusMoment()> now, const RecentEvents& events);
  ~StatusFeed();

  // Answers with a stream that goes on until the client leaves. Null, and nothing is answered: End was
  // called.
  std::shared_ptr<HttpCall> Watch(const HttpRequest& request, std::shared_ptr<HttpExchange> exchange);
  std::string Moment();  // one, for who asks once
  void End();            // of all streams, soon; from now on there are none. Any thread
  void Stop();           // of moments for watchers; once it returns `now` is not called for them. Any thread

  int64_t watchers() const;  // any thread
  int64_t made() const;      // moments made for watchers since the start; any thread

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace omni
