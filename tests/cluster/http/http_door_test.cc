// The door in front of a swarm, over loopback: what clients get is what the engine alone gives.
#include "cluster/http/http_door.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cluster/http/door_fixture.h"
#include "tests/testing/adapters.h"
#include "tests/testing/polytopes.h"

namespace omni {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::Get;
using ::testing::HasSubstr;
using testing::kChat;
using testing::kCompletions;
using testing::kEndless;
using testing::PolytopeBytes;
using testing::Post;
using testing::RandomAdapter;
using testing::RandomPolytope;
using testing::RawAnswer;
using testing::RawClient;

class HttpDoorTest : public testing::HttpDoorFixture {};

TEST_F(HttpDoorTest, AnAnswerIsTheEnginesOwn) {
  Open();
  for (int seed = 1; seed < 4; ++seed) {
    const std::vector<std::string> alone = Alone(seed);
    const RawAnswer whole = Ask(Post(kChat, ChatBody(seed, false)));
    EXPECT_EQ(TokensOf(whole), alone);
    const json body = json::parse(whole.body);
    EXPECT_EQ(body["usage"]["completion_tokens"], alone.size());

    const RawAnswer stream = Ask(Post(kChat, ChatBody(seed, true)));
    EXPECT_EQ(stream.headers.at("Content-Type"), "text/event-stream");
    std::vector<std::string> tokens;
    const std::vector<json> events = Events(stream);
    ASSERT_GT(events.size(), 3u);
    std::string text;
    for (size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(events[i]["id"], events[0]["id"]);
      const bool usage = i + 1 == events.size();
      EXPECT_EQ(events[i]["usage"].is_null(), !usage);
      EXPECT_EQ(events[i]["choices"].size(), usage ? 0u : 1u);
      if (usage) break;
      const json& choice = events[i]["choices"][0];
      EXPECT_EQ(choice["finish_reason"].is_null(), i + 2 != events.size());
      AddTokens(choice, tokens);
    }
    EXPECT_EQ(tokens, alone);
    EXPECT_EQ(events.back()["usage"], body["usage"]);
  }
}

TEST_F(HttpDoorTest, ManyAtOnceGetWhatEachGetsAlone) {
  Open();
  constexpr int kClients = 24;
  std::list<RawClient> clients;
  for (int seed = 0; seed < kClients; ++seed)
    clients.emplace_back(door_->address()).Send(Post(kChat, ChatBody(seed, seed % 2 == 0)));
  int seed = 0;
  for (RawClient& client : clients) {
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value());
    std::vector<std::string> tokens;
    if (seed % 2 == 0) {
      for (const json& event : Events(*answer)) {
        if (!event["choices"].empty()) AddTokens(event["choices"][0], tokens);
      }
    } else {
      tokens = TokensOf(*answer);
    }
    EXPECT_EQ(tokens, Alone(seed)) << seed;
    ++seed;
  }
}

TEST_F(HttpDoorTest, ACompletionEndsBeforeAStopText) {
  Open();
  GenerateRequest request;
  request.prompt = {TokenId(97)};
  request.max_tokens = 60;
  request.sampler.temperature = 0;
  request.stop_at_end_of_text = true;
  const auto alone = node_->swarm().Generate(request, nullptr);
  ASSERT_TRUE(alone.ok()) << alone.status();
  json body = {{"prompt", {97}}, {"max_tokens", 60}, {"temperature", 0}};
  const json whole = json::parse(Ask(Post(kCompletions, body.dump())).body);
  EXPECT_EQ(whole["usage"]["completion_tokens"], alone->tokens.size());
  EXPECT_EQ(whole["object"], "text_completion");
  // A letter that it says, as the end of it.
  const size_t at = alone->text.find_first_of("abcdefghijklmnopqrstuvwxyz0123456789 ,.;");
  ASSERT_NE(at, alone->text.npos);
  body["stop"] = alone->text.substr(at, 1);
  const json stopped = json::parse(Ask(Post(kCompletions, body.dump())).body);
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(stopped["choices"][0]["text"].get<std::string>().find(alone->text[at]), std::string::npos);
}

