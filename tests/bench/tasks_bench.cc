// What the task engine makes of a disk, in one run on this machine.
//
//     tasks_bench --omni PROGRAM -m MODEL [--dir FOLDER] [--seconds S] [--stored N] [--json]
//
// Rates and times are those of clients of an `omni serve` over gRPC; what a million stored tasks cost is the
// engine's. Every accept is synced, so the disk's own time for a sync is measured beside it, in the same
// folder.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "actors/task/task_engine.h"
#include "engine/base/splitmix.h"
#include "omni/tasks/v1/lending.grpc.pb.h"
#include "omni/tasks/v1/tasks.grpc.pb.h"
#include "store/file/files.h"
#include "store/state/database.h"
#include "store/state/record_store.h"
#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {
namespace {

namespace pb = ::omni::tasks::v1;
using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "tasks_bench: %s\n", what.c_str());
  std::exit(1);
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}

// The median time of a small append and its fdatasync.
double SyncMilliseconds(const std::string& dir) {
  const std::string path = dir + "/sync";
  const int file = ::open(path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) Die(path + ": cannot be written");
  const std::string bytes(600, 'x');
  std::vector<double> times;
  for (int i = 0; i < 200; ++i) {
    const auto start = Clock::now();
    if (::write(file, bytes.data(), bytes.size()) < 0 || ::fdatasync(file) != 0)
      Die(path + ": cannot be synced");
    times.push_back(Milliseconds(Clock::now() - start));
  }
  ::close(file);
  ::unlink(path.c_str());
  return Quantile(times, 0.5);
}

TaskSpec Work() { return {.executor = "command", .target = "none", .input = std::string(256, 'w')}; }

struct Opened {
  std::unique_ptr<Database> database;
  std::unique_ptr<RecordStore> store;
  std::unique_ptr<TaskEngine> engine;
};

Opened Open(const std::string& dir) {
  Opened opened;
  auto database = Database::Open(dir, {});
  if (!database.ok()) Die(std::string(database.status().message()));
  opened.database = *std::move(database);
  opened.store = MakeDatabaseRecordStore(*opened.database);
  auto engine = TaskEngine::Start(*opened.store, {});
  if (!engine.ok()) Die(std::string(engine.status().message()));
  opened.engine = *std::move(engine);
  return opened;
}

// An `omni serve` of its own on loopback, whose tasks are on the disk that is meant.
class Server {
 public:
  Server(const std::string& omni, const std::string& model, const std::string& folder) {
    process_ = std::make_unique<testing::NodeProcess>(
        omni,
        std::vector<std::string>{"-m", model, "--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--state",
                                 folder + "/state", "-t", "1", "--no-log-requests"},
        folder + "/log", -1, "serve");
    address_ = process_->WaitForGrpcAddress();
    if (address_.empty()) Die("omni serve did not start: " + process_->Log());
  }
  // Connections of their own, as different clients have them.
  std::shared_ptr<grpc::Channel> Connect() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments);
  }

 private:
  std::unique_ptr<testing::NodeProcess> process_;
  std::string address_;
};

pb::SubmitTaskRequest Request(const std::string& program) {
  pb::SubmitTaskRequest request;
  pb::CommandWork& work = *request.mutable_spec()->mutable_work()->mutable_command();
  work.set_program(program);
  work.set_input(std::string(256, 'w'));
  return request;
}

