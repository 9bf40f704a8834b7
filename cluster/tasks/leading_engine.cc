#include "cluster/tasks/leading_engine.h"

#include <condition_variable>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "actors/task/task_listeners.h"

namespace omni {
namespace {

absl::Status NotHere() {
  return absl::UnavailableError("the tasks are being taken over by another node, or by this one; ask again");
}

struct Current {
  std::unique_ptr<RecordStore> records;
  std::unique_ptr<TaskEngine> engine;  // goes before its records
};

// Whoever uses what there is keeps it until it has done so.
class Turns {
 public:
  class Use {
   public:
    explicit Use(const Turns& turns) : turns_(turns) {
      const std::lock_guard lock(turns_.mutex_);
      current_ = turns_.current_.get();
      if (current_ != nullptr) ++turns_.users_;
    }
    ~Use() {
      if (current_ == nullptr) return;
      const std::lock_guard lock(turns_.mutex_);
      if (--turns_.users_ == 0) turns_.none_.notify_all();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    Current* operator->() const { return current_; }
    explicit operator bool() const { return current_ != nullptr; }

   private:
    const Turns& turns_;
    Current* current_;
  };

  // Gives what there was, when nobody uses it any more.
  std::unique_ptr<Current> Exchange(std::unique_ptr<Current> next) {
    std::unique_lock lock(mutex_);
    std::unique_ptr<Current> before = std::exchange(current_, nullptr);
    none_.wait(lock, [this] { return users_ == 0; });
    current_ = std::move(next);
    return before;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable none_;
  mutable int64_t users_ = 0;
  std::unique_ptr<Current> current_;
};

class CurrentRecords : public RecordStore {
 public:
  explicit CurrentRecords(const Turns& turns) : turns_(turns) {}
  absl::Status Write(const RecordWrites&) override { return NotHere(); }
  absl::Status Recover() override { return NotHere(); }
  size_t max_changes() const override { return 0; }
  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override {
    const Turns::Use use(turns_);
    if (!use) return NotHere();
    return use->records->Get(key);
  }
  absl::Status Scan(std::string_view prefix, std::string_view from,
                    const RecordVisitor& visit) const override {
    const Turns::Use use(turns_);
    return use ? use->records->Scan(prefix, from, visit) : NotHere();
  }

 private:
  const Turns& turns_;
};

class Leading final : public LeadingEngine, private TaskListener {
 public:
  explicit Leading(Options options) : options_(std::move(options)), records_(turns_), reader_(records_) {}
  ~Leading() override { Retire(); }

  absl::Status Lead(std::unique_ptr<RecordStore> records) override {
    Retire();
    auto next = std::make_unique<Current>();
    next->records = std::move(records);
    absl::StatusOr<std::unique_ptr<TaskEngine>> engine = TaskEngine::Start(*next->records, options_);
    if (!engine.ok()) return engine.status();
    next->engine = *std::move(engine);
    TaskEngine& begun = *next->engine;
    begun.AddListener(this);
    {
      const std::lock_guard lock(drain_mutex_);
      if (draining_) begun.Drain();
      turns_.Exchange(std::move(next));
    }
    OnQueued();  // what the one before has left waits
    return absl::OkStatus();
  }
  void Retire() override { turns_.Exchange(nullptr); }
  bool leads() const override { return static_cast<bool>(Turns::Use(turns_)); }

