// `omni chat` and `omni run --server` as processes: in a pipe, on a terminal, with a server.
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ChatProcess : public OmniTest {
 protected:
  static Output Chat(const std::string& typed, std::vector<std::string> arguments,
                     ProcessOptions options = {}) {
    arguments.insert(arguments.begin(), {"chat"});
    options.stdin_text = typed;
    return Omni(std::move(arguments), options);
  }
  static std::string WithoutLeadingSpace(const std::string& text) {
    return text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  }
  std::unique_ptr<NodeProcess> Serve() {
    static int number = 0;
    const std::string name = *dir_ / ("serve" + std::to_string(number++));
    return std::make_unique<NodeProcess>(OMNI_PROGRAM,
                                         std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0",
                                                                  "-t", "1", "--state", name + ".state"},
                                         name, -1, "serve");
  }
};

TEST_F(ChatProcess, AnswersInAPipeAsTheModelGoesOnWithTheMessages) {
  const std::vector<std::string> greedy = {"-m", Model(), "-n", "9", "--temp", "0"};
  const Output run = Run({"User: the sea\nAssistant:", "-n", "9", "--temp", "0", "--stop", "\nUser:"});
  const Output chat = Chat("the sea\n", greedy);
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_EQ(chat.out, WithoutLeadingSpace(run.out));
  EXPECT_EQ(chat.err, "");
  const Output more = Chat("the sea\nand then\n/tokens\n", greedy);
  EXPECT_THAT(more.out, StartsWith(chat.out));
  EXPECT_GT(more.out.size(), chat.out.size());
  EXPECT_THAT(more.err, AllOf(HasSubstr(" known before the last message, "), Not(HasSubstr(" 0 known"))));
  EXPECT_THAT(more.err, Not(HasSubstr("\x1b")));
}

TEST_F(ChatProcess, AKeptChatResumesWithTheSameBytes) {
  const std::vector<std::string> seeded = {"-m", Model(), "-n", "12", "--seed", "3"};
  const std::string file = *dir_ / "kept.chat";
  const Output whole = Chat("one\ntwo\nthree\n", seeded);
  const Output first = Chat("one\n/save " + file + "\n", seeded);
  const Output rest = Chat("two\nthree\n/tokens\n", {"-m", Model(), "--load", file});
  EXPECT_EQ(rest.exit_code, 0) << rest.err;
  EXPECT_EQ(first.out + rest.out, whole.out);
  // By another model, or without its state, from the messages alone.
  std::ifstream in(file, std::ios::binary);
  std::string line;
  std::getline(in, line);
  json head = json::parse(line);
  head["state_bytes"] = 0;
  std::ofstream(file, std::ios::binary) << head.dump() << "\n" << std::flush;
  EXPECT_EQ(Chat("two\n", {"-m", Model(), "--load", file}).exit_code, 0);
  ExpectOneLine(Chat("two\n", {"-m", Model(), "--load", file, "--temp", "0"}), 2,
                "--temp does nothing beside --load");
}

TEST_F(ChatProcess, AMistakeInAPipeIsTheEnd) {
  ExpectOneLine(Chat("/nonsense\nthe sea\n", {"-m", Model()}), 1, "'/nonsense' is no command");
  ExpectOneLine(Chat("x\n", {"-m", Model(), "--server", "http://127.0.0.1:1", "--cluster", "127.0.0.1:1"}), 2,
                "--cluster and --server");
  ExpectOneLine(Chat("x\n", {"--server", "http://127.0.0.1:1", "--ram", "1G"}), 2, "--ram");
  ExpectOneLine(Chat("x\n", {"-m", Model(), "--ca", "x"}), 2, "--ca does nothing without --server");
  ExpectOneLine(Chat("x\n", {"--server", "http://127.0.0.1:1"}), 1, "nobody answers at 127.0.0.1:1");
}

