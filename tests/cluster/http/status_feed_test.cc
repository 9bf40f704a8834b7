// Watchers of the status over loopback: who is told what, and what it costs the server.
#include "cluster/http/status_feed.h"

#include <atomic>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cluster/http/raw_client.h"

namespace omni {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::Get;
using ::testing::HasSubstr;
using testing::RawClient;

constexpr char kStream[] = "/stream";

class FeedServer : public HttpHandler {
 public:
  explicit FeedServer(milliseconds interval, size_t experts = 8) : experts_(experts) {
    ProcessFacts facts;
    facts.config = *Preset("tiny");
    feed_ = std::make_unique<StatusFeed>(
        StatusFeed::Options{interval, "boot"}, StatusJson(facts, "small", 4), [this] { return Moment(); },
        events_);
    HttpServerOptions options;
    options.listen = "127.0.0.1:0";
    auto server = HttpServer::Listen(options, *this);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Run();
  }

  std::shared_ptr<HttpCall> OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    std::shared_ptr<HttpCall> watch;
    if (request.path == kStream) watch = feed_->Watch(request, exchange);
    if (watch == nullptr) exchange->Answer({});
    return watch;
  }
  HttpAnswer OnRefused(int, const std::string&) override { return {}; }
  void OnDone(const HttpDone&) override {}

  StatusFeed& feed() { return *feed_; }
  RecentEvents& events() { return events_; }
  HttpServer& server() { return *server_; }
  const std::string& address() const { return server_->address(); }
  // A request and its answer: whatever the server was to do before has been done.
  void RoundTrip() {
    RawClient client(address());
    client.Send(Get("/"));
    EXPECT_TRUE(client.Read().has_value());
  }
  bool WaitForWatchers(int64_t count) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (feed_->watchers() != count) {
      if (std::chrono::steady_clock::now() > until) return false;
      RoundTrip();
    }
    return true;
  }

 private:
  // Every moment has a number of its own, as the tokens of its answers.
  StatusMoment Moment() {
    StatusMoment moment;
    moment.now.swarm.tokens = ++number_;
    moment.now.swarm.experts = static_cast<int64_t>(experts_);
    moment.now.swarm.expert_rows.assign(experts_, 1'000'000'000 + number_);
    return moment;
  }

  const size_t experts_;
  std::atomic<int64_t> number_{0};
  RecentEvents events_;
  std::unique_ptr<StatusFeed> feed_;
  std::unique_ptr<HttpServer> server_;  // goes first
};

// Reads whole events of a stream whose chunks each hold some.
class Watcher {
 public:
  explicit Watcher(const std::string& address, const std::string& headers = "", int receive_bytes = 0)
      : client_(address, receive_bytes) {
    client_.Send(Get(kStream, headers));
  }

  // The next event of the kind; an empty one if the stream ends first.
  std::string Next(const std::string& kind) {
    const std::string head = "event: " + kind + "\ndata: ";
    while (true) {
      const size_t end = client_.got().find("\n\n", read_);
      if (end == std::string::npos) {
        if (!client_.ReadUntil("\n\n", read_)) return {};
        continue;
      }
      const std::string event = client_.got().substr(read_, end - read_);
      read_ = end + 2;
      if (const size_t at = event.find(head); at != std::string::npos) {
        before_ = event.substr(0, at);
        return event.substr(at + head.size());
      }
    }
  }
  json Status() { return json::parse(Next("status"), nullptr, false); }
  int64_t Number() { return Status()["tokens"]["answer"]; }
  json Log() { return json::parse(Next("log"), nullptr, false); }
  const std::string& before() const { return before_; }  // what of the event stood before its kind
  // The answer is over; the connection may go on.
  bool Ends() { return client_.ReadUntil("\r\n0\r\n\r\n"); }
  RawClient& client() { return client_; }

 private:
  RawClient client_;
  size_t read_ = 0;
  std::string before_;
};

TEST(StatusFeed, TellsTheFirstAtOnceAndAllTheSame) {
  FeedServer server(std::chrono::hours(1));
  Watcher first(server.address());
  const json moment = first.Status();
  ASSERT_TRUE(moment.is_object());
  EXPECT_EQ(moment["model"]["name"], "small");
  EXPECT_EQ(moment["tokens"]["answer"], 1);
  Watcher second(server.address());
  EXPECT_EQ(second.Status(), moment);
  EXPECT_EQ(server.feed().made(), 1);
}

TEST(StatusFeed, AMomentIsMadeOnceForAllWatchers) {
  FeedServer server(milliseconds(2));
  constexpr int kWatchers = 50, kMoments = 20;
  std::list<Watcher> watchers;
  for (int i = 0; i < kWatchers; ++i) watchers.emplace_back(server.address());
  std::set<int64_t> seen;
  for (Watcher& watcher : watchers) {
    for (int64_t i = 0, last = 0; i < kMoments; ++i) {
      const int64_t number = watcher.Number();
      EXPECT_GT(number, last);
      last = number;
      seen.insert(number);
    }
  }
  // Every moment has its number: were one made for each watcher, no two would have seen the same.
  EXPECT_LT(seen.size(), kWatchers * kMoments / 2);
  EXPECT_LE(*seen.rbegin(), server.feed().made());
  EXPECT_EQ(server.feed().watchers(), kWatchers);
}

