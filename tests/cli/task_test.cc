// `omni task` against an `omni serve`, as somebody uses it from a shell.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <sstream>
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
using ::testing::HasSubstr;
using ::testing::Not;

// Of a program that no node offers: its tasks wait until they are cancelled.
constexpr char kNobodys[] = "nobody-does-this";

class TaskTest : public OmniServerTest {
 protected:
  static void SetUpTestSuite() {
    OmniServerTest::SetUpTestSuite();
    const std::string executors = *dir_ / "executors.json";
    std::ofstream(executors)
        << R"({"commands": {"echo": {"argv": ["/bin/echo"]}, "false": {"argv": ["/bin/false"]},
               "leave": {"argv": ["/bin/sh", "-c", "yes the sea | head -c 2500000 > artifacts/sea"]}}})";
    serve_ = std::make_unique<NodeProcess>(OMNI_PROGRAM,
                                           std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0",
                                                                    "-t", "1", "--executors", executors},
                                           *dir_ / "serve", -1, "serve");
    ASSERT_NE(serve_->WaitForAddress(), "") << serve_->Log();
    grpc_ = serve_->WaitForGrpcAddress();
  }
  static void TearDownTestSuite() {
    if (serve_ != nullptr) {
      EXPECT_EQ(serve_->Interrupt(), 0) << serve_->Log();
    }
    serve_ = nullptr;
    OmniTest::TearDownTestSuite();
  }
  static Output Task(std::vector<std::string> words, const ProcessOptions& options = {}) {
    words.insert(words.begin(), "task");
    const auto literal = std::find(words.begin(), words.end(), "--");
    words.insert(literal, {"--cluster", grpc_});
    return Omni(std::move(words), options);
  }
  static ProcessOptions InterruptedAfter(std::chrono::seconds time) {
    ProcessOptions options;
    options.signal_after = time;
    options.signal = SIGINT;
    return options;
  }
  static std::string Submit(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"submit", "command", kNobodys});
    const Output output = Task(std::move(more));
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(output.out.size(), 33u) << "the id alone: " << output.out;
    return output.out.substr(0, 32);
  }
  static std::vector<json> Lines(const std::string& text) {
    std::vector<json> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
    return lines;
  }

  inline static std::unique_ptr<NodeProcess> serve_;
  inline static std::string grpc_;
};

TEST_F(TaskTest, IsHandedInShownListedCancelledAndForgotten) {
  const std::string id = Submit({"--context", "shown", "--label", "team=blue", "--priority", "7"});
  const json task = Json(Task({"get", id, "--json"}));
  EXPECT_EQ(task["status"], "QUEUED");
  EXPECT_EQ(task["labels"]["team"], "blue");
  EXPECT_EQ(task["spec"]["priority"], 7);
  EXPECT_THAT(Task({"get", id}).out, HasSubstr("work       command nobody-does-this\n"));
  const Output list = Task({"list", "--context", "shown"});
  EXPECT_THAT(list.out, HasSubstr(id + "  queued"));
  EXPECT_EQ(Json(Task({"list", "--context", "shown", "--status", "failed", "--json"}))["tasks"].size(), 0u);
  EXPECT_EQ(Json(Task({"list", "--context", "shown", "--status", "queued", "--json"}))["tasks"].size(), 1u);
  ExpectOneLine(Task({"purge", id}), 1, "not over");
  EXPECT_EQ(Json(Task({"cancel", id, "--json"}))["status"], "CANCELLED");
  ExpectOneLine(Task({"cancel", id}), 1, "over");
  EXPECT_EQ(Json(Task({"retry", id, "--json"}))["status"], "QUEUED");
  EXPECT_EQ(Task({"cancel", id}).exit_code, 0);
  EXPECT_EQ(Task({"purge", id}).exit_code, 0);
  ExpectOneLine(Task({"get", id}), 1, "there is no task");
}