// Each submitter hands in the next task when it has heard that the last one lasts.
double AcceptedPerSecond(const Server& server, int submitters, double seconds, int round) {
  std::atomic<int64_t> accepted = 0;
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<pb::SwarmTasks::Stub>> stubs;
  for (int s = 0; s < submitters; ++s) {
    stubs.push_back(pb::SwarmTasks::NewStub(server.Connect()));
    grpc::ClientContext context;
    pb::ListExecutorsResponse ignored;
    context.set_wait_for_ready(true);
    if (!stubs.back()->ListExecutors(&context, {}, &ignored).ok()) Die("the server does not answer");
  }
  const auto start = Clock::now();
  const auto end =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (int s = 0; s < submitters; ++s) {
    threads.emplace_back([&, s] {
      pb::SubmitTaskRequest request = Request("nobody-does-this");
      for (int64_t n = 0; Clock::now() < end; ++n) {
        request.set_idempotency_key(std::to_string(round) + "/" + std::to_string(s) + "/" +
                                    std::to_string(n));
        grpc::ClientContext context;
        pb::SubmitTaskResponse response;
        if (const grpc::Status status =
                stubs[static_cast<size_t>(s)]->SubmitTask(&context, request, &response);
            !status.ok())
          Die(status.error_message());
        ++accepted;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return static_cast<double>(accepted) / std::chrono::duration<double>(Clock::now() - start).count();
}

// From the call of SubmitTask until a node that waits for tasks has it.
std::vector<double> SubmitToStart(const Server& server, int tasks) {
  const auto lending = pb::TaskLending::NewStub(server.Connect());
  const auto clients = pb::SwarmTasks::NewStub(server.Connect());
  std::vector<double> times;
  for (int t = 0; t < tasks; ++t) {
    Clock::time_point started;
    std::promise<void> asking;
    std::thread worker([&] {
      pb::TakeRequest take;
      take.set_node("bench");
      take.set_worker("bench");
      take.add_offers()->set_executor("command");
      take.mutable_offers(0)->set_target("bench");
      take.mutable_wait()->set_seconds(30);
      pb::TakeResponse taken;
      grpc::ClientContext context;
      asking.set_value();
      const grpc::Status status = lending->Take(&context, take, &taken);
      if (!status.ok() || !taken.has_task()) Die("no task came: " + status.error_message());
      started = Clock::now();
      pb::EndRequest end;
      end.set_token(taken.task().token());
      end.mutable_succeeded();
      pb::EndResponse ended;
      grpc::ClientContext second;
      if (!lending->End(&second, end, &ended).ok()) Die("the task was not done");
    });
    asking.get_future().wait();
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // until it waits there
    grpc::ClientContext context;
    pb::SubmitTaskResponse response;
    const auto start = Clock::now();
    if (!clients->SubmitTask(&context, Request("bench"), &response).ok()) Die("a task was refused");
    worker.join();
    times.push_back(Milliseconds(started - start));
  }
  return times;
}

// A store with many tasks, half of them over, written as the ledger writes them but many to a sync.
void Fill(RecordStore& store, int64_t tasks) {
  uint64_t drawn = 1;
  TaskLedger ledger(store, {.random = [&] { return SplitMix64(drawn++); }});
  const TaskTime now = std::chrono::time_point_cast<TaskDuration>(std::chrono::system_clock::now());
  if (absl::Status s = ledger.Load(now); !s.ok()) Die(std::string(s.message()));
  TaskStep step;
  const auto write = [&] {
    if (absl::Status s = store.Write(step.writes); !s.ok()) Die(std::string(s.message()));
    step = {};
  };
  for (int64_t t = 0; t < tasks; ++t) {
    const TaskTime at = now + TaskDuration(t / 100);
    TaskSpec spec = Work();
    spec.input.resize(64);
    spec.executor = t % 2 == 0 ? "waits" : "ends";
    const auto task = ledger.Submit({"caller" + std::to_string(t % 8), "", spec}, at, step);
    if (!task.ok()) Die(std::string(task.status().message()));
    if (t % 2 == 1) {
      const std::vector<TaskOffer> offers = {{"ends", "*"}};
      const auto given = ledger.Take("fill", "here", offers, at, step);
      if (!given.ok() || !given->has_value()) Die("a task that was handed in is not lent");
      if (absl::Status s = ledger.Succeed((*given)->token, {}, "", at, step); !s.ok())
        Die(std::string(s.message()));
    }
    if (step.writes.size() > 10'000) write();
  }
  write();
}

nlohmann::json MeasureStored(const std::string& dir, int64_t tasks) {
  {
    auto database = Database::Open(dir, {});
    if (!database.ok()) Die(std::string(database.status().message()));
    const std::unique_ptr<RecordStore> store = MakeDatabaseRecordStore(**database);
    Fill(*store, tasks);
  }
  auto start = Clock::now();
  const Opened opened = Open(dir);
  const double recovery = Milliseconds(Clock::now() - start);
  const TaskReader& reader = opened.engine->reader();
  std::vector<double> lists, gets;
  std::string page;
  for (int i = 0; i < 20; ++i) {
    start = Clock::now();
    const auto listed = reader.List({"caller3", false}, {}, 50, page);
    lists.push_back(Milliseconds(Clock::now() - start));
    if (!listed.ok() || listed->tasks.size() != 50) Die("a page of the list is not whole");
    page = listed->next;
    for (const TaskState& task : listed->tasks) {
      start = Clock::now();
      if (!reader.Find({"caller3", false}, task.id).ok()) Die("a task that is listed is not found");
      gets.push_back(Milliseconds(Clock::now() - start));
    }
  }
  start = Clock::now();
  const auto all = reader.List({"", true}, {.statuses = {TaskStatus::kQueued}}, 1000, "");
  if (!all.ok() || all->tasks.empty()) Die("nothing that waits is listed");
  return {{"stored", tasks},
          {"recovery_ms", recovery},
          {"list_ms_worst", Quantile(lists, 1)},
          {"list_1000_ms", Milliseconds(Clock::now() - start)},
          {"get_ms_worst", Quantile(gets, 1)}};
}

}  // namespace
}  // namespace omni::bench

int main(int argc, char** argv) {
  using namespace omni;
  using namespace omni::bench;
  CLI::App app("What the task engine makes of a disk");
  std::string dir, omni, model;
  double seconds = 5;
  int64_t stored = 1'000'000;
  bool json = false;
  app.add_option("--omni", omni, "the program")->required();
  app.add_option("-m,--model", model)->required();
  app.add_option("--dir", dir, "on the disk that is meant; else the system's for temporary files");
  app.add_option("--seconds", seconds, "of each rate");
  app.add_option("--stored", stored, "tasks of the large store")->check(CLI::Range(100, 10'000'000));
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);
  omni::testing::TempDir temporary;
  const std::string folder =
      (dir.empty() ? temporary.path() : dir) + "/tasks_bench." + std::to_string(getpid());
  if (!MakeDirectory(folder).ok()) Die(folder + ": cannot be made");

  nlohmann::json out;
  {
    const Server server(omni, model, folder);
    out["fsync_ms"] = SyncMilliseconds(folder);
    out["synced_per_s_1"] = AcceptedPerSecond(server, 1, seconds, 1);
    out["synced_per_s_64"] = AcceptedPerSecond(server, 64, seconds, 2);
    const std::vector<double> starts = SubmitToStart(server, 500);
    out["submit_to_start_ms"] = Quantile(starts, 0.5);
    out["submit_to_start_ms_p99"] = Quantile(starts, 0.99);
    out["fsync_ms_after"] = SyncMilliseconds(folder);
  }
  const nlohmann::json large = MeasureStored(folder + "/stored", stored);
  const std::string of = stored == 1'000'000 ? "_1m" : "_" + std::to_string(stored);
  for (const auto& [key, value] : large.items()) out[key == "stored" ? key : key + of] = value;
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  std::printf("%s\n", out.dump(json ? -1 : 2).c_str());
  return 0;
}