TEST_F(HttpDoorTest, AClientThatGoesAwayEndsItsSession) {
  Open();
  for (const bool stream : {true, false}) {
    SCOPED_TRACE(stream);
    auto client = std::make_unique<RawClient>(door_->address());
    client->Send(Post(kChat, ChatBody(1, stream, kEndless)));
    if (stream) {
      ASSERT_TRUE(client->ReadUntil("\"content\""));
    }
    ASSERT_TRUE(WaitForSessions(1, 0));
    client = nullptr;
    EXPECT_TRUE(WaitForSessions(0, 0));
  }
  EXPECT_THAT(Ask(Get("/metrics")).body, HasSubstr("omni_clients_gone_total 2"));
}

TEST_F(HttpDoorTest, WhenAllPlacesAreTakenOneIsToldToComeBack) {
  SwarmOptions swarm;
  swarm.coordinator.max_active = 1;
  swarm.coordinator.max_queued = 1;
  Open(swarm);
  RawClient first(door_->address()), second(door_->address());
  first.Send(Post(kChat, ChatBody(1, true, kEndless)));
  ASSERT_TRUE(WaitForSessions(1, 0));
  second.Send(Post(kChat, ChatBody(2, true, kEndless)));
  ASSERT_TRUE(WaitForSessions(1, 1));
  for (const bool stream : {false, true}) {
    const RawAnswer refused = Ask(Post(kChat, ChatBody(3, stream)));
    EXPECT_EQ(Error(refused, 429)["code"], "rate_limit_exceeded");
    EXPECT_EQ(refused.headers.at("Retry-After"), "1");
  }
  first.Close();
  second.Close();
  ASSERT_TRUE(WaitForSessions(0, 0));
  EXPECT_EQ(Ask(Post(kChat, ChatBody(3, false))).status, 200);
}

TEST_F(HttpDoorTest, WhatIsWrongWithARequestIsSaid) {
  Open();
  EXPECT_EQ(Error(Ask(Post(kChat, "{")), 400)["type"], "invalid_request_error");
  EXPECT_EQ(Error(Ask(Post(kChat, R"({"messages": 3})")), 400)["param"], "messages");
  EXPECT_EQ(Error(Ask(Post(kCompletions, R"({"prompt": "x", "n": 0})")), 400)["param"], "n");
  EXPECT_EQ(Error(Ask(Post(kCompletions, R"({"prompt": "x", "model": "y"})")), 404)["code"],
            "model_not_found");
  Error(Ask("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"), 415);
  Error(Ask("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
            "Content-Length: 2\r\n\r\n{}"),
        415);
  Error(Ask(Get("/v1/nothing")), 404);
  Error(Ask(Get("/nothing")), 404);
  EXPECT_EQ(Ask(Get(kChat)).headers.at("Allow"), "POST");
  Error(Ask(Get(kChat)), 405);
  EXPECT_EQ(Ask(Post("/health", "{}")).headers.at("Allow"), "GET, HEAD");
  Error(Ask(Post("/health", "{}")), 405);
  Error(Ask(Post(kChat, std::string(9 << 20, ' '))), 413);
  Error(Ask(Get("/health", "X: " + std::string(20000, 'x') + "\r\n")), 431);
}