TEST_F(TaskTest, TheServedModelAndProgramsThatAreAllowedDoTasks) {
  const Output text = Task({"submit", "model", "The sea", "--max-tokens", "8", "--wait"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out, "");
  EXPECT_EQ(Task({"submit", "model", "The sea", "--max-tokens", "8", "--wait"}).out, text.out);
  const Output said = Task({"submit", "command", "echo", "--wait", "--", "hello", "$HOME"});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_EQ(said.out, "hello $HOME\n");
  EXPECT_THAT(said.err, Not(HasSubstr("nobody does this")));
  const Output waits =
      Task({"submit", "command", kNobodys, "--wait"}, InterruptedAfter(std::chrono::seconds(3)));
  EXPECT_EQ(waits.exit_code, 130);
  EXPECT_THAT(waits.err, HasSubstr("nobody does this now, so it waits"));
  const Output failed = Task({"submit", "command", "false", "--wait", "--attempts", "1"});
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, HasSubstr("exit code 1"));
  const size_t id = failed.err.find("task ");
  ASSERT_NE(id, failed.err.npos) << failed.err;
  EXPECT_EQ(Task({"purge", failed.err.substr(id + 5, 32)}).exit_code, 0);
  EXPECT_THAT(Task({"executors"}).out, HasSubstr("echo"));
}

TEST_F(TaskTest, WhatAProgramLeftIsFetchedByItsNameAndLookedAt) {
  const Output submitted = Task({"submit", "command", "leave"});
  const std::string id = submitted.out.substr(0, 32);
  ASSERT_EQ(Task({"watch", id}).exit_code, 0);
  const Output fetched = Task({"artifact", id, "sea"});
  EXPECT_EQ(fetched.exit_code, 0) << fetched.err;
  EXPECT_EQ(fetched.out.size(), 2'500'000u);
  EXPECT_EQ(fetched.out.substr(2'499'992), "the sea\n");
  ExpectOneLine(Task({"artifact", id, "lake"}), 1, "the task has no artifact 'lake'");
  ExpectOneLine(Task({"artifact", id}), 2, "the artifact's name");
  // Of a later node that took its disk's word for it this would come as it is.
  std::string kept;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(State()))
    if (entry.is_regular_file() && entry.path().parent_path().parent_path().filename() == "artifacts")
      kept = entry.path();
  ASSERT_NE(kept, "");
  std::filesystem::resize_file(kept, 1'000'000);
  ExpectOneLine(Task({"artifact", id, "sea"}), 1, "is damaged");
  std::filesystem::remove(kept);
  ExpectOneLine(Task({"artifact", id, "sea"}), 1, "is no more");
}

TEST_F(TaskTest, ATaskIsReadFromAFileOrFromStandardInput) {
  const std::string spec = R"({"work": {"command": {"program": "echo", "arguments": ["from a file"]}}})";
  std::ofstream(*dir_ / "spec.json") << spec;
  ProcessOptions input;
  input.stdin_text = spec;
  EXPECT_EQ(Task({"submit", "--file", *dir_ / "spec.json", "--wait"}).out, "from a file\n");
  EXPECT_EQ(Task({"submit", "--file", "-", "--wait"}, input).out, "from a file\n");
  ExpectOneLine(Task({"submit", "--file", "-"}), 1, "-: is no JSON object");
}

// On the way to an answer a client asks for half a minute. It says so, and an interrupt is enough to end it.
TEST_F(TaskTest, WhereNobodyAnswersThatIsSaidAndAnInterruptEndsTheWaiting) {
  for (const std::vector<std::string>& verb :
       {std::vector<std::string>{"run", "x"}, {"cluster", "watch"}, {"task", "watch", "x"}}) {
    std::vector<std::string> words = verb;
    words.insert(words.end(), {"--cluster", "127.0.0.1:1"});
    const auto start = std::chrono::steady_clock::now();
    const Output output = Omni(words, InterruptedAfter(std::chrono::seconds(5)));
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20)) << verb[0];
    EXPECT_EQ(output.exit_code, 130) << output.err;
    EXPECT_THAT(output.err, HasSubstr("nobody answers at 127.0.0.1:1 (is omni serve or omni node running "
                                      "there?): Connection refused; asking again for"))
        << verb[0];
  }
}

TEST_F(TaskTest, AKeyHandsInOnce) {
  const std::string id = Submit({"--key", "once"});
  EXPECT_EQ(Submit({"--key", "once"}), id);
  ExpectOneLine(Task({"submit", "command", kNobodys, "--key", "once", "--", "-v"}), 1, "key");
  EXPECT_NE(Submit(), Submit());
}

