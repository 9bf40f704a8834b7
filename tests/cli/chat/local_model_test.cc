// A chat with a model of this process: nothing is computed twice, and what is kept changes no answer.
#include "cli/chat/local_model.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/state/adapter_files.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/adapters.h"

namespace omni::cli {
namespace {

class LocalModelTest : public testing::StreamedTest {
 protected:
  void SetUp() override {
    Pack(testing::StreamedConfig());
    NodeOptions options;
    options.model = temp_ / "m";
    options.swarm.threads = 1;
    options.adapters = temp_ / "adapters";
    auto node = Node::Start(nullptr, options);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    settings_.max_tokens = 12;
    settings_.sampler.seed = 3;
  }

  ChatReply Answer(LocalModel& model, const std::vector<ChatMessage>& messages) {
    ChatReply reply;
    const absl::Status status = model.Answer(
        messages, settings_, [](std::string_view) { return true; }, reply);
    EXPECT_TRUE(status.ok()) << status;
    return reply;
  }
  void SaveAdapter(const std::string& name, uint64_t seed) {
    const Adapter adapter =
        testing::RandomAdapter(node_->model().config(), node_->model().hash(), 0.15f, seed);
    ASSERT_TRUE(AdapterFiles(temp_ / "adapters").Save(name, adapter.Write()).ok());
  }
  // What is kept of all but the last of the messages.
  static std::string State(LocalModel& model, std::vector<ChatMessage> messages) {
    messages.pop_back();
    return model.SaveState(messages);
  }
  // What the model says to `messages` if everything is computed from the tokens that the kept state has seen.
  std::string Anew(LocalModel& model, const std::vector<ChatMessage>& messages) {
    const auto kept =
        SessionSnapshot::Restore(node_->model().config(), node_->model().hash(), State(model, messages));
    EXPECT_TRUE(kept.ok()) << kept.status();
    const Tokenizer& tokenizer = node_->model().tokenizer();
    const std::string text = ChatTemplate().Render(messages);
    GenerateRequest request = asks_;
    request.prompt = kept->tokens;
    std::string known = tokenizer.Decode(request.prompt);
    if (!text.starts_with(known) || request.prompt.back() == Tokenizer::kEndOfText) {
      request.prompt.resize(static_cast<size_t>(kept->state.position()));
      known = tokenizer.Decode(request.prompt);
    }
    EXPECT_TRUE(text.starts_with(known));
    for (const TokenId token : tokenizer.Encode(text.substr(known.size()))) request.prompt.push_back(token);
    request.max_tokens = settings_.max_tokens;
    request.sampler = settings_.sampler;
    request.stops = ChatTemplate().stops();
    request.stops.insert(request.stops.end(), settings_.stops.begin(), settings_.stops.end());
    const auto result = node_->swarm().Generate(request, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return result->text;
  }

  std::unique_ptr<Node> node_;
  ChatSettings settings_;
  GenerateRequest asks_;
};

TEST_F(LocalModelTest, AMessageCostsItsOwnTokensAlone) {
  LocalModel model(*node_, ChatTemplate());
  std::vector<ChatMessage> messages = {{"user", "the sea"}};
  int64_t seen = 0;
  for (int turn = 0; turn < 5; ++turn) {
    const std::string anew = turn == 0 ? "" : Anew(model, messages);
    const ChatReply reply = Answer(model, messages);
    if (turn > 0) {
      EXPECT_EQ(reply.message.content, anew);
      EXPECT_GE(*reply.kept + 1, seen);  // all but the last token, which was drawn and not computed
      EXPECT_LE(*reply.computed,
                static_cast<int64_t>(std::string("\nUser: and then\nAssistant:").size()) + 1);
    }
    seen = *reply.kept + *reply.computed + *reply.generated;
    messages.push_back(reply.message);
    messages.push_back({"user", "and then"});
  }
}

TEST_F(LocalModelTest, AnAnswerThatAStopEndedIsGoneOnWithoutIt) {
  LocalModel model(*node_, ChatTemplate());
  settings_.max_tokens = 60;
  const std::string whole = Answer(model, {{"user", "x"}}).message.content;
  ASSERT_GT(whole.size(), 4u);
  for (const size_t at : {whole.size() / 2, whole.size() / 3}) {
    LocalModel other(*node_, ChatTemplate());
    settings_.stops = {whole.substr(at, 1)};
    const ChatReply reply = Answer(other, {{"user", "x"}});
    EXPECT_EQ(reply.reason, "stop");
    const std::vector<ChatMessage> messages = {{"user", "x"}, reply.message, {"user", "y"}};
    const std::string anew = Anew(other, messages);
    const ChatReply next = Answer(other, messages);
    EXPECT_EQ(next.message.content, anew);
    EXPECT_GT(*next.kept, 0);
  }
}

TEST_F(LocalModelTest, AnotherAnswerGoesOnFromTheStateBeforeTheFirst) {
  LocalModel model(*node_, ChatTemplate());
  const ChatReply first = Answer(model, {{"user", "x"}});
  const std::vector<ChatMessage> messages = {{"user", "x"}, first.message, {"user", "y"}};
  const ChatReply second = Answer(model, messages);
  const ChatReply again = Answer(model, messages);
  EXPECT_EQ(again.message.content, second.message.content);
  EXPECT_EQ(again.kept, second.kept);
}

TEST_F(LocalModelTest, AKeptChatGoesOnWithTheSameBytes) {
  LocalModel model(*node_, ChatTemplate()), later(*node_, ChatTemplate());
  const ChatReply first = Answer(model, {{"user", "x"}});
  const std::vector<ChatMessage> messages = {{"user", "x"}, first.message, {"user", "y"}};
  const std::string state = State(model, messages);
  const ChatReply second = Answer(model, messages);
  ASSERT_TRUE(later.RestoreState(state).ok());
  const ChatReply resumed = Answer(later, messages);
  EXPECT_EQ(resumed.message.content, second.message.content);
  EXPECT_EQ(resumed.kept, second.kept);
  const std::vector<ChatMessage> whole = {{"user", "x"}, first.message, {"user", "y"}, second.message};
  EXPECT_NE(model.SaveState(whole), "");
  EXPECT_EQ(later.SaveState(whole), model.SaveState(whole));
  EXPECT_FALSE(later.RestoreState(state.substr(1)).ok());
}

// What acts around the token step acts on every answer, whatever was kept of those before it; where a stop
// has been overshot, too.
TEST_F(LocalModelTest, WhatIsAskedForActsOnEveryAnswerAlike) {
  SaveAdapter("me", 1);
  settings_.max_tokens = 24;
  GenerateRequest adapted, remembering, looking, all;
  adapted.adapter.name = all.adapter.name = "me";
  remembering.context_memory = all.context_memory = true;
  looking.perspectives = all.perspectives = *ParsePerspectives("far,use=average,every=1");
  std::vector<std::string> said;
  for (const GenerateRequest& asks : {GenerateRequest(), adapted, remembering, looking, all}) {
    asks_ = asks;
    LocalModel model(*node_, ChatTemplate(), asks_);
    std::vector<ChatMessage> messages = {{"user", "the sea, the sea, the sea"}};
    said.emplace_back();
    for (int turn = 0; turn < 4; ++turn) {
      const std::string anew = turn == 0 ? "" : Anew(model, messages);
      const ChatReply reply = Answer(model, messages);
      if (turn > 0) {
        EXPECT_EQ(reply.message.content, anew) << said.size() << " " << turn;
        EXPECT_GT(*reply.kept, 0);
      }
      EXPECT_EQ(reply.around.size(), (asks.adapter.name.empty() ? 0u : 1u) + (asks.context_memory ? 1u : 0u) +
                                         (asks.perspectives.has_value() ? 1u : 0u));
      said.back() += reply.message.content;
      messages.push_back(reply.message);
      messages.push_back({"user", "the sea, the sea"});
      // The next answer goes beyond where this one ended by itself.
      settings_.stops = {turn % 2 == 0 ? reply.message.content.substr(reply.message.content.size() / 2, 1)
                                       : "\x01"};
    }
    settings_.stops.clear();
  }
  EXPECT_NE(said[1], said[0]);
  EXPECT_NE(said[2], said[0]);
  EXPECT_NE(said[4], said[1]);
}

TEST_F(LocalModelTest, AnAdapterThatHasLearnedMoreIsNotGoneOnFromWhatItWas) {
  SaveAdapter("me", 1);
  asks_.adapter.name = "me";
  LocalModel model(*node_, ChatTemplate(), asks_);
  std::vector<ChatMessage> messages = {{"user", "the sea"}};
  messages.push_back(Answer(model, messages).message);
  const std::string state = model.SaveState(messages);
  messages.push_back({"user", "y"});
  LocalModel plain(*node_, ChatTemplate()), same(*node_, ChatTemplate(), asks_);
  EXPECT_TRUE(same.RestoreState(state).ok());
  EXPECT_THAT(std::string(plain.RestoreState(state).message()),
              ::testing::HasSubstr("answered with the adapter 'me'"));
  const std::string before = Anew(model, messages);
  SaveAdapter("me", 2);
  EXPECT_THAT(std::string(same.RestoreState(state).message()), ::testing::HasSubstr("the adapter 'me' was "));
  const std::string anew = Anew(model, messages);
  EXPECT_NE(anew, before);
  const ChatReply reply = Answer(model, messages);
  EXPECT_EQ(reply.message.content, anew);
  EXPECT_EQ(*reply.kept, 0);
  asks_.adapter.name = "you";
  LocalModel other(*node_, ChatTemplate(), asks_);
  ChatReply none;
  EXPECT_THAT(std::string(other
                              .Answer(
                                  messages, settings_, [](std::string_view) { return true; }, none)
                              .message()),
              ::testing::HasSubstr("there are me"));
}

TEST_F(LocalModelTest, NothingIsKeptOfWhatIsForgotten) {
  LocalModel model(*node_, ChatTemplate());
  const std::vector<ChatMessage> one = {{"user", "x"}, Answer(model, {{"user", "x"}}).message};
  const std::string state = model.SaveState(one);
  EXPECT_NE(state, "");
  std::vector<ChatMessage> two = one;
  two.push_back({"user", "what is told in confidence"});
  two.push_back(Answer(model, two).message);
  EXPECT_NE(model.SaveState(two), state);
  EXPECT_EQ(model.SaveState(one), state);  // the second message was taken back
  EXPECT_EQ(model.SaveState({}), "");
  EXPECT_EQ(model.SaveState({{"user", "y"}, {"assistant", "z", true}}), "");
  EXPECT_EQ(model.SaveState({{"system", "s"}}), "");
}

}  // namespace
}  // namespace omni::cli
