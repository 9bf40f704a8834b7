#include "tests/cluster/tasks/task_kills.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "omni/tasks/v1/tasks.grpc.pb.h"
#include "tests/testing/node_process.h"

namespace omni::testing {
namespace {

namespace pb = ::omni::tasks::v1;
using Clock = std::chrono::steady_clock;
using Stub = pb::SwarmTasks::Stub;

constexpr char kContext[] = "kills";

bool MayPass(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
}

class Kills {
 public:
  explicit Kills(const TaskKillsOptions& options) : options_(options) {}

  TaskKills Run() {
    if (!StartServer()) return result_;
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 500);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
    stub_ = pb::SwarmTasks::NewStub(
        grpc::CreateCustomChannel(grpc_, grpc::InsecureChannelCredentials(), arguments));
    std::vector<std::thread> clients;
    left_ = options_.clients;
    for (int c = 0; c < options_.clients; ++c) clients.emplace_back([this, c] { Client(c); });
    std::thread killer([this] { KillExecutors(); });
    KillAgainAndAgain();
    for (std::thread& client : clients) client.join();
    killer.join();
    result_.tasks = static_cast<int>(told_.size());
    Compare();
    if (const int code = server_->Interrupt(); code != 0) Wrong(absl::StrCat("the server ended with ", code));
    return result_;
  }

 private:
  struct Told {
    std::string key;
    std::vector<pb::TaskEvent> events;
  };

  void Wrong(const std::string& what) {
    const std::lock_guard lock(mutex_);
    if (result_.wrong.size() < 20) result_.wrong.push_back(what);
    given_up_ = true;
  }

