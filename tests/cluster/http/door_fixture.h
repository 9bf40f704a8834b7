// A door in front of a swarm of a small model, for tests to ask over loopback.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/http/http_door.h"
#include "cluster/node.h"
#include "cluster/node_status.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/node_backend.h"

namespace omni::testing {

using nlohmann::json;

inline constexpr int kEndless = 900'000;  // tokens: more than a test waits for
inline constexpr char kChat[] = "/v1/chat/completions", kCompletions[] = "/v1/completions";

// A node, and what a test wants to be wrong with it.
class TestBackend : public InferenceBackend {
 public:
  explicit TestBackend(Node& node) : node_(node) {}
  absl::Status Serving() override { return serving; }
  std::string Elsewhere() override { return {}; }
  absl::StatusOr<HeldMemory> HoldMemory(const std::string& caller, const MemoryChoice& choice) override {
    if (memories == nullptr) return InferenceBackend::HoldMemory(caller, choice);
    return memories->Hold(caller, choice);
  }
  absl::StatusOr<std::vector<OfferedAdapter>> Adapters() override { return node_.Adapters(); }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                        SubmitOptions options) override {
    if (!submitting.ok()) return submitting;
    return node_.Submit(std::move(request), std::move(options));
  }
  const Tokenizer& tokenizer() override { return node_.tokenizer(); }
  int64_t max_context() override { return node_.max_context(); }
  std::string model_hash() override { return node_.model_hash(); }
  std::string node() override { return node_.node(); }

  absl::Status serving, submitting;  // set while no request is under way
  MemorySource* memories = nullptr;

 private:
  NodeBackend node_;
};

class HttpDoorFixture : public StreamedTest {
 protected:
  void Open(SwarmOptions swarm = {}, OpenOptions open = {}) {
    Pack(StreamedConfig());
    NodeOptions options;
    options.model = temp_ / "m";
    options.adapters = temp_ / "adapters";
    options.open = open;
    options.swarm = swarm;
    options.swarm.threads = 1;
    auto node = Node::Start(nullptr, options);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    backend_ = std::make_unique<TestBackend>(*node_);
    status_ = std::make_unique<NodeStatus>(*node_);
    ServedModel model;
    model.name = "small";
    model.most_tokens = most_tokens_;
    HttpDoor::Behind behind = behind_;
    behind.backend = backend_.get();
    behind.status = status_.get();
    behind.slots = 16;
    behind.log_requests = log_requests_;
    HttpServerOptions http;
    http.listen = "127.0.0.1:0";
    auto door = HttpDoor::Open(http, model, behind);
    ASSERT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }
  void TearDown() override {
    door_ = nullptr;
    backend_ = nullptr;
    node_ = nullptr;
  }

  RawAnswer Ask(const std::string& request) {
    RawClient client(door_->address());
    client.Send(request);
    const auto answer = client.Read();
    EXPECT_TRUE(answer.has_value()) << request;
    return answer.value_or(RawAnswer());
  }
  // Of an answer that is an error in OpenAI's form.
  static json Error(const RawAnswer& answer, int status) {
    EXPECT_EQ(answer.status, status) << answer.body;
    const json body = json::parse(answer.body, nullptr, false);
    EXPECT_TRUE(body.is_object() && body.contains("error")) << answer.body;
    for (const char* key : {"message", "type", "param", "code"})
      EXPECT_TRUE(body["error"].contains(key)) << key;
    return body["error"];
  }
  bool WaitForSessions(int64_t active, int64_t queued) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::chrono::steady_clock::now() < until) {
      const SwarmStats stats = node_->swarm().Stats();
      if (stats.active == active && stats.queued == queued) return true;
      std::this_thread::yield();
    }
    return false;
  }

  // A chat that brings the bytes of every token, since random weights seldom say UTF-8.
  static std::string ChatBody(int seed, bool stream, int tokens = 24) {
    json body = {{"model", "small"},
                 {"messages", {{{"role", "user"}, {"content", "say " + std::to_string(seed)}}}},
                 {"max_tokens", tokens},
                 {"seed", seed},
                 {"logprobs", stream || tokens != kEndless},
                 {"ignore_eos", tokens == kEndless},
                 {"stream", stream}};
    if (stream) body["stream_options"] = {{"include_usage", true}};
    return body.dump();
  }
  ServedModel Served() {
    ServedModel model;
    model.name = "small";
    model.max_context = 1'000'000;
    model.tokenizer = &node_->model().tokenizer();
    return model;
  }
  // The same by the swarm itself: each token's bytes.
  std::vector<std::string> Alone(int seed, int tokens = 24) {
    const ServedModel model = Served();
    auto request = ReadChat(ChatBody(seed, false, tokens), model, 0);
    EXPECT_TRUE(request.ok()) << request.status();
    const auto result = node_->swarm().Generate(request->choices[0], nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    std::vector<std::string> bytes;
    for (const TokenId token : result->tokens) bytes.emplace_back(model.tokenizer->Bytes(token));
    return bytes;
  }
  static void AddTokens(const json& choice, std::vector<std::string>& out) {
    if (choice["logprobs"].is_null()) return;
    for (const json& token : choice["logprobs"]["content"]) {
      std::string bytes;
      for (const json& byte : token["bytes"]) bytes += static_cast<char>(byte.get<int>());
      out.push_back(bytes);
      EXPECT_LE(token["logprob"].get<double>(), 0);
    }
  }
  static std::vector<std::string> TokensOf(const RawAnswer& answer) {
    std::vector<std::string> tokens;
    EXPECT_EQ(answer.status, 200) << answer.body;
    const json body = json::parse(answer.body, nullptr, false);
    if (!body.is_object() || !body.contains("choices")) return tokens;
    AddTokens(body["choices"][0], tokens);
    return tokens;
  }
  // The events of a stream, which must end as it should.
  static std::vector<json> Events(const RawAnswer& answer) {
    EXPECT_EQ(answer.status, 200) << answer.body;
    std::vector<json> events;
    std::string_view rest = answer.body;
    for (size_t end; (end = rest.find("\n\n")) != rest.npos; rest.remove_prefix(end + 2)) {
      const std::string_view event = rest.substr(0, end);
      if (event.starts_with(':')) continue;
      EXPECT_TRUE(event.starts_with("data: "));
      if (event == "data: [DONE]") {
        EXPECT_EQ(end + 2, rest.size());
        return events;
      }
      events.push_back(json::parse(event.substr(6)));
    }
    ADD_FAILURE() << "no [DONE] at the end of " << answer.body;
    return events;
  }

  bool log_requests_ = true;  // before Open
  HttpDoor::Behind behind_;   // what Open does not fill in
  int64_t most_tokens_ = int64_t{1} << 40;
  std::unique_ptr<Node> node_;
  std::unique_ptr<TestBackend> backend_;
  std::unique_ptr<NodeStatus> status_;
  std::unique_ptr<HttpDoor> door_;
};

}  // namespace omni::testing
