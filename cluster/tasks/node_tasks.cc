#include "cluster/tasks/node_tasks.h"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

#include "actors/task/task_log.h"
#include "cluster/executor.h"
#include "cluster/mcp/mcp_door.h"
#include "cluster/mcp/mcp_local.h"
#include "cluster/tasks/a2a_door.h"
#include "cluster/tasks/artifact_source.h"
#include "cluster/tasks/coordinated_records.h"
#include "cluster/tasks/leading_engine.h"
#include "cluster/tasks/lending_service.h"
#include "cluster/tasks/remote_lender.h"
#include "cluster/tasks/task_pusher.h"
#include "cluster/tasks/task_runner.h"
#include "store/state/database.h"
#include "store/state/record_store.h"

namespace omni {
namespace {

constexpr char kNodeKey[] = "node";  // beside the tasks' records: the name of the process that had them last
constexpr int64_t kMostLogBytes = 4 << 20;  // of a task's events in the coordination store, which is small
constexpr std::chrono::milliseconds kReadAgain{500};  // what the one before has left

}  // namespace

struct NodeTasks::Impl {
  CoordinationStore* coordination = nullptr;
  std::unique_ptr<Database> database;
  std::unique_ptr<RecordStore> store;
  std::unique_ptr<TaskEngine> engine;
  LeadingEngine* leading = nullptr;  // `engine`, where tasks are in the coordination store
  std::unique_ptr<TaskService> service;
  std::unique_ptr<ArtifactSource> artifacts;
  std::unique_ptr<LendingService> lending;
  std::unique_ptr<RemoteLender> lender;  // where another may keep the tasks
  std::unique_ptr<TaskPusher> pusher;    // null: nobody is told
  std::unique_ptr<A2aDoor> a2a;
  std::function<absl::Status()> serving;
  std::function<std::vector<TaskPlaces>()> places;  // of all nodes
  std::unique_ptr<McpLocal> tools;
  std::unique_ptr<McpDoor> mcp;
  std::string former, node;

  // The latest that became of the election; 0: this node does not lead.
  std::mutex term_mutex;
  std::condition_variable term_changed;
  uint64_t term = 0;
  bool ending = false;
  std::unique_ptr<Executor> takeover = std::make_unique<Executor>();

  TaskLender& Lender() { return lender != nullptr ? static_cast<TaskLender&>(*lender) : *engine; }
  void SetTerm(uint64_t to) {
    {
      const std::lock_guard lock(term_mutex);
      term = to;
    }
    term_changed.notify_all();
  }
  // On the thread of `takeover`, until it is done or another election has come.
  void TakeOver(CoordinationStore& store, uint64_t by) {
    std::unique_lock lock(term_mutex);
    while (!ending && term == by) {
      lock.unlock();
      absl::StatusOr<std::unique_ptr<RecordStore>> records =
          MakeCoordinatedRecords(store, [by] { return by; });
      absl::Status s = records.status();
      if (s.ok()) s = leading->Lead(*std::move(records));
      if (!s.ok()) LogTaskStoreFailed(s);
      lock.lock();
      if (s.ok()) return;
      term_changed.wait_for(lock, kReadAgain, [&] { return ending || term != by; });
    }
  }

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
    std::string name;
    {
      const std::lock_guard lock(runner_mutex);
      name = node;
    }
    for (TaskRunner::Offered& offered : now->offered())
      places.push_back({std::move(offered.offer.executor), std::move(offered.offer.target), name,
                        offered.slots, offered.running, std::move(offered.description)});
    return places;
  }

  std::mutex now_mutex;
  int64_t listed_at = -1;  // the number of writes when `latest` was read
  std::vector<TaskState> latest;
};