TEST_F(TaskTest, WordsAreTakenLiterally) {
  const Output output = Task({"submit", "command", kNobodys, "--json", "--", "-r", "--json", "[a,b]", ""});
  const std::string id = Json(output)["task"]["id"];
  EXPECT_EQ(Json(Task({"get", id, "--json"}))["spec"]["work"]["command"]["arguments"],
            json({"-r", "--json", "[a,b]", ""}));
}

TEST_F(TaskTest, AFileSaysWhatADryRunSaid) {
  const Output said = Omni({"task", "submit", "model", "the sea", "--max-tokens", "5", "--dry-run"});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  EXPECT_EQ(json::parse(said.out), json({{"work", {{"model", {{"prompt", "the sea"}, {"max_tokens", 5}}}}}}));
  const json spec = {{"work", {{"command", {{"program", kNobodys}}}}}, {"priority", 3}};
  std::ofstream(*dir_ / "spec.json") << spec;
  const json submitted = Json(Task({"submit", "--file", *dir_ / "spec.json", "--json"}));
  EXPECT_EQ(Json(Task({"get", submitted["task"]["id"], "--json"}))["spec"]["priority"], 3);
  std::ofstream(*dir_ / "wrong.json") << R"({"work": {"command": {"programme": "x"}}})";
  ExpectOneLine(Task({"submit", "--file", *dir_ / "wrong.json"}), 1, "programme");
  std::ofstream(*dir_ / "none.json") << "[]";
  ExpectOneLine(Task({"submit", "--file", *dir_ / "none.json"}), 1, "no JSON object");
}

TEST_F(TaskTest, WhoWaitsSeesItsEndAndHow) {
  const std::string id = Submit();
  auto watched = std::async(std::launch::async, [&] { return Task({"watch", id, "--json"}); });
  EXPECT_EQ(Task({"cancel", id}).exit_code, 0);
  const Output output = watched.get();
  EXPECT_EQ(output.exit_code, 3) << output.err;
  const std::vector<json> events = Lines(output.out);
  ASSERT_GE(events.size(), 2u);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i]["number"], std::to_string(i + 1));
  EXPECT_EQ(events.back()["kind"], "OVER");
  const Output rest = Task({"watch", id, "--json", "--after", std::to_string(events.size())});
  EXPECT_EQ(rest.exit_code, 3) << rest.err;
  EXPECT_EQ(rest.out, "");
  ExpectOneLine(Task({"watch", id, "--after", "1000"}), 1, "events so far");
}

TEST_F(TaskTest, AnInterruptLeavesTheTaskAndSaysHowToGoOn) {
  ProcessOptions interrupted;
  interrupted.signal_after_output = SIGINT;  // once the first event has come
  const Output output = Task({"submit", "command", kNobodys, "--wait", "--json"}, interrupted);
  EXPECT_EQ(output.exit_code, 130) << output.err;
  const std::string id = Lines(output.out).at(0)["task"];
  EXPECT_THAT(output.err, HasSubstr("omni task watch " + id + " --after 1"));
  EXPECT_EQ(Json(Task({"get", id, "--json"}))["status"], "QUEUED");
}

TEST_F(TaskTest, SchedulesArePutListedAndDeleted) {
  const json put = Json(Task(
      {"schedule", "put", "nightly", "0 3 * * *", "command", kNobodys, "--zone", "Europe/Berlin", "--json"}));
  EXPECT_EQ(put["time_zone"], "Europe/Berlin");
  EXPECT_THAT(Task({"schedule", "list"}).out, HasSubstr("nightly"));
  EXPECT_EQ(Task({"schedule", "delete", "nightly"}).exit_code, 0);
  ExpectOneLine(Task({"schedule", "delete", "nightly"}), 1, "there is no schedule");
  ExpectOneLine(Task({"schedule", "put", "x", "61 * * * *", "command", kNobodys}), 1, "minute");
  EXPECT_THAT(Task({"schedule", "list"}).out, Not(HasSubstr("nightly")));
}

TEST_F(TaskTest, NothingFailedIsNothingHandedInAgain) {
  EXPECT_EQ(Json(Task({"redrive", "--json"}))["redriven"], 0);
  EXPECT_EQ(Json(Task({"executors", "--json"})).count("executors"), 1u);
}

