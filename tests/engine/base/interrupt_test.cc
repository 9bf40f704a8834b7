#include "engine/base/interrupt.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include <gtest/gtest.h>

namespace omni {
namespace {

// In a child: sends itself the signals. Exits with what was asked for after the first one.
[[noreturn]] void SendTwice(int first, int second) {
  const InterruptGuard guard;
  if (InterruptGuard::Requested()) _exit(1);
  kill(getpid(), first);
  if (!InterruptGuard::Requested()) _exit(2);
  kill(getpid(), second);
  _exit(3);
}

int StatusOf(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST(Interrupt, TheFirstIsAQuestionAndTheSecondTheEnd) {
  for (const auto& [first, second] : {std::pair(SIGTERM, SIGTERM), {SIGINT, SIGINT}, {SIGINT, SIGTERM}}) {
    const pid_t pid = fork();
    if (pid == 0) SendTwice(first, second);
    const int status = StatusOf(pid);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(WTERMSIG(status), second);
  }
}

// What a signal does by default is nothing to such a process.
TEST(Interrupt, TheSecondEndsTheFirstProcessOfAContainerToo) {
  const pid_t outer = fork();
  if (outer == 0) {
    if (unshare(CLONE_NEWPID) != 0) _exit(77);
    const pid_t inner = fork();
    if (inner == 0) {
      if (getpid() != 1) _exit(4);
      SendTwice(SIGTERM, SIGTERM);
    }
    int status = 0;
    waitpid(inner, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
  }
  const int status = StatusOf(outer);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "needs the right to make a namespace of processes";
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM);
}

}  // namespace
}  // namespace omni
