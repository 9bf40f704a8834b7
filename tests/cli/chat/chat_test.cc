// What can be typed, and what the model gets of it.
#include "cli/chat/chat.h"

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temp_dir.h"

namespace omni::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Answers "one", "two", ...; or what a test says.
class FakeModel final : public ChatModel {
 public:
  absl::Status Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                      const OnText& on_text, ChatReply& reply) override {
    asked.emplace_back();
    for (const ChatMessage& message : messages)
      asked.back() += message.role[0] + (":" + message.content) + "|";
    seeds.push_back(settings.sampler.seed);
    temperature = settings.sampler.temperature;
    static const char* const kAnswers[] = {"one", "two", "three", "four"};
    reply.message = {"assistant", said.value_or(kAnswers[(asked.size() - 1) % 4]), true};
    reply.reason = on_text(" " + reply.message.content) ? "stop" : "cancelled";
    if (said == "") reply.reason = "cancelled";
    reply.computed = 5;
    return status;
  }
  std::string SaveState(const std::vector<ChatMessage>& messages) override {
    return "the state of " + std::to_string(messages.size());
  }
  absl::Status RestoreState(std::string_view bytes) override {
    restored = bytes;
    return absl::OkStatus();
  }

  std::vector<std::string> asked;
  std::vector<uint64_t> seeds;
  float temperature = 0;
  std::optional<std::string> said;
  absl::Status status;
  std::string restored;
};

class Lines final : public LineReader {
 public:
  explicit Lines(std::deque<std::string> lines, std::function<void()> on_interrupt = nullptr)
      : lines_(std::move(lines)), on_interrupt_(std::move(on_interrupt)) {}
  End Read(const std::string&, std::string& line) override {
    if (lines_.empty()) return End::kNoMore;
    line = lines_.front();
    lines_.pop_front();
    if (line.ends_with("\n^C")) {  // it came when the line had ended
      line.resize(line.size() - 3);
      on_interrupt_();
      return End::kLine;
    }
    if (line != "^C") return End::kLine;
    line = "what was typed";
    return End::kInterrupted;
  }

 private:
  std::deque<std::string> lines_;
  std::function<void()> on_interrupt_;
};

class ChatTest : public ::testing::Test {
 protected:
  // `first` said and the lines read; what was answered on standard output.
  std::string Talk(std::deque<std::string> lines, const std::string& first = "") {
    Lines reader(std::move(lines), [this] { interrupt_ = true; });
    Chat chat(model_, reader, settings_, options_);
    if (!load_.empty()) {
      EXPECT_TRUE(chat.Load(load_).ok());
    }
    ::testing::internal::CaptureStdout();
    status_ = chat.Run(first);
    std::string out = ::testing::internal::GetCapturedStdout();
    interrupted_ = chat.interrupted();
    return out;
  }

  FakeModel model_;
  ChatSettings settings_;
  Chat::Options options_;
  std::string load_;
  absl::Status status_;
  bool interrupted_ = false, interrupt_ = false;
  const testing::TempDir dir_;
};

TEST_F(ChatTest, WhatWasSaidStaysInTheChat) {
  EXPECT_EQ(Talk({"b", "", "  ", "c"}, "a"), "one\ntwo\nthree\n");
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_THAT(model_.asked, ElementsAre("u:a|", "u:a|a:one|u:b|", "u:a|a:one|u:b|a:two|u:c|"));
}

TEST_F(ChatTest, CommandsChangeWhatIsAskedNext) {
  Talk({"/system be brief", "a", "/undo", "b", "/clear", "c", "/system", "d", "//e", "/exit", "f"});
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_THAT(model_.asked, ElementsAre("s:be brief|u:a|", "s:be brief|u:b|", "s:be brief|u:c|",
                                        "u:c|a:three|u:d|", "u:c|a:three|u:d|a:four|u:/e|"));
}

TEST_F(ChatTest, AnotherAnswerComesWithTheNextSeed) {
  settings_.sampler.seed = 7;
  Talk({"a", "/retry", "/seed 100", "/temp 0.5", "b"});
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_THAT(model_.asked, ElementsAre("u:a|", "u:a|", "u:a|a:two|u:b|"));
  EXPECT_THAT(model_.seeds, ElementsAre(7, 8, 100));
  EXPECT_EQ(model_.temperature, 0.5f);
}

TEST_F(ChatTest, AMessageMayHaveManyLines) {
  Talk({"a\\", "b\\", "c", "\"\"\"d", "", "/e\"\"\"", "\"\"\"f\"\"\"", "g\\"});
  EXPECT_EQ(model_.asked.size(), 4u);
  EXPECT_THAT(model_.asked[0], HasSubstr("u:a\nb\nc|"));
  EXPECT_THAT(model_.asked[1], HasSubstr("u:d\n\n/e|"));
  EXPECT_THAT(model_.asked[2], HasSubstr("u:f|"));
  EXPECT_THAT(model_.asked[3], HasSubstr("u:g\n|"));
}

TEST_F(ChatTest, AnInterruptAtThePromptDropsTheLine) {
  options_.person = true;
  Talk({"a\\", "^C", "b", "^C"});
  EXPECT_THAT(model_.asked, ElementsAre("u:b|"));
}