  void Submit(TaskSubmission submission, Done<TaskSubmitted> done) override {
    With(done, [&](TaskEngine& e) { e.Submit(std::move(submission), done); });
  }
  void Cancel(TaskClient by, TaskId id, Done<TaskState> done) override {
    With(done, [&](TaskEngine& e) { e.Cancel(std::move(by), std::move(id), done); });
  }
  void Retry(TaskClient by, TaskId id, Done<TaskState> done) override {
    With(done, [&](TaskEngine& e) { e.Retry(std::move(by), std::move(id), done); });
  }
  void Purge(TaskClient by, TaskId id, Told told) override {
    With(told, [&](TaskEngine& e) { e.Purge(std::move(by), std::move(id), told); });
  }
  void Take(std::string worker, std::string node, std::vector<TaskOffer> offers,
            Done<std::optional<TaskAssignment>> done) override {
    With(done, [&](TaskEngine& e) { e.Take(std::move(worker), std::move(node), std::move(offers), done); });
  }
  void Await(std::string worker, std::string node, std::vector<TaskOffer> offers, TaskDuration most,
             Done<std::optional<TaskAssignment>> done) override {
    With(done,
         [&](TaskEngine& e) { e.Await(std::move(worker), std::move(node), std::move(offers), most, done); });
  }
  void Report(std::string token, TaskReport report, Done<TaskLedger::Told> done) override {
    With(done, [&](TaskEngine& e) { e.Report(std::move(token), std::move(report), done); });
  }
  void Succeed(std::string token, TaskReport last, std::string result, Told told) override {
    With(told, [&](TaskEngine& e) { e.Succeed(std::move(token), std::move(last), std::move(result), told); });
  }
  void Fail(std::string token, TaskReport last, std::string error, std::string message, Told told) override {
    With(told, [&](TaskEngine& e) {
      e.Fail(std::move(token), std::move(last), std::move(error), std::move(message), told);
    });
  }
  void Return(std::string token, Told told) override {
    With(told, [&](TaskEngine& e) { e.Return(std::move(token), told); });
  }
  void EndLeases(std::string node, std::string but_worker, Told told) override {
    With(told, [&](TaskEngine& e) { e.EndLeases(std::move(node), std::move(but_worker), told); });
  }
  void ReturnLeases(std::string node, std::string worker, Told told) override {
    With(told, [&](TaskEngine& e) { e.ReturnLeases(std::move(node), std::move(worker), told); });
  }
  void PutSchedule(TaskSchedule schedule, Told told) override {
    With(told, [&](TaskEngine& e) { e.PutSchedule(std::move(schedule), told); });
  }
  void DeleteSchedule(std::string caller, std::string name, Told told) override {
    With(told, [&](TaskEngine& e) { e.DeleteSchedule(std::move(caller), std::move(name), told); });
  }
  void PutPush(TaskClient by, TaskPush push, Done<TaskPush> done) override {
    With(done, [&](TaskEngine& e) { e.PutPush(std::move(by), std::move(push), done); });
  }
  void DeletePush(TaskClient by, TaskId id, std::string name, Told told) override {
    With(told, [&](TaskEngine& e) { e.DeletePush(std::move(by), std::move(id), std::move(name), told); });
  }
  void Pushed(TaskId id, std::string name, std::string url, int64_t up_to, Told told) override {
    With(told, [&](TaskEngine& e) { e.Pushed(std::move(id), std::move(name), std::move(url), up_to, told); });
  }

  void AddListener(TaskListener* listener) override { listeners_.Add(listener); }
  void RemoveListener(TaskListener* listener) override { listeners_.Remove(listener); }
  void Drain() override {
    const std::lock_guard lock(drain_mutex_);
    draining_ = true;
    if (const Turns::Use use(turns_); use) use->engine->Drain();
  }
  void Wake() override {
    if (const Turns::Use use(turns_); use) use->engine->Wake();
  }
  const TaskReader& reader() const override { return reader_; }
  TaskFigures figures() const override {
    if (const Turns::Use use(turns_); use) return use->engine->figures();
    TaskFigures none;
    none.store = NotHere();
    return none;
  }

 private:
  template <typename Done, typename Call>
  void With(const Done& done, const Call& call) {
    {
      const Turns::Use use(turns_);
      if (use) return call(*use->engine);
    }
    done(NotHere());
  }

  void OnQueued() override {
    listeners_.Tell([](TaskListener& l) { l.OnQueued(); });
  }
  void OnEnded(const std::vector<std::string>& leases) override {
    listeners_.Tell([&](TaskListener& l) { l.OnEnded(leases); });
  }
  void OnChanged(const std::set<TaskId>& tasks) override {
    listeners_.Tell([&](TaskListener& l) { l.OnChanged(tasks); });
  }

  const Options options_;
  Turns turns_;
  const CurrentRecords records_;
  const TaskReader reader_;
  std::mutex drain_mutex_;
  bool draining_ = false;
  TaskListeners listeners_;
};

}  // namespace

std::unique_ptr<LeadingEngine> LeadingEngine::Make(TaskEngine::Options of_each) {
  return std::make_unique<Leading>(std::move(of_each));
}

}  // namespace omni
