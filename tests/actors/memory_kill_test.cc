// Processes that remember and are killed: what was acknowledged is found by the next one.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include <gtest/gtest.h>

#include "actors/memory.h"
#include "engine/base/splitmix.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

constexpr int kKills = 100;

std::string KeyOf(int64_t i) { return "number " + std::to_string(i) + " of all n" + std::to_string(i); }
std::string ValueOf(int64_t i) { return "value " + std::to_string(i); }

// In a process of its own, since the database has threads: finds all of `acknowledged`, then goes on from
// `from` and says each number once it is acknowledged, until it is killed.
[[noreturn]] void Remember(const std::string& dir, int64_t acknowledged, int64_t from, int say) {
  const auto memory = Memory::Open(dir);
  if (!memory.ok()) _exit(2);
  for (int64_t i = 0; i < acknowledged; ++i) {
    const auto got = (*memory)->Ask("s", KeyOf(i));
    if (!got.ok() || !got->has_value() || (*got)->value != ValueOf(i)) _exit(3);
  }
  for (int64_t i = from;; ++i) {
    if (!(*memory)->Add("s", {{KeyOf(i), ValueOf(i)}}).ok()) _exit(4);
    if (write(say, &i, sizeof i) != sizeof i) _exit(5);
  }
}

TEST(MemoryKill, NothingAcknowledgedIsLostInAHundredKills) {
  testing::TempDir dir = testing::TempDir::InMemory();
  int64_t acknowledged = 0;
  for (int kill_number = 0; kill_number <= kKills; ++kill_number) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(pipe_ends[0]);
      Remember(dir / "memory", acknowledged, acknowledged, pipe_ends[1]);
    }
    close(pipe_ends[1]);
    const uint64_t random = CounterRandom(7, static_cast<uint64_t>(kill_number));
    const auto wanted = static_cast<int64_t>(1 + random % 25);
    int64_t number = 0;
    for (int64_t i = 0; i < wanted; ++i) {
      if (read(pipe_ends[0], &number, sizeof number) != sizeof number) break;
      acknowledged = number + 1;
    }
    usleep(static_cast<useconds_t>(random >> 32) % 400);  // anywhere between its writes and in them
    kill(child, SIGKILL);
    while (read(pipe_ends[0], &number, sizeof number) == sizeof number) acknowledged = number + 1;
    close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "after kill " << kill_number << " it ended by itself with "
                                     << WEXITSTATUS(status);
  }
  EXPECT_GT(acknowledged, kKills);
}

}  // namespace
}  // namespace omni