TEST_F(ChatTest, WhereNobodyIsThereTheFirstMistakeEndsIt) {
  for (const char* line : {"/nonsense", "/temp warm", "/temp 101", "/seed -1", "/retry", "/undo", "/save",
                           "/load", "/clear all", "/load /nowhere"}) {
    model_.asked.clear();
    EXPECT_EQ(Talk({line, "a"}), "") << line;
    EXPECT_FALSE(status_.ok()) << line;
    EXPECT_TRUE(model_.asked.empty()) << line;
    options_.person = true;
    Talk({line, "a"});
    EXPECT_TRUE(status_.ok()) << line;
    EXPECT_EQ(model_.asked.size(), 1u) << line;
    options_.person = false;
  }
}

TEST_F(ChatTest, AMessageWithoutAnAnswerIsForgotten) {
  options_.person = true;
  model_.status = absl::UnavailableError("gone");
  Talk({"a"});
  model_.status = absl::OkStatus();
  model_.asked.clear();
  model_.said = "";
  Talk({"b", "c"});
  EXPECT_THAT(model_.asked, ElementsAre("u:b|", "u:c|"));
}

TEST_F(ChatTest, AnAnswerThatCannotBeGivenAgainStays) {
  options_.person = true;
  Talk({"a"});
  Lines lines({"a", "/retry", "b"});
  model_.asked.clear();
  Chat chat(model_, lines, settings_,
            {.person = true, .interrupted = [&] {
               model_.status = model_.asked.size() == 2 ? absl::UnavailableError("gone") : absl::OkStatus();
               return false;
             }});
  ::testing::internal::CaptureStdout();
  ASSERT_TRUE(chat.Run("").ok());
  ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(model_.asked, ElementsAre("u:a|", "u:a|", "u:a|a:one|u:b|"));
}

TEST_F(ChatTest, AStoppedAnswerStaysAsFarAsItCameAndEndsAPipe) {
  options_.interrupted = [] { return true; };
  options_.person = true;
  EXPECT_EQ(Talk({"a", "b"}), "one\ntwo\n");
  EXPECT_THAT(model_.asked, ElementsAre("u:a|", "u:a|a:one|u:b|"));
  EXPECT_FALSE(interrupted_);
  options_.person = false;
  EXPECT_EQ(Talk({"a", "b"}), "three\n");
  EXPECT_TRUE(interrupted_);
}

TEST_F(ChatTest, AnInterruptIsThatOfTheAnswerWhichFollowsAndOfNoLaterOne) {
  options_.person = true;
  options_.interrupted = [this] { return interrupt_; };
  options_.before_message = [this] { interrupt_ = false; };
  std::vector<bool> stopped;
  options_.after_answer = [&] { stopped.push_back(interrupt_); };
  Talk({"/tokens\n^C", "a", "b\n^C", "c\\\n^C", "^C", "d"});
  EXPECT_THAT(model_.asked, ElementsAre("u:a|", "u:a|a:one|u:b|", "u:a|a:one|u:b|a:two|u:d|"));
  EXPECT_THAT(stopped, ElementsAre(false, true, false));
}

TEST_F(ChatTest, AChatIsKeptAndGoneOnWith) {
  settings_.sampler.seed = 9;
  Talk({"/system s", "a", "/save " + (dir_ / "chat")});
  ASSERT_TRUE(status_.ok()) << status_;
  settings_ = {};
  load_ = dir_ / "chat";
  Talk({"b"});
  EXPECT_EQ(model_.asked.back(), "s:s|u:a|a:one|u:b|");
  EXPECT_EQ(model_.seeds.back(), 9u);
  EXPECT_EQ(model_.restored, "the state of 3");
}

TEST(ChatFile, IsWrittenAndReadToTheByte) {
  ChatSession session;
  session.messages = {{"system", "s\n"}, {"user", "\xc3\xa9\0x"}, {"assistant", "\xff\xfe no text", true}};
  session.settings.stops = {"\xff"};
  session.settings.max_tokens = 77;
  session.settings.sampler = {0.7f, 3, 0.9f, 0.1f, 1.1f, 12, uint64_t{INT64_MAX}};
  session.state = std::string("\n\0{", 3);
  const auto read = ParseChat(FormatChat(session));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(FormatChat(*read), FormatChat(session));
  ASSERT_EQ(read->messages.size(), 3u);
  EXPECT_EQ(read->messages[2].content, "\xff\xfe no text");
  EXPECT_TRUE(read->messages[2].as_written);
  EXPECT_EQ(read->state, session.state);
  EXPECT_EQ(read->settings.sampler.temperature, 0.7f);
}

TEST(ChatFile, WhatIsDamagedIsRefused) {
  ChatSession session;
  session.messages = {{"user", "u"}, {"assistant", "a", true}};
  session.state = "state";
  const std::string good = FormatChat(session);
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(ParseChat(good.substr(0, size)).ok()) << size;
  EXPECT_FALSE(ParseChat(good + "x").ok());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string bad = good;
    bad.replace(bad.find(from), from.size(), to);
    return ParseChat(bad).ok();
  };
  EXPECT_TRUE(with("\"u\"", "\"v\""));
  EXPECT_FALSE(with("\"omni_chat\":1", "\"omni_chat\":2"));
  EXPECT_FALSE(with("\"role\":\"assistant\"", "\"role\":\"user\""));
  EXPECT_FALSE(with("\"role\":\"user\"", "\"role\":\"tool\""));
  EXPECT_FALSE(with("\"content\":\"u\"", "\"content\":{\"hex\":\"0\"}"));
  EXPECT_FALSE(with("\"content\":\"u\"", "\"content\":5"));
  EXPECT_FALSE(with("\"temperature\":0.8", "\"temperature\":-0.8"));
  EXPECT_FALSE(with("\"seed\":0", "\"seed\":\"0\""));
}

}  // namespace
}  // namespace omni::cli
