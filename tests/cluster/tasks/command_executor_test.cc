// Programs that behave, and those that do not: each ends within its limits, and nothing of it is left.
#include "cluster/tasks/command_executor.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "tests/cluster/tasks/children_fixture.h"

namespace omni::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Stop = TaskAttempt::Stop;

class CommandExecutorTest : public ChildrenTest {
 protected:
  void SetUp() override {
    ChildrenTest::SetUp();
    artifacts_ = std::make_unique<ArtifactStore>(ArtifactStore::Open(temp_ / "kept").value());
    program_.argv = {"/bin/sh", "-c"};
    program_.limits = Limits();
    work_.mutable_command()->set_program("sh");
  }
  CommandExecutor Make() { return CommandExecutor("sh", program_, place_, *artifacts_); }
  // `told` may stop the attempt.
  TaskOutcome Run(
      const std::string& script,
      std::function<void(RecordedAttempt&, const std::vector<RecordedAttempt::Told>&)> told = nullptr) {
    work_.mutable_command()->clear_arguments();
    work_.mutable_command()->add_arguments(script);
    attempt_ = std::make_unique<RecordedAttempt>(Task(work_));
    if (told != nullptr) attempt_->on_told = [this, told](const auto& all) { told(*attempt_, all); };
    return Make().Run(*attempt_);
  }
  std::string Error(const std::string& script) { return Run(script).error; }
  std::string Out() const { return attempt_->Stream("stdout"); }

  ProgramConfig program_;
  omni::tasks::v1::Work work_;
  std::unique_ptr<ArtifactStore> artifacts_;
  std::unique_ptr<RecordedAttempt> attempt_;
};

TEST_F(CommandExecutorTest, AProgramGetsItsArgumentsInputEnvironmentAndFolder) {
  program_.environment = {{"GIVEN", "by the node"}};
  program_.task_environment = {"ASKED"};
  work_.mutable_command()->set_input("some\ninput");
  (*work_.mutable_command()->mutable_environment())["ASKED"] = "by the task";
  const TaskOutcome outcome =
      Run("cat; echo; echo \"$GIVEN|$ASKED|$OMNI_TASK\"; pwd; echo \"$HOME|$TMPDIR\"; env | wc -l >&2");
  EXPECT_EQ(outcome.kind, TaskOutcome::Kind::kSucceeded) << outcome.error << outcome.message;
  EXPECT_EQ(nlohmann::json::parse(outcome.result)["exit_code"], 0);
  std::istringstream lines(Out());
  std::vector<std::string> all;
  for (std::string line; std::getline(lines, line);) all.push_back(line);
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all[0] + all[1] + all[2], "someinputby the node|by the task|0123");
  EXPECT_THAT(all[3], StartsWith(temp_ / "state/runs/"));
  EXPECT_EQ(all[4], all[3] + "|" + all[3]);
  EXPECT_LE(std::stoi(attempt_->Stream("stderr")), 9) << "nothing of the server's own environment";
}

TEST_F(CommandExecutorTest, NoShellReadsArguments) {
  program_.argv = {"/bin/echo"};
  Run("$(id) `id` ; id | cat > x * \"");
  EXPECT_EQ(Out(), "$(id) `id` ; id | cat > x * \"\n");
}