TEST_F(HttpDoorTest, AnotherSitesNameIsRefused) {
  Open();
  for (const char* host :
       {"evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", "127.evil.example",
        "127.0.0.1.evil.example:8080", "127.0.0.1evil", "128.0.0.1", "[::2]", "[::1].evil.example"})
    Error(Ask("GET /health HTTP/1.1\r\nHost: " + std::string(host) + "\r\n\r\n"), 403);
  for (const char* host : {"localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "[::1]", "127.9.9.9"})
    EXPECT_EQ(Ask("GET /health HTTP/1.1\r\nHost: " + std::string(host) + "\r\n\r\n").status, 200) << host;
}

TEST_F(HttpDoorTest, AFailureIsNeverAnAnswer) {
  Open();
  for (const auto& [status, http] : {std::pair{absl::InternalError("broken"), 500},
                                     {absl::DataLossError("broken"), 500},
                                     {absl::UnavailableError("broken"), 503}}) {
    backend_->submitting = status;
    for (const bool stream : {false, true})
      EXPECT_EQ(Error(Ask(Post(kChat, ChatBody(1, stream))), http)["message"], "broken");
  }
}

TEST_F(HttpDoorTest, AModelThatBreaksWhileItAnswersIsAServersError) {
  OpenOptions open;
  open.residency = Residency::kStreamed;
  open.cache_bytes = 6 * testing::TileBytes(testing::StreamedConfig());
  Open({}, open);
  for (const auto& entry : std::filesystem::directory_iterator(temp_ / "m" + "/packs"))
    std::filesystem::resize_file(entry.path(), 4096);
  for (const bool stream : {false, true})
    EXPECT_EQ(Error(Ask(Post(kChat, ChatBody(1, stream))), 500)["type"], "server_error");
}

TEST_F(HttpDoorTest, SaysWhatItServesAndHowItIs) {
  Open();
  EXPECT_EQ(json::parse(Ask(Get("/health")).body)["status"], "ok");
  EXPECT_EQ(json::parse(Ask(Get("/ready")).body)["status"], "ready");
  const json models = json::parse(Ask(Get("/v1/models")).body);
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "small");
  EXPECT_EQ(models["models"][0]["name"], "small");
  EXPECT_EQ(json::parse(Ask(Get("/v1/models/small")).body), models["data"][0]);
  EXPECT_EQ(Error(Ask(Get("/v1/models/other")), 404)["code"], "model_not_found");
  const json props = json::parse(Ask(Get("/props")).body);
  EXPECT_EQ(props["total_slots"], 16);
  EXPECT_EQ(props["default_generation_settings"]["n_ctx"], 1'000'000);
  EXPECT_EQ(props["model_hash"], node_->model().hash());
  ASSERT_EQ(Ask(Post(kChat, ChatBody(1, false))).status, 200);
  const RawAnswer metrics = Ask(Get("/metrics"));
  EXPECT_THAT(metrics.headers.at("Content-Type"), HasSubstr("version=0.0.4"));
  EXPECT_THAT(metrics.body,
              AllOf(HasSubstr("omni_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1"),
                    HasSubstr("# TYPE omni_time_to_first_token_seconds histogram"), HasSubstr("omni_ready 1"),
                    HasSubstr("omni_sessions_total 1")));
}

TEST_F(HttpDoorTest, AnAnswerTellsWhatAPolytopeAndAMemoryOfContextsDid) {
  Open();
  const auto complete = [&](json more) {
    json body = {
        {"prompt", "the sea the sea the sea"}, {"max_tokens", 24}, {"ignore_eos", true}, {"seed", 1}};
    body.update(more);
    return Ask(Post(kCompletions, body.dump()));
  };
  EXPECT_THAT(Error(complete({{"safety", "tight"}}), 400)["message"].get<std::string>(),
              HasSubstr("there are none here"));
  std::ofstream(temp_ / "m/polytopes.new", std::ios::binary)
      << PolytopeBytes({RandomPolytope("tight", config_.d, 30, 0.3f, 1)});
  std::filesystem::rename(temp_ / "m/polytopes.new", temp_ / "m/polytopes.omni");
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!node_->polytopes().Take({"tight", ""}).ok() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));

  const json plain = json::parse(complete(json::object()).body)["choices"][0];
  EXPECT_FALSE(plain.contains("safety") || plain.contains("context_memory"));
  const json both = json::parse(
      complete({{"safety", "tight"}, {"context_memory", true}, {"logprobs", 1}}).body)["choices"][0];
  EXPECT_EQ(both["safety"]["tokens"], 24);
  EXPECT_GT(both["safety"]["projected"], 0);
  EXPECT_EQ(both["context_memory"]["tokens"], 24);
  EXPECT_GT(both["context_memory"]["recalled"], 0);
  const json& notes = both["logprobs"]["token_notes"];
  ASSERT_EQ(notes.size(), 24u);
  double largest = 0, weight = 0;
  for (const json& note : notes) {
    largest = std::max(largest, note["safety"]["distance"].get<double>());
    weight += note["context_memory"]["weight"].get<double>();
  }
  EXPECT_DOUBLE_EQ(both["safety"]["largest_distance"].get<double>(), largest);
  EXPECT_NEAR(both["context_memory"]["mean_weight"].get<double>(), weight / 24, 1e-6);
  // The last chunk of a stream has the same.
  const RawAnswer stream = complete({{"safety", "tight"}, {"context_memory", true}, {"stream", true}});
  EXPECT_THAT(stream.body, HasSubstr("\"safety\":" + both["safety"].dump()));
  EXPECT_THAT(stream.body, HasSubstr("\"context_memory\":" + both["context_memory"].dump()));
  const auto moved = std::to_string(2 * both["safety"]["projected"].get<int>());
  EXPECT_THAT(Ask(Get("/metrics")).body,
              AllOf(HasSubstr("omni_safety_tokens_total{moved=\"true\"} " + moved + "\n"),
                    HasSubstr("omni_context_tokens_total{recalled=\"true\"} ")));
}

