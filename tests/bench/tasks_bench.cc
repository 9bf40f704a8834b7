// What the task engine makes of a disk, in one run on this machine.
//
//     tasks_bench [--dir FOLDER] [--seconds S] [--stored N] [--json]
//
// Every accept is synced, so the disk's own time for a sync is measured beside it, in the same folder.
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

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "actors/task/task_engine.h"
#include "engine/base/splitmix.h"
#include "store/file/files.h"
#include "store/state/database.h"
#include "store/state/record_store.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {
namespace {

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

// Each submitter hands in the next task when it knows that the last one lasts.
double AcceptedPerSecond(TaskEngine& engine, int submitters, double seconds) {
  std::atomic<int64_t> accepted = 0;
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  const auto end =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (int s = 0; s < submitters; ++s) {
    threads.emplace_back([&, s] {
      for (int64_t n = 0; Clock::now() < end; ++n) {
        std::promise<absl::Status> done;
        engine.Submit({"caller" + std::to_string(s % 8), std::to_string(s) + "/" + std::to_string(n), Work()},
                      [&](const absl::StatusOr<TaskSubmitted>& task) { done.set_value(task.status()); });
        if (const absl::Status status = done.get_future().get(); !status.ok())
          Die(std::string(status.message()));
        ++accepted;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return static_cast<double>(accepted) / std::chrono::duration<double>(Clock::now() - start).count();
}

// From the call of Submit until an executor that waits has the task, as lent and synced.
std::vector<double> SubmitToStart(TaskEngine& engine, int tasks) {
  class Worker {
   public:
    explicit Worker(TaskEngine& engine) : engine_(engine) { Await(); }
    // The last one waits until it is given nothing.
    ~Worker() {
      std::unique_lock lock(mutex_);
      over_ = true;
      changed_.wait(lock, [&] { return !waiting_; });
    }
    Clock::time_point StartOf(const TaskId& id) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return started_.contains(id); });
      return started_.at(id);
    }

   private:
    void Await() {
      engine_.Await("bench", "here", {{"bench", "*"}}, std::chrono::milliseconds(200),
                    [this](absl::StatusOr<std::optional<TaskAssignment>> given) {
                      const bool has = given.ok() && given->has_value();
                      if (has) engine_.Succeed((*given)->token, {}, "", [](const absl::Status&) {});
                      const std::lock_guard lock(mutex_);
                      if (has) started_[(*given)->state.id] = Clock::now();
                      if (has || !over_) {
                        Await();
                      } else {
                        waiting_ = false;
                      }
                      changed_.notify_all();
                    });
    }

    TaskEngine& engine_;
    bool over_ = false, waiting_ = true;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::map<TaskId, Clock::time_point> started_;
  };
  Worker worker(engine);
  std::vector<double> times;
  for (int t = 0; t < tasks; ++t) {
    TaskSpec spec = Work();
    spec.executor = "bench";
    std::promise<TaskId> done;
    const auto start = Clock::now();
    engine.Submit({"caller", "", spec}, [&](const absl::StatusOr<TaskSubmitted>& task) {
      if (!task.ok()) Die(std::string(task.status().message()));
      done.set_value(task->state.id);
    });
    times.push_back(Milliseconds(worker.StartOf(done.get_future().get()) - start));
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
  std::string dir;
  double seconds = 5;
  int64_t stored = 1'000'000;
  bool json = false;
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
    const Opened opened = Open(folder + "/rates");
    out["fsync_ms"] = SyncMilliseconds(folder);
    out["synced_per_s_1"] = AcceptedPerSecond(*opened.engine, 1, seconds);
    out["synced_per_s_64"] = AcceptedPerSecond(*opened.engine, 64, seconds);
    const std::vector<double> starts = SubmitToStart(*opened.engine, 500);
    out["submit_to_start_ms"] = Quantile(starts, 0.5);
    out["submit_to_start_ms_p99"] = Quantile(starts, 0.99);
    out["fsync_ms_after"] = SyncMilliseconds(folder);
  }
  const nlohmann::json large = MeasureStored(folder + "/stored", stored);
  for (const auto& [key, value] : large.items()) out[key == "stored" ? key : key + "_1m"] = value;
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  std::printf("%s\n", out.dump(json ? -1 : 2).c_str());
  return 0;
}