TEST(StatusFeed, NothingIsMadeWhileNobodyWatches) {
  FeedServer server(milliseconds(1));
  for (int i = 0; i < 50; ++i) server.RoundTrip();
  EXPECT_EQ(server.feed().made(), 0);
  {
    Watcher watcher(server.address());
    watcher.Number();
    watcher.Number();
  }
  ASSERT_TRUE(server.WaitForWatchers(0));
  const int64_t made = server.feed().made();
  for (int i = 0; i < 200; ++i) server.RoundTrip();
  EXPECT_LE(server.feed().made(), made + 1);  // one may have been on its way
}

TEST(StatusFeed, ASlowReaderIsSkippedAndNotBuffered) {
  constexpr size_t kExperts = 4096;  // 45 kB a moment
  FeedServer server(milliseconds(1), kExperts);
  Watcher slow(server.address(), "", 4096), fast(server.address());
  ASSERT_TRUE(server.WaitForWatchers(2));
  int64_t reached = 0;
  constexpr int64_t kMoments = 1000;  // 45 MB: more than all buffers between the two hold
  while (reached < kMoments) reached = fast.Number();
  int64_t told = 0, number = 0, gap = 0;
  while (number < reached) {
    const int64_t next = slow.Number();
    gap = std::max(gap, next - number);
    number = next;
    ++told;
  }
  EXPECT_LT(told, kMoments / 2);
  EXPECT_GT(gap, kMoments / 2);
}

TEST(StatusFeed, LinesOfTheLogAreToldOnce) {
  FeedServer server(milliseconds(1));
  LogInfo("thing_happened", "the first thing");
  Watcher early(server.address());
  json lines = early.Log();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["message"], "the first thing");
  EXPECT_EQ(lines[0]["event"], "thing_happened");
  EXPECT_EQ(lines[0]["level"], "info");
  EXPECT_THAT(early.before(), HasSubstr("id: boot-1\n"));
  LogWarning("thing_happened", "the second \"thing\"\n\n of \xff bytes");
  lines = early.Log();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["number"], 2);
  EXPECT_THAT(lines[0]["message"].get<std::string>(), HasSubstr("\"thing\"\n\n of \xEF\xBF\xBD"));
  Watcher late(server.address());
  EXPECT_EQ(late.Log().size(), 2u);
  Watcher again(server.address(), "Last-Event-ID: boot-1\r\n");
  lines = again.Log();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["number"], 2);
  // Of another process, of no process, and of the future.
  for (const char* id : {"other-1", "boot-", "boot", "-1", "boot-99999999999999999999"}) {
    Watcher other(server.address(), std::string("Last-Event-ID: ") + id + "\r\n");
    EXPECT_EQ(other.Log().size(), 2u) << id;
  }
  Watcher ahead(server.address(), "Last-Event-ID: boot-77\r\n");
  EXPECT_GT(ahead.Number(), 0);
  LogInfo("thing_happened", "the third thing");
  EXPECT_EQ(ahead.Log()[0]["number"], 3);
}

TEST(StatusFeed, KeepsSoManyLinesAndNoMore) {
  FeedServer server(milliseconds(1));
  constexpr size_t kLines = RecentEvents::kMost + 10;
  for (size_t i = 0; i < kLines; ++i) {
    const std::string message(i == kLines - 1 ? 5000 : 3, 'x');
    const LogField field("text", message);
    server.events().Write({.event = "line", .sentence = "{text}", .fields = {&field, 1}, .time = {}});
  }
  Watcher watcher(server.address());
  const json lines = watcher.Log();
  ASSERT_EQ(lines.size(), RecentEvents::kMost);
  EXPECT_EQ(lines.front()["number"], 11);
  EXPECT_EQ(lines.back()["message"].get<std::string>().size(), RecentEvents::kMostMessage);
}

TEST(StatusFeed, StreamsEndWhenTheyAreToldTo) {
  FeedServer server(std::chrono::hours(1));
  Watcher watcher(server.address());
  watcher.Number();
  server.feed().End();
  EXPECT_TRUE(watcher.Ends());
  EXPECT_TRUE(server.server().Drain(std::chrono::minutes(1)));
}

TEST(StatusFeed, WhoeverComesAfterItsStreamsHaveEndedGetsNone) {
  FeedServer server(milliseconds(1));
  server.feed().End();  // with nobody there who could be told
  RawClient late(server.address());
  late.Send(Get(kStream));
  const auto answer = late.Read();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->headers.at("Content-Length"), "0");
  EXPECT_EQ(server.feed().watchers(), 0);
}

TEST(StatusFeed, OnceItIsStoppedNothingIsMadeThoughSomebodyWatches) {
  FeedServer server(milliseconds(1));
  Watcher watcher(server.address());
  watcher.Number();
  server.feed().Stop();
  const int64_t made = server.feed().made();
  for (int i = 0; i < 200; ++i) server.RoundTrip();
  EXPECT_EQ(server.feed().made(), made);
  EXPECT_EQ(server.feed().watchers(), 1);
}

TEST(StatusFeed, WatchersMayComeAndGoWhileItEnds) {
  for (int round = 0; round < 20; ++round) {
    FeedServer server(milliseconds(1));
    std::list<Watcher> watchers;
    for (int i = 0; i < 5; ++i) watchers.emplace_back(server.address());
    watchers.front().Number();
    watchers.pop_back();
  }
}

}  // namespace
}  // namespace omni