TEST_F(HttpDoorTest, AnAdapterIsListedAndUsed) {
  Open();
  const auto complete = [&](json more) {
    json body = {{"prompt", "the sea"}, {"max_tokens", 24}, {"ignore_eos", true}, {"seed", 1}};
    body.update(more);
    return Ask(Post(kCompletions, body.dump()));
  };
  EXPECT_EQ(json::parse(Ask(Get("/v1/adapters")).body), json({{"object", "list"}, {"data", json::array()}}));
  EXPECT_THAT(Error(complete({{"adapter", "mine"}}), 400)["message"].get<std::string>(),
              HasSubstr("there is no adapter 'mine'"));
  const Adapter adapter = RandomAdapter(node_->model().config(), node_->model().hash(), 0.15f, 1);
  ASSERT_TRUE(AdapterFiles(temp_ / "adapters").Save("mine", adapter.Write()).ok());
  const json listed = json::parse(Ask(Get("/v1/adapters")).body)["data"];
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0]["id"], "mine");
  EXPECT_EQ(listed[0]["hash"], adapter.Hash());
  EXPECT_EQ(listed[0]["model_hash"], node_->model().hash());
  EXPECT_EQ(listed[0]["tokens"], 1000);
  const json adapted = json::parse(complete({{"adapter", "mine"}}).body)["choices"][0];
  EXPECT_EQ(adapted["finish_reason"], "length");
  EXPECT_NE(adapted["text"], json::parse(complete(json::object()).body)["choices"][0]["text"]);
  EXPECT_EQ(adapted, json::parse(complete({{"adapter", "mine"}}).body)["choices"][0]);
  EXPECT_THAT(Ask(Get("/metrics")).body, HasSubstr("omni_adapter_tokens_total 48\n"));
  // Every answer tells which state of it answered: whole and streamed, of each choice, and kept.
  const json told = {{"name", "mine"}, {"hash", adapter.Hash()}};
  EXPECT_EQ(adapted["adapter"], told);
  EXPECT_FALSE(json::parse(complete(json::object()).body)["choices"][0].contains("adapter"));
  const Adapter more = RandomAdapter(node_->model().config(), node_->model().hash(), 0.15f, 2);
  ASSERT_TRUE(AdapterFiles(temp_ / "adapters").Save("mine", more.Write()).ok());
  const json learned = {{"name", "mine"}, {"hash", more.Hash()}};
  EXPECT_NE(learned, told);
  const json two = json::parse(complete({{"adapter", "mine"}, {"n", 2}}).body);
  for (const json& choice : two["choices"]) EXPECT_EQ(choice["adapter"], learned);
  const std::string events = complete({{"adapter", "mine"}, {"stream", true}}).body;
  EXPECT_THAT(events, HasSubstr("\"adapter\":" + learned.dump()));
  EXPECT_EQ(events.find("\"adapter\""), events.rfind("\"adapter\""));  // once, where the choice ends
  EXPECT_GT(events.find("\"adapter\""), events.rfind("\"finish_reason\":null"));
  const json response = json::parse(
      Ask(Post("/v1/responses", R"({"input": "the sea", "max_output_tokens": 4, "adapter": "mine"})")).body);
  EXPECT_EQ(response["adapter"], learned);
  EXPECT_EQ(json::parse(Ask(Get("/v1/responses/" + response["id"].get<std::string>())).body)["adapter"],
            learned);
}

