// Servers that remember over gRPC and are killed: what was acknowledged is found in the next one.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/memory_doors.h"
#include "engine/base/splitmix.h"
#include "omni/memory/v1/memory.grpc.pb.h"
#include "tests/testing/temp_dir.h"

namespace omni {

// What a process of this program is that is told to serve a folder: says its port, and serves until it is
// killed.
int ServeMemory(const std::string& folder) {
  MemoryServiceOptions options;
  options.serving = [] { return absl::OkStatus(); };
  options.elsewhere = [] { return std::string(); };
  auto doors = MemoryDoors::Make(std::move(options), folder);
  if (!doors.ok()) return 2;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&(*doors)->service());
  const auto server = builder.BuildAndStart();
  if (server == nullptr || write(STDOUT_FILENO, &port, sizeof port) != sizeof port) return 3;
  server->Wait();
  return 0;
}

namespace {

namespace pb = ::omni::memory::v1;

constexpr int kKills = 100;

class Server {
 public:
  explicit Server(const std::string& folder) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    std::string program = std::filesystem::read_symlink("/proc/self/exe"), flag = "--serve-memory",
                where = folder;
    char* arguments[] = {program.data(), flag.data(), where.data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    int port = 0;
    EXPECT_EQ(read(ends[0], &port, sizeof port), static_cast<ssize_t>(sizeof port));
    close(ends[0]);
    stub_ = pb::Memory::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  ~Server() {
    kill(pid_, SIGKILL);
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFSIGNALED(status)) << "it ended by itself with " << WEXITSTATUS(status);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  void Kill() const { kill(pid_, SIGKILL); }
  pb::Memory::Stub& stub() { return *stub_; }

 private:
  pid_t pid_ = 0;
  std::unique_ptr<pb::Memory::Stub> stub_;
};

std::string KeyOf(int64_t i) { return absl::StrCat("number ", i, " of all n", i); }

TEST(MemoryServiceKill, NothingAcknowledgedIsLostInAHundredKills) {
  testing::TempDir dir = testing::TempDir::InMemory();
  int64_t next = 0, checked = 0;
  std::vector<int64_t> acknowledged;
  for (int number = 0; number <= kKills; ++number) {
    Server server(dir / "memory");
    // Those since the kill before; all of them at the end.
    const size_t from = number == kKills ? 0 : static_cast<size_t>(checked);
    for (size_t i = from; i < acknowledged.size(); ++i) {
      grpc::ClientContext context;
      pb::AskRequest request;
      request.set_key(KeyOf(acknowledged[i]));
      pb::AskResponse response;
      const grpc::Status status = server.stub().Ask(&context, request, &response);
      ASSERT_TRUE(status.ok()) << status.error_message();
      ASSERT_EQ(response.value(), absl::StrCat("value ", acknowledged[i])) << "after kill " << number;
    }
    checked = std::ssize(acknowledged);
    if (number == kKills) break;
    const uint64_t random = CounterRandom(7, static_cast<uint64_t>(number));
    std::latch begun(1);  // with the first that is acknowledged, however long a busy machine takes
    std::thread killer([&server, &begun, random] {
      begun.wait();
      std::this_thread::sleep_for(std::chrono::microseconds(random % 15'000));
      server.Kill();
    });
    // Alone or several in one call, until it is gone.
    while (true) {
      pb::AddRequest request;
      const int64_t first = next, count = 1 + next % 3;
      for (int64_t i = first; i < first + count; ++i) {
        pb::Association& one = *request.add_associations();
        one.set_key(KeyOf(i));
        one.set_value(absl::StrCat("value ", i));
      }
      next += count;
      grpc::ClientContext context;
      pb::AddResponse response;
      const grpc::Status status = server.stub().Add(&context, request, &response);
      if (!begun.try_wait()) {
        EXPECT_TRUE(status.ok()) << "before any kill: " << status.error_message();
        begun.count_down();
      }
      if (!status.ok()) break;
      for (int64_t i = first; i < next; ++i) acknowledged.push_back(i);
    }
    killer.join();
  }
  EXPECT_GT(checked, kKills);
}

}  // namespace
}  // namespace omni

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--serve-memory") return omni::ServeMemory(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
