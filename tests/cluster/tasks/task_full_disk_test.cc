// A server whose disk is full: it says so, keeps what it acknowledged, and goes on when there is room again.
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "omni/tasks/v1/tasks.grpc.pb.h"
#include "tests/cli/omni_fixture.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

namespace pb = ::omni::tasks::v1;
using grpc::StatusCode;

// A disk of 192 MiB, which goes with this process.
std::string MountSmallDisk(const std::string& path) {
  if (::unshare(CLONE_NEWNS) != 0)
    return absl::StrCat("a mount of its own needs root: ", std::strerror(errno));
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", path.c_str(), "tmpfs", 0, "size=192m") != 0)
    return absl::StrCat("a small disk cannot be mounted: ", std::strerror(errno));
  return "";
}

class TaskFullDiskTest : public OmniTest {
 protected:
  void Start() {
    server_ = nullptr;
    server_ = std::make_unique<NodeProcess>(
        OMNI_PROGRAM,
        std::vector<std::string>{"-m", Model(), "--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--state",
                                 disk_ + "/state", "-t", "1"},
        log_ / "log", -1, "serve");
    const std::string address = server_->WaitForGrpcAddress(std::chrono::seconds(120));
    ASSERT_NE(address, "") << server_->Log();
    stub_ = pb::SwarmTasks::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }
  grpc::Status Submit(int number, std::string* id) {
    pb::SubmitTaskRequest request;
    request.set_idempotency_key(absl::StrCat("key-", number));
    pb::CommandWork& work = *request.mutable_spec()->mutable_work()->mutable_command();
    work.set_program("nobody-does-this");
    // What no compression makes less of.
    std::string input(100'000, '\0');
    uint64_t state = static_cast<uint64_t>(number) + 1;
    for (char& c : input) c = static_cast<char>((state = state * 6364136223846793005u + 1) >> 56);
    work.set_input(input);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    pb::SubmitTaskResponse response;
    const grpc::Status status = stub_->SubmitTask(&context, request, &response);
    if (id != nullptr) *id = response.task().id();
    return status;
  }
  void ExpectAllThere() {
    for (const auto& [number, id] : acknowledged_) {
      grpc::ClientContext context;
      pb::GetTaskRequest get;
      get.set_id(id);
      pb::Task task;
      const grpc::Status status = stub_->GetTask(&context, get, &task);
      ASSERT_TRUE(status.ok()) << number << " " << status.error_message();
      EXPECT_EQ(task.spec().work().command().input().size(), 100'000u);
    }
  }

  std::string disk_;
  TempDir log_;
  std::unique_ptr<NodeProcess> server_;
  std::unique_ptr<pb::SwarmTasks::Stub> stub_;
  std::map<int, std::string> acknowledged_;
};

TEST_F(TaskFullDiskTest, ItSaysSoLosesNothingAndRecovers) {
  disk_ = log_ / "disk";
  std::filesystem::create_directory(disk_);
  if (const std::string why = MountSmallDisk(disk_); !why.empty()) GTEST_SKIP() << why;
  Start();
  const auto free_bytes = [&] {
    struct statvfs about {};
    EXPECT_EQ(::statvfs(disk_.c_str(), &about), 0);
    return static_cast<int64_t>(about.f_bavail * about.f_frsize);
  };
  const std::string filler = disk_ + "/filler";
  std::ofstream file(filler, std::ios::binary);
  const auto fill_up_to = [&](int64_t left, size_t piece) {
    const std::string bytes(piece, 'f');
    while (free_bytes() > left && file.write(bytes.data(), static_cast<std::streamsize>(piece)).flush()) {
    }
    file.clear();
  };
  // All but room for some hundred tasks is taken by another.
  fill_up_to(24 << 20, 1 << 20);
  int number = 0;
  grpc::Status status;
  for (; number < 2000; ++number) {
    std::string id;
    status = Submit(number, &id);
    if (!status.ok()) break;
    acknowledged_[number] = id;
  }
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_GT(acknowledged_.size(), 10u);
  // What the database itself has let go of meanwhile is taken too.
  int refused = 0;
  for (int more = 5000; more < 5200 && refused < 3; ++more) {
    fill_up_to(0, 4096);
    std::string id;
    status = Submit(more, &id);
    if (status.ok()) {
      acknowledged_[more] = id;
    } else {
      EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
      ++refused;
    }
  }
  EXPECT_EQ(refused, 3);

  file.close();
  std::filesystem::remove(filler);
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  std::string id;
  do {
    status = Submit(number, &id);
    if (!status.ok()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  } while (!status.ok() && std::chrono::steady_clock::now() < until);
  ASSERT_TRUE(status.ok()) << status.error_message() << server_->Log();
  acknowledged_[number] = id;
  ExpectAllThere();
  server_->Kill();
  Start();
  ExpectAllThere();
  for (const auto& [known, want] : acknowledged_) {
    std::string again;
    EXPECT_TRUE(Submit(known, &again).ok());
    EXPECT_EQ(again, want);
  }
  EXPECT_EQ(server_->Interrupt(), 0);
}

}  // namespace
}  // namespace omni::testing