TEST_F(CommandExecutorTest, BytesAreBytes) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  for (int i = 0; i < 10; ++i) all += all;
  work_.mutable_command()->set_input(all.substr(0, 200'000));
  EXPECT_EQ(Run("cat").kind, TaskOutcome::Kind::kSucceeded);
  EXPECT_EQ(Out(), all.substr(0, 200'000));
}

TEST_F(CommandExecutorTest, HowItEndedIsSaid) {
  EXPECT_EQ(Run("true").kind, TaskOutcome::Kind::kSucceeded) << "one that ends at once";
  TaskOutcome outcome = Run("echo 'what is wrong' >&2; exit 7");
  EXPECT_EQ(outcome.error, "exit");
  EXPECT_EQ(outcome.message, "exit code 7: what is wrong");
  outcome = Run("kill -SEGV $$");
  EXPECT_EQ(outcome.error, "signal");
  EXPECT_THAT(outcome.message, HasSubstr("11"));
  program_.argv = {"/no/such/program"};
  outcome = Run("x");
  EXPECT_EQ(outcome.error, "not-started");
  EXPECT_THAT(outcome.message, HasSubstr("No such file"));
  program_.argv = {"/bin/cat"};
  place_.program = "/no/such/child";
  EXPECT_EQ(Run("x").error, "not-started");
}

TEST_F(CommandExecutorTest, WhatIsNotAllowedIsNotBegun) {
  (*work_.mutable_command()->mutable_environment())["LD_PRELOAD"] = "/tmp/x.so";
  EXPECT_EQ(Error("true"), "invalid");
  EXPECT_THAT(Run("true").message, HasSubstr("'LD_PRELOAD'"));
  work_.mutable_command()->clear_environment();
  EXPECT_EQ(Error(std::string("a\0b", 3)), "invalid");
  program_.arguments = 0;
  EXPECT_EQ(Error("true"), "invalid");
  work_.mutable_command()->set_program("another");
  EXPECT_EQ(Error("true"), "invalid");
  work_.mutable_model();
  EXPECT_EQ(Error("true"), "invalid");
}

TEST_F(CommandExecutorTest, ChildrenAndDaemonsEndWithTheirProgram) {
  // In its group, in a session of its own, and twice removed; the program itself ends at once.
  EXPECT_EQ(
      Run("sleep 77001 & setsid sleep 77001 & (setsid sh -c 'sleep 77001 & sleep 77001' &) ; exit 0").kind,
      TaskOutcome::Kind::kSucceeded);
  EXPECT_THAT(Running("77001"), ElementsAre());
}

TEST_F(CommandExecutorTest, OneThatDoesNotListenIsEndedAfterItsGraceWithAllItHas) {
  for (const Stop why : {Stop::kCancelled, Stop::kTimeout, Stop::kReturn}) {
    const TaskOutcome outcome =
        Run("trap '' TERM INT HUP; setsid sleep 77002 & sleep 77002 & echo ready; while true; do sleep "
            "77002; done",
            [&](RecordedAttempt& attempt, const auto&) { attempt.SetStop(why); });
    EXPECT_EQ(outcome.kind, why == Stop::kReturn ? TaskOutcome::Kind::kReturned : TaskOutcome::Kind::kFailed);
    EXPECT_EQ(outcome.error, why == Stop::kReturn ? "" : why == Stop::kTimeout ? "timeout" : "cancelled");
    EXPECT_THAT(Running("77002"), ElementsAre());
  }
}

TEST_F(CommandExecutorTest, OneThatIsAskedToEndMayTidyUp) {
  program_.limits.grace = std::chrono::minutes(4);
  const TaskOutcome outcome = Run("trap 'echo tidy; exit 0' TERM; echo ready; while true; do sleep 0.1; done",
                                  [](RecordedAttempt& attempt, const auto& told) {
                                    if (told.size() == 1) attempt.SetStop(Stop::kCancelled);
                                  });
  EXPECT_EQ(outcome.error, "cancelled");
  EXPECT_EQ(Out(), "ready\ntidy\n");
}

TEST_F(CommandExecutorTest, OneThatSleepsForEverMeetsItsTime) {
  program_.limits.time = std::chrono::milliseconds(500);
  EXPECT_EQ(Error("exec sleep 77003"), "time-limit");
  EXPECT_EQ(Error("exec <&-; sleep 77003"), "time-limit");
  EXPECT_EQ(Error("exec >&- 2>&-; sleep 77003"), "time-limit");
  EXPECT_THAT(Running("77003"), ElementsAre());
}

TEST_F(CommandExecutorTest, OneThatWritesWithoutEndIsEndedAtItsLimit) {
  program_.output_bytes = 1 << 20;
  EXPECT_EQ(Error("exec yes 77004"), "output-limit");
  EXPECT_EQ(Out().size(), 1u << 20);
  EXPECT_EQ(Error("exec yes 77004 >&2"), "output-limit");
  EXPECT_EQ(attempt_->Stream("stderr").size(), 1u << 20);
  EXPECT_THAT(Running("77004"), ElementsAre());
  program_.drop_output = true;
  program_.output_bytes = 1000;
  EXPECT_EQ(Run("head -c 5000000 /dev/zero; echo end >&2").kind, TaskOutcome::Kind::kSucceeded);
  EXPECT_EQ(Out().size(), 1000u);
  int said = 0;
  for (const auto& told : attempt_->told()) said += told.what == "progress";
  EXPECT_EQ(said, 1);
}

TEST_F(CommandExecutorTest, OneThatFillsItsDiskIsEnded) {
  program_.limits.disk_bytes = 4 << 20;
  // A single file by the system, at the very limit; together with the folder it may be looked at before that.
  const std::string single = Error("head -c 20000000 /dev/zero > large; wc -c < large; exit 9");
  EXPECT_THAT(single, ::testing::AnyOf("exit", "disk-limit"));
  EXPECT_EQ(Out(), single == "exit" ? "4194304\n" : "");
  EXPECT_EQ(Error("i=0; while true; do i=$((i+1)); head -c 500000 /dev/zero > f$i; done"), "disk-limit");
  EXPECT_EQ(Error("mkdir a && chmod 000 a; exit 0"), "") << "what it made unreadable is removed too";
}

TEST_F(CommandExecutorTest, OneThatTakesMemoryOrProcessesIsEnded) {
  program_.limits.memory_bytes = 64 << 20;
  EXPECT_EQ(Error("exec perl -e '$x = \"x\" x 200000000; sleep 77005'"), "memory-limit");
  program_.limits.address_bytes = 100 << 20;
  EXPECT_EQ(Error("exec perl -e '$x = \"x\" x 2000000000'"), "exit") << "by the system";
  EXPECT_THAT(attempt_->Stream("stderr"), HasSubstr("Out of memory"));
  program_.limits.address_bytes = 0;
  program_.limits.memory_bytes = 0;
  program_.limits.processes = 20;
  EXPECT_EQ(Error("while true; do sleep 77005 & done"), "process-limit");
  EXPECT_THAT(Running("77005"), ElementsAre());
  program_.limits.cpu_seconds = 1;
  EXPECT_EQ(Error("exec perl -e '1 while 1'"), "cpu-limit");
}

TEST_F(CommandExecutorTest, NoCoreIsDumpedAndNoDescriptorIsInherited) {
  const int open = ::dup2(1, 77);  // without close-on-exec, as a library might
  EXPECT_EQ(
      Run("ulimit -c; ls /proc/self/fd | wc -l; [ -e /proc/self/fd/77 ] && echo inherited; exit 0").kind,
      TaskOutcome::Kind::kSucceeded);
  ::close(open);
  EXPECT_EQ(Out(), "0\n4\n");
}

TEST_F(CommandExecutorTest, WhatIsLeftInArtifactsIsKeptByItsHash) {
  EXPECT_EQ(
      Run("cd artifacts; printf abc > a; mkdir b; printf abc > b/c; ln -s /etc/passwd link; mkfifo pipe")
          .kind,
      TaskOutcome::Kind::kSucceeded);
  std::vector<std::string> kept;
  for (const auto& told : attempt_->told())
    if (told.what == "artifact") kept.push_back(told.name + " " + told.data);
  const std::string hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_THAT(kept, ElementsAre("a " + hash, "b/c " + hash));
  EXPECT_EQ(Read(artifacts_->PathOf(hash).value()), "abc");
  EXPECT_FALSE(artifacts_->PathOf("sha256:../../../../etc/passwd").ok());
  program_.artifact_bytes = 1000;
  EXPECT_EQ(Error("head -c 1001 /dev/zero > artifacts/a"), "artifacts");
  program_.artifacts = 2;
  EXPECT_EQ(Error("cd artifacts; touch a b c"), "artifacts");
  for (const std::string& name : Files(temp_ / "kept")) EXPECT_EQ(name.size(), 2u) << name;
}

TEST_F(CommandExecutorTest, OneServerRunsManySideBySideAndGoesOn) {
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      omni::tasks::v1::Work work = work_;
      work.mutable_command()->add_arguments(i % 2 == 0 ? "echo $OMNI_TASK" : "kill -9 $$");
      RecordedAttempt attempt(Task(work));
      CommandExecutor executor = Make();
      const TaskOutcome outcome = executor.Run(attempt);
      good += i % 2 == 0 ? attempt.Stream("stdout") == "0123\n" : outcome.error == "signal";
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 8);
}

// omni-child runs as the same user as what it keeps, which may stop it.
TEST_F(CommandExecutorTest, OneThatStopsItsKeeperIsEndedWithoutIt) {
  place_.patience = std::chrono::milliseconds(300);
  program_.limits.time = std::chrono::milliseconds(0);
  program_.limits.disk_bytes = 0;
  EXPECT_EQ(Error("kill -STOP $PPID; setsid sleep 77011 & exec sleep 77011"), "signal");
  EXPECT_THAT(Running("77011"), ElementsAre());
  EXPECT_EQ(Error("kill -STOP $PPID; exit 0"), "signal") << "nobody is told of its end";
  program_.limits.time = std::chrono::milliseconds(100);
  place_.patience = std::chrono::seconds(2);
  EXPECT_EQ(Error("kill -STOP $PPID; exec sleep 77011"), "time-limit");
  EXPECT_THAT(Running("77011"), ElementsAre());
}

TEST_F(CommandExecutorTest, WhatTheSystemEnforcedOnAControlGroupIsRead) {
  const std::string group = temp_ / "group";
  std::filesystem::create_directory(group);
  EXPECT_EQ(ControlGroupLimit(group), "");
  std::ofstream(group + "/memory.events") << "low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n";
  std::ofstream(group + "/pids.events") << "max 0\n";
  EXPECT_EQ(ControlGroupLimit(group), "");
  std::ofstream(group + "/pids.events") << "max 10\n";
  EXPECT_EQ(ControlGroupLimit(group), "processes");
  std::ofstream(group + "/memory.events") << "low 0\nhigh 0\nmax 12\noom 3\noom_kill 1\n";
  EXPECT_EQ(ControlGroupLimit(group), "memory");
}

TEST_F(CommandExecutorTest, NothingIsKeptThroughALink) {
  const std::string secret = temp_ / "secret";
  std::filesystem::create_directories(secret + "/below");
  std::ofstream(secret + "/below/key") << "of another";
  EXPECT_EQ(Error("rmdir artifacts; ln -s " + secret + " artifacts"), "artifacts");
  EXPECT_EQ(Error("ln -s " + secret + " artifacts/in; ln -s " + secret + "/below/key artifacts/key"), "");
  for (const auto& told : attempt_->told()) EXPECT_NE(told.what, "artifact") << told.name;
  EXPECT_EQ(Read(secret + "/below/key"), "of another");
}

// A server with a task that runs; ended without a word.
class KilledServerTest : public CommandExecutorTest {
 protected:
  pid_t Serve(const std::string& script) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    const pid_t server = ::fork();
    if (server == 0) {
      Run(script, [&](RecordedAttempt&, const auto&) { EXPECT_EQ(::write(ready[1], "r", 1), 1); });
      ::_exit(0);
    }
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
    return server;
  }
  static void End(pid_t server) {
    ::kill(server, SIGKILL);
    ::waitpid(server, nullptr, 0);
  }
  static bool AllGone(const std::string& word) {
    for (int i = 0; i < 3000; ++i) {
      if (Running(word).empty()) return true;
      ::poll(nullptr, 0, 20);
    }
    return false;
  }
};

TEST_F(KilledServerTest, LeavesNothingRunning) {
  End(Serve("trap '' TERM; setsid sleep 77006 & sleep 77006 & echo ready; sleep 77006"));
  EXPECT_TRUE(AllGone("77006"));
  EXPECT_EQ(Files(temp_ / "state/children").size(), 1u);
  EXPECT_EQ(EndLeftovers(place_).value(), 0);
}

TEST_F(KilledServerTest, AndIfItsKeeperIsKilledTooTheNextServerEndsWhatIsLeft) {
  const pid_t server = Serve("trap '' TERM; setsid sleep 77007 & sleep 77007 & echo ready; sleep 77007");
  // The keeper, the shell and its three.
  for (int i = 0; i < 3000 && Running("77007").size() < 5; ++i) ::poll(nullptr, 0, 20);
  const pid_t stranger = ::fork();
  if (stranger == 0) {
    ::execl("/bin/sleep", "sleep", "77008", nullptr);
    ::_exit(1);
  }
  // Stopped, so that it does not notice the server's end.
  pid_t keeper = -1;
  for (const int pid : Running("77007"))
    if (Read("/proc/" + std::to_string(pid) + "/cmdline").find("omni-child") != std::string::npos)
      keeper = pid;
  ASSERT_GT(keeper, 0);
  ::kill(keeper, SIGSTOP);
  End(server);
  ASSERT_FALSE(Running("77007").empty());
  EXPECT_GE(EndLeftovers(place_).value(), 2);
  EXPECT_TRUE(AllGone("77007"));
  EXPECT_EQ(::kill(stranger, 0), 0) << "what is not its own goes on";
  End(stranger);
}

TEST_F(KilledServerTest, ARecordOfAProcessThatIsAnotherByNowEndsNobody) {
  const pid_t other = ::fork();
  if (other == 0) {
    ::setsid();
    ::execl("/bin/sleep", "sleep", "77009", nullptr);
    ::_exit(1);
  }
  const std::string boot = Read("/proc/sys/kernel/random/boot_id");
  std::ofstream(temp_ / "state/children/00112233445566778899aabbccddeeff") << other << " 12345 " << boot;
  std::ofstream(temp_ / "state/children/not a record") << "x";
  EXPECT_EQ(EndLeftovers(place_).value(), 0);
  EXPECT_EQ(::kill(other, 0), 0);
  End(other);
}

}  // namespace
}  // namespace omni::testing