TEST_F(HttpDoorTest, ShowsAPageAndWhatIsOnIt) {
  Open();
  const RawAnswer page = Ask(Get("/"));
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.body, HasSubstr("<title>Omni</title>"));
  RawClient again(door_->address());
  again.Send(Get("/", "If-None-Match: " + page.headers.at("ETag") + "\r\n") + Get("/health"));
  const auto same = again.Read();
  ASSERT_TRUE(same.has_value());
  EXPECT_EQ(same->status, 304);
  EXPECT_EQ(same->headers.at("Content-Length"), "");  // the client looked for it and there was none
  const auto next = again.Read();                     // of the same connection
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->status, 200);
  EXPECT_EQ(Ask(Get("/web/page.js")).status, 200);
  Error(Ask(Get("/web/other.js")), 404);
  Error(Ask(Post("/", "{}")), 405);

  ASSERT_EQ(Ask(Post(kChat, ChatBody(1, false))).status, 200);
  const json status = json::parse(Ask(Get("/v1/status")).body);
  EXPECT_EQ(status["model"]["name"], "small");
  EXPECT_EQ(status["tokens"]["answer"], 24);
  EXPECT_EQ(status["process"]["ready"], true);
  RawClient watcher(door_->address());
  watcher.Send(Get("/v1/status/stream"));
  EXPECT_TRUE(watcher.ReadUntil("event: status\ndata: {"));
  EXPECT_THAT(watcher.got(), HasSubstr("Content-Type: text/event-stream"));
  const std::string metrics = Ask(Get("/metrics")).body;
  EXPECT_THAT(metrics,
              AllOf(HasSubstr("omni_status_watchers 1\n"), HasSubstr("omni_tokens_total{of=\"answer\"} 24\n"),
                    HasSubstr("omni_time_between_tokens_seconds_count 23\n"),
                    HasSubstr("route=\"/web/*\",status=\"200\"")));
}

TEST_F(HttpDoorTest, WatchersDoNotKeepItFromEnding) {
  Open();
  RawClient watcher(door_->address());
  watcher.Send(Get("/v1/status/stream"));
  ASSERT_TRUE(watcher.ReadUntil("event: status"));
  EXPECT_TRUE(door_->Drain(std::chrono::minutes(1)));
  EXPECT_THAT(watcher.ReadToEnd(), HasSubstr("\r\n0\r\n\r\n"));
  Error(Ask(Get("/v1/status/stream")), 503);
}

TEST_F(HttpDoorTest, WhatCannotServeYetIsNotReady) {
  Open();
  backend_->serving = absl::UnavailableError("no coordinator has been elected yet");
  EXPECT_EQ(Ask(Get("/health")).status, 200);
  for (const std::string& request : {Get("/ready"), Post(kChat, ChatBody(1, true))}) {
    const RawAnswer refused = Ask(request);
    EXPECT_THAT(Error(refused, 503)["message"].get<std::string>(), HasSubstr("elected"));
    EXPECT_EQ(refused.headers.at("Retry-After"), "1");
  }
}

TEST_F(HttpDoorTest, DrainingFinishesWhatRunsAndTakesNothingNew) {
  Open();
  RawClient endless(door_->address()), short_one(door_->address());
  endless.Send(Post(kChat, ChatBody(1, true, kEndless)));
  ASSERT_TRUE(endless.ReadUntil("\"content\""));
  short_one.Send(Post(kChat, ChatBody(2, true)));
  ASSERT_TRUE(short_one.ReadUntil("HTTP/1.1 200"));
  EXPECT_FALSE(door_->Drain(std::chrono::milliseconds(1)));
  Error(Ask(Get("/ready")), 503);
  EXPECT_EQ(Ask(Get("/health")).status, 200);
  Error(Ask(Post(kChat, ChatBody(3, false))), 503);
  const auto finished = short_one.Read();
  ASSERT_TRUE(finished.has_value());
  EXPECT_GT(Events(*finished).size(), 3u);
  endless.Close();
  EXPECT_TRUE(door_->Drain(std::chrono::minutes(1)));
}

}  // namespace
}  // namespace omni
