// `omni chat` and `omni run --server` as processes: in a pipe, on a terminal, with a server.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

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
    return std::make_unique<NodeProcess>(
        OMNI_PROGRAM,
        std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0", "-t", "1", "--state",
                                 name + ".state", "--keys", "none"},
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

TEST_F(ChatProcess, WhatActsAroundTheTokenDoesSoInAChatAsInRun) {
  std::string text;
  for (int i = 0; i < 30; ++i) text += "The sea was calm and the ship was late. The captain looked at it. ";
  std::ofstream(*dir_ / "learned.txt") << text;
  ASSERT_EQ(Omni({"adapt", *dir_ / "learned.txt", "--name", "sea", "-m", Model(), "--own-tokens", "64",
                  "--drift", "100"})
                .exit_code,
            0);
  ASSERT_EQ(Omni({"safety", "build", *dir_ / "p.omni", "-m", Model(), "--text", *dir_ / "learned.txt",
                  "--safety", "tight", "--most-tokens", "12", "--half-spaces", "60", "--epsilon", "0"})
                .exit_code,
            0);
  ASSERT_EQ(Omni({"memory", "add", "where is the key", "under the stone"}).exit_code, 0);
  const std::vector<std::string> polytope = {"--safety", "tight", "--polytopes", *dir_ / "p.omni"};
  const std::vector<std::string> memory = {"--perspectives", "far,every=1,tau=0", "--memory-scope",
                                           "default"};
  const std::string prompt = "zzz {} 99 zzz {} 99";
  std::vector<std::string> answers;
  for (const auto& [flags, told] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{}, ""},
           {{"--adapter", "sea"}, "adapter sea of hash "},
           {polytope, "polytope tight · moved "},
           {{"--context-memory"}, "memory of contexts · had a say in "},
           {{"--perspectives", "far,every=1,use=average"}, " tokens from four sides"},
           {memory, "memory default · asked for "}}) {
    std::vector<std::string> run = {"User: " + prompt + "\nAssistant:", "--stop", "\nUser:"};
    std::vector<std::string> chat = {"-m", Model(), "--stats"};
    for (std::vector<std::string>* words : {&run, &chat}) {
      words->insert(words->end(), {"-n", "24", "--seed", "5", "--temp", "1.5"});
      words->insert(words->end(), flags.begin(), flags.end());
    }
    const Output alone = Run(run), talked = Chat(prompt + "\n", chat);
    EXPECT_EQ(talked.exit_code, 0) << talked.err;
    EXPECT_EQ(talked.out, WithoutLeadingSpace(alone.out)) << told;
    EXPECT_THAT(talked.err, HasSubstr(told));
    answers.push_back(talked.out);
  }
  EXPECT_NE(answers[1], answers[0]);
  EXPECT_NE(answers[2], answers[0]);
  EXPECT_NE(answers[3], answers[0]);

  // Before anything is typed.
  ExpectOneLine(Chat("", {"-m", Model(), "--adapter", "me"}), 1, "there are sea");
  ExpectOneLine(Chat("", {"-m", Model(), "--safety", "mild", "--polytopes", *dir_ / "p.omni"}), 1,
                "there are tight");
  ExpectOneLine(Chat("", {"-m", Model(), "--perspectives", "far", "--memory-scope", "none"}), 1,
                "nothing is remembered in it");
  ExpectOneLine(Chat("", {"-m", Model(), "--polytopes", *dir_ / "p.omni"}), 2, "without --safety");
  ExpectOneLine(Chat("", {"-m", Model(), "--memory-scope", "default"}), 2, "without --perspectives");
  ExpectOneLine(Chat("", {"--cluster", "127.0.0.1:1", "--safety", "x", "--polytopes", "y"}), 2,
                "--polytopes does nothing beside --cluster");
  ExpectOneLine(Chat("", {"--server", "http://127.0.0.1:1", "--context-memory"}), 2, "--context-memory");
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

// The shipped model, whose likeliest answer does not end.
constexpr char kEndless[] = OMNI_SOURCE_DIR "/models/mini";

