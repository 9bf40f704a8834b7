#include "cluster/tasks/node_tasks.h"

#include <mutex>
#include <optional>
#include <utility>

#include "cluster/tasks/task_runner.h"
#include "store/state/database.h"
#include "store/state/record_store.h"

namespace omni {
namespace {

constexpr char kNodeKey[] = "node";  // beside the tasks' records: the name of the process that had them last

}  // namespace

struct NodeTasks::Impl {
  std::unique_ptr<Database> database;
  std::unique_ptr<RecordStore> store;
  std::unique_ptr<TaskEngine> engine;
  std::unique_ptr<TaskService> service;
  std::string former, node;

  std::mutex runner_mutex;
  std::shared_ptr<TaskRunner> runner;  // null: Begin has not been called
  std::shared_ptr<TaskRunner> Runner() {
    const std::lock_guard lock(runner_mutex);
    return runner;
  }
  std::vector<TaskPlaces> Places() {
    std::vector<TaskPlaces> places;
    const std::shared_ptr<TaskRunner> now = Runner();
    if (now == nullptr) return places;
    for (TaskRunner::Offered& offered : now->offered())
      places.push_back({std::move(offered.offer.executor), std::move(offered.offer.target), node,
                        offered.slots, offered.running, std::move(offered.description)});
    return places;
  }

  std::mutex now_mutex;
  int64_t listed_at = -1;  // the number of writes when `latest` was read
  std::vector<TaskState> latest;
};

absl::StatusOr<std::unique_ptr<NodeTasks>> NodeTasks::Open(const std::string& dir,
                                                           TaskServiceOptions service) {
  auto impl = std::make_unique<Impl>();
  if (!dir.empty()) {
    absl::StatusOr<std::unique_ptr<Database>> database =
        Database::Open(dir, {.durability = Durability::kSynced});
    if (!database.ok()) return database.status();
    impl->database = *std::move(database);
    absl::StatusOr<std::optional<std::string>> former = impl->database->Get(kNodeKey);
    if (!former.ok()) return former.status();
    impl->former = former->value_or("");
    impl->store = MakeDatabaseRecordStore(*impl->database);
    absl::StatusOr<std::unique_ptr<TaskEngine>> engine = TaskEngine::Start(*impl->store, {});
    if (!engine.ok()) return engine.status();
    impl->engine = *std::move(engine);
  }
  service.places = [impl = impl.get()] { return impl->Places(); };
  absl::StatusOr<std::unique_ptr<TaskService>> made =
      TaskService::Make(std::move(service), impl->engine.get());
  if (!made.ok()) return made.status();
  impl->service = *std::move(made);
  return std::unique_ptr<NodeTasks>(new NodeTasks(std::move(impl)));
}

NodeTasks::NodeTasks(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NodeTasks::~NodeTasks() {
  // An attempt that says its last word needs the engine.
  std::shared_ptr<TaskRunner> runner = impl_->Runner();
  if (runner != nullptr) runner->Drain();
}

grpc::Service* NodeTasks::service() { return impl_->service->service(); }

absl::Status NodeTasks::Begin(const std::string& node, std::vector<TaskExecutor*> executors) {
  if (impl_->engine == nullptr) return absl::OkStatus();
  TaskRunnerOptions options;
  options.node = node;
  absl::StatusOr<std::unique_ptr<TaskRunner>> runner =
      TaskRunner::Start(*impl_->engine, std::move(executors), std::move(options));
  if (!runner.ok()) return runner.status();
  const std::string worker = (*runner)->worker();
  {
    const std::lock_guard lock(impl_->runner_mutex);
    impl_->node = node;
    impl_->runner = *std::move(runner);
  }
  // Whatever becomes of these: leases that nobody keeps end by themselves.
  for (const std::string& name : {impl_->former, node})
    if (!name.empty()) impl_->engine->EndLeases(name, worker, [](const absl::Status&) {});
  if (impl_->former != node) impl_->database->Put(kNodeKey, node).IgnoreError();
  return absl::OkStatus();
}

void NodeTasks::BeginDrain() {
  if (impl_->engine == nullptr) return;
  impl_->engine->Drain();
  if (const std::shared_ptr<TaskRunner> runner = impl_->Runner(); runner != nullptr) runner->BeginDrain();
}

void NodeTasks::EndWatches(const absl::Status& status) { impl_->service->EndAll(status); }

std::shared_ptr<const TasksNow> NodeTasks::Now() {
  if (impl_->engine == nullptr) return nullptr;
  auto now = std::make_shared<TasksNow>();
  now->figures = impl_->engine->figures();
  now->accepted = impl_->service->accepted();
  now->watches = impl_->service->watches();
  const std::lock_guard lock(impl_->now_mutex);
  if (now->figures.writes != impl_->listed_at) {
    absl::StatusOr<TaskPage> page = impl_->engine->reader().List({"", true}, {}, kLatest, "");
    if (page.ok()) {
      impl_->latest = std::move(page->tasks);
      impl_->listed_at = now->figures.writes;
    }
  }
  now->latest = impl_->latest;
  return now;
}

}  // namespace omni