  bool StartServer() {
    std::vector<std::string> arguments = {"-m", options_.model, "--state", options_.folder + "/state", "-t",
                                          "1"};
    const std::string listen = http_.empty() ? "127.0.0.1:0" : http_,
                      grpc = grpc_.empty() ? "127.0.0.1:0" : grpc_;
    arguments.insert(arguments.end(), {"--listen", listen, "--grpc", grpc});
    if (command()) {
      const std::string path = options_.folder + "/executors.json";
      std::ofstream(path)
          << R"({"commands": {"step": {"argv": ["/bin/sh", "-c", "echo begun; sleep 0.05; echo \"$1\"", ")"
          << mark_ << R"("], "slots": 8}}})";
      arguments.insert(arguments.end(), {"--executors", path});
    }
    server_ =
        std::make_unique<NodeProcess>(options_.program, arguments, options_.folder + "/log", -1, "serve");
    http_ = server_->WaitForAddress(std::chrono::seconds(120));
    grpc_ = server_->WaitForGrpcAddress(std::chrono::seconds(120));
    if (!http_.empty() && !grpc_.empty()) return true;
    Wrong("the server did not start: " + server_->Log());
    return false;
  }

  // Whenever the clients have been told so much more, at random.
  void KillAgainAndAgain() {
    std::mt19937_64 random(options_.seed);
    const int64_t expected = int64_t{options_.tasks} * 3;
    for (int kill = 0; kill < options_.kills && left_ > 0 && !given_up_; ++kill) {
      const int64_t more = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(std::max<int64_t>(
                                                                   1, 2 * expected / options_.kills)));
      const int64_t until = heard_ + more;
      // What was not heard for so long is waited for by nobody: at the end there may be no more to hear.
      const auto most = Clock::now() + std::chrono::seconds(5);
      while (heard_ < until && left_ > 0 && Clock::now() < most && !given_up_) std::this_thread::yield();
      server_->Kill();
      ++result_.kills;
      if (!StartServer()) return;
    }
  }

  // Empty: it has ended.
  static std::string CommandLine(pid_t pid) {
    std::string line(4096, '\0');
    const int file = ::open(absl::StrCat("/proc/", pid, "/cmdline").c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return "";
    const ssize_t n = ::read(file, line.data(), line.size());
    ::close(file);
    return line.substr(0, static_cast<size_t>(std::max<ssize_t>(n, 0)));
  }
  // Programs of this run's tasks, or what keeps them, at random.
  void KillExecutors() {
    std::mt19937_64 random(options_.seed + 1);
    while (result_.executor_kills < options_.executor_kills && left_ > 0 && !given_up_) {
      std::vector<pid_t> pids;
      if (DIR* processes = ::opendir("/proc")) {
        while (const dirent* entry = ::readdir(processes)) {
          const pid_t pid = std::atoi(entry->d_name);
          if (pid <= 0) continue;
          if (CommandLine(pid).find(mark_) != std::string::npos) pids.push_back(pid);
        }
        ::closedir(processes);
      }
      if (!pids.empty() && ::kill(pids[random() % pids.size()], SIGKILL) == 0) ++result_.executor_kills;
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % 40));
    }
  }

  bool command() const { return options_.work == "command"; }

  // Makes a call until a server has answered.
  template <typename Call>
  grpc::Status Ask(const Call& call) {
    const auto most = Clock::now() + std::chrono::minutes(10);
    while (true) {
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
      const grpc::Status status = call(&context);
      if (!MayPass(status) || Clock::now() > most || given_up_) return status;
      ++asked_again_;
    }
  }

  void Client(int number) {
    for (int i = number; i < options_.tasks && !given_up_; i += options_.clients) OneTask(i);
    --left_;
  }

  void OneTask(int i) {
    const bool model = options_.work == "model", done = model || command();
    pb::SubmitTaskRequest request;
    request.set_idempotency_key(absl::StrCat("key-", i));
    request.mutable_spec()->set_context(kContext);
    // A task that is lost with the server each time is still done in the end.
    request.mutable_spec()->mutable_retry()->set_losses(1000);
    request.mutable_spec()->mutable_retry()->set_attempts(1000);
    request.mutable_spec()->mutable_retry()->mutable_first_wait()->set_nanos(10'000'000);
    request.mutable_spec()->mutable_retry()->mutable_longest_wait()->set_nanos(50'000'000);
    if (model) {
      request.mutable_spec()->mutable_work()->mutable_model()->set_prompt(absl::StrCat("the sea ", i));
      request.mutable_spec()->mutable_work()->mutable_model()->set_max_tokens(3);
    } else {
      request.mutable_spec()->mutable_work()->mutable_command()->set_program(command() ? "step"
                                                                                       : "nobody-does-this");
      if (command())
        request.mutable_spec()->mutable_work()->mutable_command()->add_arguments(absl::StrCat("done ", i));
    }
    pb::SubmitTaskResponse response;
    grpc::Status status =
        Ask([&](grpc::ClientContext* context) { return stub_->SubmitTask(context, request, &response); });
    if (!status.ok()) return Wrong(absl::StrCat("a task was refused: ", status.error_message()));
    const std::string id = response.task().id();
    ++heard_;
    Told told{request.idempotency_key(), {}};
    if (!done || i % 4 == 0) {
      pb::CancelTaskRequest cancel;
      cancel.set_id(id);
      pb::Task task;
      status = Ask([&](grpc::ClientContext* context) { return stub_->CancelTask(context, cancel, &task); });
      // It may be over: by an earlier call of this, or since it was done.
      if (!status.ok() && status.error_code() != grpc::StatusCode::FAILED_PRECONDITION)
        return Wrong(absl::StrCat("task ", id, " was not cancelled: ", status.error_message()));
    }
    Watch(id, &told);
    const std::lock_guard lock(mutex_);
    if (!told_.emplace(id, std::move(told)).second) result_.wrong.push_back("two keys have one task " + id);
  }

  void Watch(const std::string& id, Told* told) {
    int streams = 0;
    const grpc::Status status = Ask([&](grpc::ClientContext* context) {
      resumed_ += ++streams > 1;
      pb::WatchTaskRequest watch;
      watch.set_id(id);
      watch.set_after(static_cast<int64_t>(told->events.size()));
      const auto reader = stub_->WatchTask(context, watch);
      pb::TaskEvent event;
      while (reader->Read(&event)) {
        if (event.number() != static_cast<int64_t>(told->events.size()) + 1) {
          Wrong(absl::StrCat("event ", event.number(), " of ", id, " came after ", told->events.size()));
          context->TryCancel();
        }
        told->events.push_back(event);
        ++heard_;
      }
      return reader->Finish();
    });
    if (!status.ok()) Wrong(absl::StrCat("task ", id, " could not be watched: ", status.error_message()));
    if (told->events.empty() || told->events.back().kind() != pb::TaskEvent::OVER)
      Wrong(absl::StrCat("the stream of ", id, " ended, and the task had not"));
  }

  // After one more end of the server: what lasts is what was told, and nothing else is there.
  void Compare() {
    if (given_up_) return;
    server_->Kill();
    if (!StartServer()) return;
    std::set<std::string> there;
    pb::ListTasksRequest list;
    list.set_page_size(100);
    list.set_context(kContext);
    do {
      pb::ListTasksResponse page;
      const grpc::Status status =
          Ask([&](grpc::ClientContext* context) { return stub_->ListTasks(context, list, &page); });
      if (!status.ok()) return Wrong("tasks cannot be listed: " + status.error_message());
      for (const pb::Task& task : page.tasks()) {
        if (!there.insert(task.id()).second) Wrong("listed twice: " + task.id());
        if (!told_.contains(task.id())) Wrong("nobody was told of task " + task.id());
        if (task.status() < pb::SUCCEEDED) Wrong("is not over: " + task.id());
        if (task.status() == pb::FAILED)
          Wrong("failed: " + task.id() + ": " + task.error() + " " + task.message());
      }
      list.set_page_token(page.next_page_token());
    } while (!list.page_token().empty());
    for (const auto& [id, told] : told_) {
      if (!there.contains(id)) Wrong("lost: task " + id);
      Told again;
      Watch(id, &again);
      int ends = 0;
      for (const pb::TaskEvent& event : again.events) {
        ends += event.kind() == pb::TaskEvent::OVER;
        result_.attempts += event.kind() == pb::TaskEvent::STARTED;
      }
      if (ends != 1) Wrong(absl::StrCat("task ", id, " ended ", ends, " times"));
      bool same = again.events.size() == told.events.size();
      for (size_t i = 0; same && i < told.events.size(); ++i)
        same = again.events[i].SerializeAsString() == told.events[i].SerializeAsString();
      if (!same) Wrong("other events than the client was told: task " + id);
      result_.events += static_cast<int64_t>(again.events.size());
    }
    result_.asked_again = asked_again_;
    result_.resumed = resumed_;
  }

  const TaskKillsOptions options_;
  std::unique_ptr<NodeProcess> server_;
  std::string http_, grpc_;
  const std::string mark_ = absl::StrCat("omni-kills-step-", ::getpid());
  std::unique_ptr<Stub> stub_;
  std::atomic<int64_t> heard_{0}, asked_again_{0}, resumed_{0};
  std::atomic<int> left_{0};
  std::atomic<bool> given_up_{false};
  std::mutex mutex_;
  std::map<std::string, Told> told_;  // by id
  TaskKills result_;
};

}  // namespace

TaskKills RunTaskKills(const TaskKillsOptions& options) { return Kills(options).Run(); }

}  // namespace omni::testing