TEST_F(ChatProcess, AnInterruptedAnswerEndsAPipe) {
  ProcessOptions options;
  options.signal_after_output = SIGINT;
  const Output output =
      Chat("the sea\ny\n", {"-m", kEndless, "-n", "100000000", "-c", "1000000000", "--temp", "0"}, options);
  EXPECT_EQ(output.exit_code, 130) << output.err;
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

// The program on a terminal of its own.
class Terminal {
 public:
  explicit Terminal(std::vector<std::string> arguments, const char* kind = "xterm") {
    arguments.insert(arguments.begin(), {OMNI_PROGRAM, "chat"});
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    master_ = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    grantpt(master_);
    unlockpt(master_);
    const std::string name = ptsname(master_);
    pid_ = fork();
    if (pid_ != 0) return;
    setsid();
    const int slave = open(name.c_str(), O_RDWR);
    ioctl(slave, TIOCSCTTY, 0);
    for (int fd : {0, 1, 2}) dup2(slave, fd);
    setenv("TERM", kind, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~Terminal() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(master_);
  }
  void Type(const std::string& text) {
    EXPECT_EQ(write(master_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Until the text has been shown, beyond what was waited for before.
  bool WaitFor(const std::string& text) {
    while (true) {
      const size_t at = shown_.find(text, seen_);
      if (at != shown_.npos) {
        seen_ = at + text.size();
        return true;
      }
      if (!More()) return false;
    }
  }
  // The exit code.
  int WaitForEnd() {
    while (More()) {
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  const std::string& shown() const { return shown_; }

 private:
  bool More() {
    pollfd ready{master_, POLLIN, 0};
    if (poll(&ready, 1, 60'000) != 1) {
      ADD_FAILURE() << "the terminal stays silent; so far: " << shown_;
      return false;
    }
    char buffer[4096];
    const ssize_t n = read(master_, buffer, sizeof buffer);
    if (n > 0) shown_.append(buffer, static_cast<size_t>(n));
    return n > 0;
  }
  int master_ = -1;
  pid_t pid_ = -1;
  std::string shown_;
  size_t seen_ = 0;
};

TEST_F(ChatProcess, OnATerminalLinesAreEditedAndRecalledAndAnInterruptStopsTheAnswerAlone) {
  Terminal terminal({"-m", Model(), "-n", "3", "--temp", "0", "-t", "1"});
  ASSERT_TRUE(terminal.WaitFor("> ")) << terminal.shown();
  terminal.Type("/temp 0.5x\x7f\r");  // the last letter taken back
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("/seed no\r");
  ASSERT_TRUE(terminal.WaitFor("/seed takes a whole number"));
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("\x1b[A\r");  // the line before
  ASSERT_TRUE(terminal.WaitFor("/seed takes a whole number"));
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("not to be said\x03");
  ASSERT_TRUE(terminal.WaitFor("ends the chat"));
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("/nonsense \xc3\xa9\r");
  ASSERT_TRUE(terminal.WaitFor("is no command"));
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("/tokens\r");
  ASSERT_TRUE(terminal.WaitFor("nothing has been answered yet"));
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("\x04");
  EXPECT_EQ(terminal.WaitForEnd(), 0) << terminal.shown();
}

TEST_F(ChatProcess, OnATerminalThatCannotEditAnInterruptDropsTheLineToo) {
  Terminal terminal({"-m", Model(), "-n", "3", "--temp", "0", "-t", "1"}, "dumb");
  ASSERT_TRUE(terminal.WaitFor("> ")) << terminal.shown();
  terminal.Type("not to be said\x03");
  ASSERT_TRUE(terminal.WaitFor("(Ctrl-D or /exit ends the chat)")) << terminal.shown();
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("/tokens\r");
  ASSERT_TRUE(terminal.WaitFor("nothing has been answered yet"));
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("\x04");
  EXPECT_EQ(terminal.WaitForEnd(), 0) << terminal.shown();
}

TEST_F(ChatProcess, OnATerminalAnInterruptStopsTheAnswerAndNotTheProgram) {
  Terminal terminal(
      {"-m", kEndless, "-n", "100000000", "-c", "1000000000", "--temp", "0", "--stats", "-t", "1"});
  ASSERT_TRUE(terminal.WaitFor("> ")) << terminal.shown();
  terminal.Type("the sea\r");
  ASSERT_TRUE(terminal.WaitFor("the sea\r\n"));
  terminal.Type("\x03");
  ASSERT_TRUE(terminal.WaitFor("stopped"));
  ASSERT_TRUE(terminal.WaitFor("> "));
  terminal.Type("/exit\r");
  EXPECT_EQ(terminal.WaitForEnd(), 0);
}

}  // namespace
}  // namespace omni::testing