absl::StatusOr<std::unique_ptr<NodeTasks>> NodeTasks::Open(NodeTasksOptions options) {
  auto impl = std::make_unique<Impl>();
  if (options.store != nullptr) {
    impl->coordination = options.store;
    TaskEngine::Options with;
    with.ledger.limits.log_bytes = kMostLogBytes;
    std::unique_ptr<LeadingEngine> leading = LeadingEngine::Make(std::move(with));
    impl->leading = leading.get();
    impl->engine = std::move(leading);
  } else if (!options.dir.empty()) {
    absl::StatusOr<std::unique_ptr<Database>> database =
        Database::Open(options.dir, {.durability = Durability::kSynced});
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
  impl->artifacts = std::make_unique<ArtifactSource>(options.credentials);
  options.service.artifact = [impl = impl.get()](const std::string& node, const std::string& where,
                                                 int64_t offset, ArtifactSource::Done done) {
    impl->artifacts->Read(node, impl->lending->AddressOf(node), where, offset, std::move(done));
  };
  if (options.credentials != nullptr && (impl->engine == nullptr || impl->leading != nullptr)) {
    RemoteLenderOptions with;
    with.credentials = std::move(options.credentials);
    with.keeper = std::move(options.keeper);
    with.own = impl->engine.get();
    with.own_keeps = [leading = impl->leading] { return leading != nullptr && leading->leads(); };
    with.address = options.grpc_address;
    with.places = [impl = impl.get()] { return impl->Places(); };
    impl->lender = std::make_unique<RemoteLender>(std::move(with));
  }
  impl->lending = std::make_unique<LendingService>(
      impl->engine.get(), options.service.serving, options.service.elsewhere,
      [impl = impl.get()](const std::string& where, int64_t offset, ArtifactSource::Done done) {
        impl->artifacts->ReadOwn(where, offset, std::move(done));
      });
  options.service.places = [impl = impl.get()] {
    std::vector<TaskPlaces> places = impl->Places();
    for (TaskPlaces& place : impl->lending->places()) places.push_back(std::move(place));
    return places;
  };
  impl->serving = options.service.serving;
  impl->places = options.service.places;
  A2aOptions a2a;
  a2a.serving = options.service.serving;
  a2a.places = options.service.places;
  a2a.version = OMNI_VERSION;
  a2a.access = options.service.access;
  a2a.grpc = std::move(options.grpc_address);
  if (!options.push.allow.empty() && impl->engine != nullptr) {
    TaskPusherOptions push;
    push.config = std::move(options.push);
    push.body = A2aPushBody;
    push.serving = options.service.serving;
    absl::StatusOr<std::unique_ptr<TaskPusher>> pusher = TaskPusher::Start(std::move(push), *impl->engine);
    if (!pusher.ok()) return pusher.status();
    impl->pusher = *std::move(pusher);
    a2a.pusher = impl->pusher.get();
  }
  absl::StatusOr<std::unique_ptr<TaskService>> made =
      TaskService::Make(std::move(options.service), impl->engine.get());
  if (!made.ok()) return made.status();
  impl->service = *std::move(made);
  impl->a2a = A2aDoor::Make(std::move(a2a), impl->engine.get());
  return std::unique_ptr<NodeTasks>(new NodeTasks(std::move(impl)));
}

NodeTasks::NodeTasks(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NodeTasks::~NodeTasks() {
  Drain();
  std::shared_ptr<TaskRunner> runner;  // goes before the lender, and unlocked
  {
    const std::lock_guard lock(impl_->runner_mutex);
    runner.swap(impl_->runner);
  }
  runner = nullptr;
  {
    const std::lock_guard lock(impl_->term_mutex);
    impl_->ending = true;
  }
  impl_->term_changed.notify_all();
  impl_->takeover = nullptr;
}

void NodeTasks::Drain() {
  BeginDrain();
  // An attempt that says its last word needs the engine.
  if (const std::shared_ptr<TaskRunner> runner = impl_->Runner(); runner != nullptr) runner->Drain();
}

grpc::Service* NodeTasks::service() { return impl_->service->service(); }
grpc::Service* NodeTasks::lending() { return impl_->lending->service(); }

void NodeTasks::OnElected(uint64_t term) {
  if (impl_->leading == nullptr) {
    // There are executors that wait for it.
    if (const std::shared_ptr<TaskRunner> runner = impl_->Runner(); runner != nullptr) runner->Wake();
    return;
  }
  impl_->SetTerm(term);
  impl_->takeover->Post([impl = impl_.get(), term] { impl->TakeOver(*impl->coordination, term); });
}

void NodeTasks::OnDeposed() {
  if (impl_->leading == nullptr) return;
  impl_->SetTerm(0);
  impl_->takeover->Post([leading = impl_->leading] { leading->Retire(); });
}

grpc::Service* NodeTasks::agent2agent_service() { return impl_->a2a->service(); }
HttpExtension& NodeTasks::agent2agent() { return *impl_->a2a; }
HttpExtension& NodeTasks::OpenTools(InferenceBackend& model, int64_t most_tokens) {
  McpLocalOptions options{impl_->serving, impl_->places, most_tokens};
  impl_->tools = std::make_unique<McpLocal>(impl_->engine.get(), model, std::move(options));
  impl_->mcp = std::make_unique<McpDoor>(*impl_->tools, McpDoorOptions{.version = OMNI_VERSION});
  return *impl_->mcp;
}
void NodeTasks::CloseTools() {
  impl_->mcp = nullptr;
  impl_->tools = nullptr;
}

absl::Status NodeTasks::Begin(const std::string& node, std::vector<TaskExecutor*> executors,
                              const ArtifactStore* artifacts) {
  impl_->artifacts->SetOwn(node, artifacts);
  if (impl_->engine == nullptr && impl_->lender == nullptr) return absl::OkStatus();
  TaskRunnerOptions options;
  options.node = node;
  absl::StatusOr<std::unique_ptr<TaskRunner>> runner =
      TaskRunner::Start(impl_->Lender(), std::move(executors), std::move(options));
  if (!runner.ok()) return runner.status();
  const std::string worker = (*runner)->worker();
  {
    const std::lock_guard lock(impl_->runner_mutex);
    impl_->node = node;
    impl_->runner = *std::move(runner);
    impl_->runner->Wake();  // it may lead since a moment ago
  }
  if (impl_->database == nullptr) return absl::OkStatus();
  // Whatever becomes of these: leases that nobody keeps end by themselves.
  for (const std::string& name : {impl_->former, node})
    if (!name.empty()) impl_->engine->EndLeases(name, worker, [](const absl::Status&) {});
  if (impl_->former != node) impl_->database->Put(kNodeKey, node).IgnoreError();
  return absl::OkStatus();
}

void NodeTasks::BeginDrain() {
  if (impl_->engine != nullptr) impl_->engine->Drain();
  if (impl_->lender != nullptr) impl_->lender->StopTaking();
  if (const std::shared_ptr<TaskRunner> runner = impl_->Runner(); runner != nullptr) runner->BeginDrain();
}

void NodeTasks::EndWatches(const absl::Status& status) {
  impl_->service->EndAll(status);
  impl_->a2a->EndWaiting(status);
}

std::shared_ptr<const TasksNow> NodeTasks::Now() {
  if (impl_->engine == nullptr || (impl_->leading != nullptr && !impl_->leading->leads())) return nullptr;
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