TEST_F(ChatProcess, AServerAnswersWhatTheModelHereWould) {
  const auto serve = Serve();
  const std::string url = "http://" + serve->WaitForAddress();
  ASSERT_NE(url, "http://") << serve->Log();
  const std::vector<std::string> flags = {"-n",     "9", "--temp",       "0.7",
                                          "--seed", "5", "--ignore-eos", "--json"};
  std::vector<std::string> here = {"the sea"}, there = {"run", "the sea", "--server", url};
  here.insert(here.end(), flags.begin(), flags.end());
  there.insert(there.end(), flags.begin(), flags.end());
  const json alone = Json(Run(here)), served = Json(Omni(there));
  for (const char* key : {"text", "seed", "prompt_tokens", "generated_tokens", "stop_reason"})
    EXPECT_EQ(served[key], alone[key]) << key;
  EXPECT_EQ(served["model"], "model");
  there.pop_back();
  EXPECT_EQ(Omni(there).out, alone["text"].get<std::string>() + "\n");
  there.insert(there.end(), {"--echo", "-m", "model"});
  EXPECT_EQ(Omni(there).out, "the sea" + alone["text"].get<std::string>() + "\n");

  ExpectOneLine(Omni({"run", "x", "--server", url, "-m", "other"}), 1, "'other' is not served here");
  for (const auto& [flag, value] : {std::pair{"--repeat-last-n", "5"},
                                    {"--ram", "1G"},
                                    {"--ctx", "99"},
                                    {"--threads", "2"},
                                    {"--certificates", "x"}}) {
    std::vector<std::string> words = {"run", "x", "--server", url, flag, value};
    if (std::string(flag) == "--repeat-last-n") words.insert(words.end(), {"--repeat-penalty", "1.1"});
    ExpectOneLine(Omni(words), 2, flag);
  }
  ProcessOptions key;
  key.env = {{"OPENAI_API_KEY", "sk-secret\n"}};
  const Output bad_key = Omni({"run", "x", "--server", url}, key);
  EXPECT_EQ(bad_key.exit_code, 2);
  EXPECT_THAT(bad_key.err, Not(HasSubstr("secret")));

  const Output chat =
      Chat("the sea\n/tokens\nand then\n/tokens\n", {"--server", url, "-n", "9", "--temp", "0"});
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_THAT(chat.err, HasSubstr(" computed for it, "));
  EXPECT_EQ(
      chat.out.substr(0, chat.out.find('\n')),
      Chat("the sea\n", {"--server", url, "-n", "9", "--temp", "0"}).out.substr(0, chat.out.find('\n')));
}

TEST_F(ChatProcess, AnInterruptEndsTheAnswerAtTheServerToo) {
  const auto serve = Serve();
  const std::string url = "http://" + serve->WaitForAddress();
  ASSERT_NE(url, "http://") << serve->Log();
  ProcessOptions options;
  options.signal_after_output = SIGINT;
  const Output output = Omni({"run", "the sea", "--server", url, "-n", "900000", "--ignore-eos"}, options);
  EXPECT_EQ(output.exit_code, 130) << output.err;
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
  EXPECT_THAT(serve->Log(), Not(HasSubstr("cut off")));
}

TEST_F(ChatProcess, AServerThatDiesInMidAnswerIsSaidWithWhatCame) {
  auto serve = Serve();
  const std::string url = "http://" + serve->WaitForAddress();
  ASSERT_NE(url, "http://") << serve->Log();
  // A process that reads until the text begins, and then kills the server: the shell's word for it.
  const Output output = RunProcess({"/bin/sh", "-c",
                                    "exec \"$0\" run 'the sea' --server " + url +
                                        " -n 900000 --ignore-eos --temp 0 | { head -c 1; kill -KILL " +
                                        std::to_string(serve->pid()) + "; cat; }",
                                    OMNI_PROGRAM});
  EXPECT_THAT(output.err, AllOf(HasSubstr(url), HasSubstr("bytes of the answer came before")));
  EXPECT_GT(output.out.size(), 1u);
}

}  // namespace
}  // namespace omni::testing
