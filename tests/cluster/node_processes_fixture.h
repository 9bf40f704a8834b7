// Clusters of processes, a coordinator and workers, and what one process answers.
#pragma once

#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "actors/memory.h"
#include "cluster/cluster_client.h"
#include "cluster/node.h"
#include "engine/text/prompt.h"
#include "store/pack/pack.h"
#include "tests/testing/adapters.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/node_process.h"
#include "tests/testing/polytopes.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

inline constexpr int kSessions = 8;
inline constexpr int64_t kTokens = 120;

inline std::string Prompt(int session) { return absl::StrCat("session ", session, " begins"); }

inline ClusterClient::Request RequestOf(int session) {
  ClusterClient::Request request;
  request.prompt = Prompt(session);
  request.max_tokens = kTokens;
  request.sampler.seed = static_cast<uint64_t>(session) + 1;
  request.sampler.temperature = session % 2 == 0 ? 0.0f : 0.9f;
  request.stop_at_end_of_text = false;
  // Two of four have perspectives, whose rows go to the regions like all others, one of these everything else
  // that acts around a token, and another nothing but that.
  // And one asks a memory where its perspectives cannot decide.
  if (session % 4 == 1) request.perspectives = *ParsePerspectives("far,every=2,examine=3,tau=0.001");
  if (session % 4 == 1) request.memory = "facts";
  if (session % 8 == 2) request.perspectives = *ParsePerspectives("near,use=average,every=3");
  if (session % 8 == 6) request.perspectives = *ParsePerspectives("far,use=majority,every=2,tau=0");
  if (session % 4 == 2) request.adapter = "mine";
  if (session % 4 >= 2) {
    request.safety = "tight";
    request.context_memory = true;
  }
  return request;
}

// What the token tells beside its text and likelihood, as bytes.
inline std::string Told(const GenerateEvent& event) {
  std::string told = absl::StrCat(event.token.value);
  const auto add = [&told](float value) { told.append(reinterpret_cast<const char*>(&value), sizeof value); };
  if (event.notes.safety.has_value()) {
    add(event.notes.safety->distance);
    absl::StrAppend(&told, event.notes.safety->half_spaces);
  }
  if (event.notes.contexts.has_value()) {
    add(event.notes.contexts->weight);
    absl::StrAppend(&told, event.notes.contexts->order);
  }
  if (!event.confidence.has_value()) return told;
  add(event.confidence->confidence);
  if (event.confidence->looked.has_value()) {
    const PerspectiveVerdict& v = *event.confidence->looked;
    add(v.disagreement);
    absl::StrAppend(&told, v.votes, v.disagree, v.uncertain, v.changed);
  }
  return told;
}

class NodeProcessesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_dir_ = std::make_unique<TempDir>();
    ASSERT_TRUE(WriteRandomCheckpoint(*model_dir_ / "checkpoint", SmallConfig(), 5).ok());
    ASSERT_TRUE(PackModel(*model_dir_ / "checkpoint", Model(), {}).ok());
    std::ofstream(Model() + "/polytopes.omni", std::ios::binary)
        << PolytopeBytes({RandomPolytope("tight", SmallConfig().d, 30, 0.3f, 1)});
    NodeOptions options;
    options.model = Model();
    options.adapters = Adapters();
    options.memory = Memories();
    {
      const auto memory = Memory::Open(Memories());
      ASSERT_TRUE(memory.ok()) << memory.status();
      for (const char* key : {"session", "begins", "session 1 begins", "the"})
        ASSERT_TRUE((*memory)->Add("facts", {{key, "the end of the day"}}).ok());
    }
    auto node = Node::Start(nullptr, options);
    ASSERT_TRUE(node.ok()) << node.status();
    // Of every kind that there is: the layers' and the positions too.
    const Adapter adapter = RandomAdapter((*node)->model().config(), (*node)->model().hash(), 0.1f, 1);
    ASSERT_TRUE(AdapterFiles(Adapters()).Save("mine", adapter.Write()).ok());
    for (int s = 0; s < kSessions; ++s) {
      const ClusterClient::Request ask = RequestOf(s);
      GenerateRequest request;
      request.prompt = PromptTokens((*node)->model().tokenizer(), ask.prompt);
      request.max_tokens = ask.max_tokens;
      request.sampler = ask.sampler;
      request.perspectives = ask.perspectives;
      request.safety.polytope = ask.safety;
      request.memory.scope = ask.memory;
      request.context_memory = ask.context_memory;
      request.adapter.name = ask.adapter;
      request.stop_at_end_of_text = false;
      std::vector<std::string>& told = want_told_.emplace_back();
      auto result = (*node)->swarm().Generate(std::move(request), [&](const GenerateEvent& event) {
        if (event.is_token) told.push_back(Told(event));
        return true;
      });
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(s != 1 || (*node)->swarm().Stats().memory_recalled > 0) << "the memory is never asked";
      want_.push_back(result->tokens);
      want_text_.push_back(result->text);
    }
  }
  static void TearDownTestSuite() { model_dir_.reset(); }
  static std::string Model() { return *model_dir_ / "model"; }
  static std::string Memories() { return *model_dir_ / "memories"; }
  static std::string Adapters() { return *model_dir_ / "adapters"; }

  NodeProcess& Start(const std::string& name, std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--name", name, "--log-level", "info", "--threads", "1"});
    auto& node = nodes_[name];
    node = nullptr;
    node = std::make_unique<NodeProcess>(OMNI_PROGRAM, std::move(arguments), dir_ / (name + ".log"));
    return *node;
  }
  // The coordinator offers no memory for experts, so that every region is to be elsewhere.
  void StartCoordinator(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"--listen",    address_.empty() ? "127.0.0.1:0" : address_,
                                          "-m",          Model(),
                                          "--offer-ram", "1",
                                          "--state",     dir_ / "state",
                                          "--adapters",  Adapters(),
                                          "--memory",    Memories()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    address_ = Start("coordinator", arguments).WaitForAddress();
    ASSERT_FALSE(address_.empty()) << nodes_["coordinator"]->Log();
  }
  void StartWorker(const std::string& name, const std::string& model = Model(),
                   const std::string& listen = "") {
    std::string& address = worker_addresses_[name];
    if (!listen.empty()) address = listen;
    std::vector<std::string> arguments = {
        "--listen", address.empty() ? "127.0.0.1:0" : address, "-m", model, "--join", address_};
    arguments.insert(arguments.end(), worker_arguments_.begin(), worker_arguments_.end());
    address = Start(name, arguments).WaitForAddress();
    ASSERT_FALSE(address.empty()) << nodes_[name]->Log();
  }

  std::unique_ptr<ClusterClient> Client() {
    auto client = ClusterClient::Make({.addresses = {address_}, .certificates = client_certificates_});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  // Waits until the cluster is as it is to be.
  void Await(const char* what, const std::function<bool(const ClusterReport&)>& is_so) {
    const auto client = Client();
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    absl::StatusOr<ClusterReport> report;
    while (std::chrono::steady_clock::now() < until) {
      report = client->Status();
      if (report.ok() && is_so(*report)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    std::string logs;
    for (const auto& [name, node] : nodes_) absl::StrAppend(&logs, "--- ", name, "\n", node->Log());
    FAIL() << "not within a minute: " << what << "\n" << report.status() << "\n" << logs;
  }
  void AwaitSpread(size_t workers) {
    Await("all regions are at the workers, with shadows where there are two",
          [&](const ClusterReport& report) {
            size_t up = 0;
            for (const NodeView& node : report.view.nodes) up += node.up && !node.self;
            for (const RegionView& region : report.view.regions) {
              if (region.record.owner.value == "coordinator" || !region.record.target.value.empty())
                return false;
              if (workers > 1 && region.record.shadow.value.empty()) return false;
            }
            return up == workers;
          });
  }

  // One answer; `at` is done when so many of its tokens have come.
  void ExpectAnswer(int session, const std::map<size_t, std::function<void()>>& at = {}) {
    size_t tokens = 0;
    told_.clear();
    auto answer = Client()->Generate(RequestOf(session), [&](const GenerateEvent& event) {
      if (event.is_token) {
        told_.push_back(Told(event));
        if (const auto deed = at.find(++tokens); deed != at.end()) deed->second();
      }
      return true;
    });
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->tokens, want_[static_cast<size_t>(session)]) << "session " << session;
    EXPECT_EQ(answer->text, want_text_[static_cast<size_t>(session)]);
    EXPECT_EQ(answer->reason, "length");
    last_ = *std::move(answer);
  }
  void ExpectAllAnswers() {
    std::vector<std::thread> threads;
    std::vector<absl::StatusOr<ClusterClient::Answer>> answers(kSessions);
    for (int s = 0; s < kSessions; ++s) {
      threads.emplace_back(
          [&, s] { answers[static_cast<size_t>(s)] = Client()->Generate(RequestOf(s), nullptr); });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t s = 0; s < kSessions; ++s) {
      ASSERT_TRUE(answers[s].ok()) << answers[s].status();
      EXPECT_EQ(answers[s]->tokens, want_[s]) << "session " << s;
    }
  }

  inline static std::unique_ptr<TempDir> model_dir_;
  inline static std::vector<std::vector<TokenId>> want_;
  inline static std::vector<std::string> want_text_;
  inline static std::vector<std::vector<std::string>> want_told_;  // by token
  TempDir dir_;
  std::string address_;
  std::string client_certificates_;
  std::vector<std::string> worker_arguments_;
  std::map<std::string, std::string> worker_addresses_;
  std::map<std::string, std::unique_ptr<NodeProcess>> nodes_;
  ClusterClient::Answer last_;
  std::vector<std::string> told_;  // with it
};

}  // namespace omni::testing
