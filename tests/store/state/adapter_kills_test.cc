// Processes that save adapters and are killed: what is found is whole, and no older than what was
// acknowledged.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "engine/around/adapter.h"
#include "engine/base/splitmix.h"
#include "store/state/adapter_files.h"
#include "tests/testing/random_model.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

constexpr int kKills = 150;
constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

// Large enough for a kill to come while it is written; which one it is stands in its values and beside them.
Adapter NumberedAdapter(int64_t number) {
  ModelConfig config = testing::TinyConfig();
  config.vocab = 60'000;
  Adapter adapter(config, {true, true, 0, AdaptLayers::kCores, false}, kHash);
  for (const AdapterBlock block : kAdapterBlocks) {
    for (float& value : adapter.values(block)) value = static_cast<float>(number);
  }
  adapter.origin().tokens = number;
  return adapter;
}

// Its number; -1: it is damaged, or a mixture.
int64_t NumberOf(const std::string& bytes) {
  const absl::StatusOr<Adapter> adapter = Adapter::Read(bytes);
  if (!adapter.ok()) return -1;
  const int64_t number = adapter->origin().tokens;
  return bytes == NumberedAdapter(number).Write() ? number : -1;
}

// Saves from number `from` on and says each once it is acknowledged, until it is killed.
[[noreturn]] void Save(const AdapterFiles& files, int64_t from, int say) {
  for (int64_t number = from;; ++number) {
    if (!files.Save("me", NumberedAdapter(number).Write()).ok()) _exit(2);
    if (write(say, &number, sizeof number) != sizeof number) _exit(3);
  }
}

int64_t HalvesIn(const std::string& dir) {
  int64_t count = 0;
  for (const auto& file : std::filesystem::directory_iterator(dir)) {
    count += file.path().filename().string().find(".tmp-") != std::string::npos;
  }
  return count;
}

TEST(AdapterKills, WhatIsFoundIsWholeAndNothingAcknowledgedIsLost) {
  const testing::TempDir dir = testing::TempDir::InMemory();
  const AdapterFiles files(dir / "adapters");
  ASSERT_TRUE(files.Save("me", NumberedAdapter(0).Write()).ok());
  int64_t acknowledged = 0, halves = 0;
  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(pipe_ends[0]);
      Save(files, acknowledged + 1, pipe_ends[1]);
    }
    close(pipe_ends[1]);
    const uint64_t random = CounterRandom(7, static_cast<uint64_t>(kill_number));
    int64_t number = 0;
    for (uint64_t i = 0; i < 1 + random % 4; ++i) {
      if (read(pipe_ends[0], &number, sizeof number) == sizeof number) acknowledged = number;
    }
    usleep(static_cast<useconds_t>(random >> 32) % 1500);  // anywhere between its writes and in them
    kill(child, SIGKILL);
    while (read(pipe_ends[0], &number, sizeof number) == sizeof number) acknowledged = number;
    close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "after kill " << kill_number << " it ended by itself with "
                                     << WEXITSTATUS(status);
    halves += HalvesIn(dir / "adapters");
    const absl::StatusOr<std::string> bytes = files.Load("me");
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const int64_t found = NumberOf(*bytes);
    // One more may have been saved than was said.
    ASSERT_TRUE(found == acknowledged || found == acknowledged + 1)
        << "kill " << kill_number << ": " << found << " was found, " << acknowledged << " acknowledged";
    acknowledged = found;
    EXPECT_EQ(files.Names()->size(), 1u);
  }
  EXPECT_GT(halves, 0) << "no kill came while a file was written";
  // What the killed have left goes with the next file.
  ASSERT_TRUE(files.Save("me", NumberedAdapter(1).Write()).ok());
  EXPECT_EQ(HalvesIn(dir / "adapters"), 0);
}

}  // namespace
}  // namespace omni