TEST_F(TaskTest, WhatIsWrongIsSaidInALine) {
  ExpectOneLine(Task({"submit"}), 2, "wants model TEXT");
  ExpectOneLine(Task({"submit", "model"}), 2, "wants one text");
  ExpectOneLine(Task({"submit", "poem", "x"}), 2, "not 'poem'");
  ExpectOneLine(Task({"submit", "agent", "a"}), 2, "-m");
  ExpectOneLine(Task({"submit", "command", "x", "--max-tokens", "3"}), 2, "--max-tokens is of model");
  ExpectOneLine(Task({"submit", "job", "serve"}), 1, "spec.work.job.verb");
  ExpectOneLine(Task({"watch"}), 2, "wants the id of one task");
  ExpectOneLine(Task({"list", "--wait"}), 2, "--wait is of omni task submit");
  ExpectOneLine(Task({"stop"}), 2, "not 'stop'");
}

// Handed in to a server that is killed while it learns: the one that is started in its place learns it, and
// whoever waits hears of it.
TEST_F(TaskTest, AnAdapterIsLearnedByTheServer) {
  std::string text;
  while (text.size() < 1500) text += "the old captain looked at the sea; ";
  const std::string file = *dir_ / "captain.txt";
  std::ofstream(file) << text;
  const auto adapt = [&](const std::string& server, std::vector<std::string> more) {
    // Little of the processor's time, for it is all that others leave.
    std::vector<std::string> words = {"adapt", file,      "--name", "captain",  "--cluster",
                                      server,  "--drift", "100",    "--budget", "1s"};
    words.insert(words.end(), more.begin(), more.end());
    return Omni(words);
  };
  const json learned = Json(adapt(grpc_, {"--json"}));
  EXPECT_EQ(learned["name"], "captain");
  EXPECT_EQ(learned["saved"], true);
  EXPECT_GT(learned["gain"], 0.05);
  EXPECT_GE(learned["waited_seconds"], 0);
  const json listed = Json(Omni({"adapt", "list", "--json"}));
  ASSERT_EQ(listed["adapters"].size(), 1u);
  EXPECT_EQ(listed["adapters"][0]["name"], "captain");
  EXPECT_EQ(listed["adapters"][0]["model_hash"], learned["model_hash"]);
  ExpectOneLine(adapt(grpc_, {"--layers", "none"}), 2, "--layers does nothing beside --cluster");
  ExpectOneLine(Omni({"adapt", file, "--name", "x", "--allow-plain"}), 2, "without --cluster");
  const json of_server = Json(Omni({"adapt", "list", "--json", "--cluster", grpc_}));
  ASSERT_EQ(of_server["adapters"].size(), 1u);
  EXPECT_EQ(of_server["adapters"][0]["hash"], learned["hash"]);

  const std::string state = *dir_ / "killed-state", log = *dir_ / "killed";
  const auto serve = [&](const std::string& grpc) {
    return std::make_unique<NodeProcess>(
        OMNI_PROGRAM,
        std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0", "--grpc", grpc, "--state", state,
                                 "-t", "1"},
        log, -1, "serve");
  };
  auto killed = serve("127.0.0.1:0");
  const std::string address = killed->WaitForGrpcAddress();
  ASSERT_NE(address, "") << killed->Log();
  auto waiting = std::async(std::launch::async, [&] { return adapt(address, {"--json"}); });
  const auto status = [&] {
    const Output output = Omni({"task", "list", "--json", "--cluster", address});
    const json list = json::parse(output.out, nullptr, false);
    return list.is_object() && !list["tasks"].empty() ? list["tasks"][0]["status"].get<std::string>() : "";
  };
  while (status() != "RUNNING") ASSERT_NE(status(), "SUCCEEDED") << "too fast to be killed";
  killed->Kill();
  killed = serve(address);
  ASSERT_NE(killed->WaitForGrpcAddress(), "") << killed->Log();
  const Output output = waiting.get();
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(Json(output)["saved"], true);
  EXPECT_EQ(killed->Interrupt(), 0) << killed->Log();
}

}  // namespace
}  // namespace omni::testing
