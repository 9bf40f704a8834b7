#include "cluster/tasks/task_watches.h"

#include <optional>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cluster/tasks/task_messages.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;

constexpr int kBatchEvents = 64;
constexpr size_t kBatchBytes = 128 << 10;

}  // namespace

// Owned by the watches until gRPC has done with it.
class TaskWatch final : public TaskWatches::Reactor, public std::enable_shared_from_this<TaskWatch> {
 public:
  TaskWatch(TaskWatches& watches, TaskClient by, TaskId id, int64_t after)
      : watches_(watches), by_(std::move(by)), id_(std::move(id)), after_(after) {}

  const TaskId& id() const { return id_; }
  void OnNews() {
    Go([this] { news_ = true; });
  }
  void End(const absl::Status& status) {
    Go([&] { SetEnd(status); });
  }

 private:
  void SetEnd(const absl::Status& status) {
    if (!end_.has_value()) end_ = status;
  }

  // Makes a change and does what follows from it. Whoever finishes must not touch this again: it may be gone.
  // gRPC is called outside the lock, since it may call back at once.
  template <typename Change>
  void Go(const Change& change) {
    const std::shared_ptr<TaskWatch> keep = shared_from_this();
    bool read = false, send = false, finish = false;
    {
      const std::lock_guard lock(mutex_);
      change();
      if (finished_) return;
      if (end_.has_value()) {
        finish = finished_ = !sending_ && !reading_;
      } else {
        if (!sending_ && sent_ < batch_.size()) {
          TellEvent(id_, batch_[sent_], message_);
          if (++sent_ == batch_.size()) batch_.clear(), sent_ = 0;
          send = sending_ = true;
        }
        if (!reading_ && batch_.empty() && news_) {
          read = reading_ = true;
          news_ = false;
        }
      }
    }
    if (read) {
      watches_.pool_.Run([keep] { keep->Read(); },
                         [keep](const absl::Status& thrown) { keep->NotRead(thrown); });
    }
    if (send) StartWrite(&message_);
    if (finish) Finish(watches_.to_grpc_(*end_));
  }

  void Read() {
    absl::Status end;
    bool over = false;
    std::vector<TaskEvent> events;
    const absl::Status read = ReadNext(&events, &over);
    Go([&] {
      reading_ = false;
      if (!read.ok() || over) return SetEnd(read);
      if (events.empty()) return;
      after_ = events.back().number;
      batch_ = std::move(events);
      sent_ = 0;
      news_ = true;  // there may be more, and if not, it may be over
    });
  }

  void NotRead(const absl::Status& why) {
    Go([&] {
      reading_ = false;
      SetEnd(why);
    });
  }

  // On a thread of the pool, one at a time. `over`: there are no more events, and there will be none.
  absl::Status ReadNext(std::vector<TaskEvent>* events, bool* over) const {
    const TaskReader& reader = watches_.engine_.reader();
    // An event may come between the two looks, which the second round then finds.
    for (int round = 0; round < 2; ++round) {
      absl::StatusOr<std::vector<TaskEvent>> found =
          reader.Events(by_, id_, after_, kBatchEvents, kBatchBytes);
      if (!found.ok()) return found.status();
      bool gapless = true;
      for (size_t i = 0; i < found->size(); ++i)
        gapless = gapless && (*found)[i].number == after_ + 1 + static_cast<int64_t>(i);
      if (!found->empty() && gapless) {
        *events = *std::move(found);
        return absl::OkStatus();
      }
      const absl::StatusOr<TaskState> state = reader.Find(by_, id_);
      if (!state.ok()) return state.status();  // purged: its events go one after the other
      if (after_ > state->last_event) {
        return absl::OutOfRangeError(absl::StrCat("the task has ", state->last_event,
                                                  " events so far, and the client says it has ", after_));
      }
      if (gapless && after_ == state->last_event) {
        *over = IsOver(state->status);
        return absl::OkStatus();
      }
    }
    return absl::DataLossError(absl::StrCat("an event of task ", Quoted(id_), " after number ", after_,
                                            " is missing in what is kept"));
  }

  void OnWriteDone(bool ok) override {
    Go([&] {
      sending_ = false;
      if (!ok) SetEnd(absl::CancelledError("the client has gone"));
    });
  }
  void OnCancel() override { End(absl::CancelledError("the client has gone, or its deadline has passed")); }
  void OnDone() override { watches_.Remove(this); }

  TaskWatches& watches_;
  const TaskClient by_;
  const TaskId id_;
  int64_t after_;  // the number of the last event that was read; of whoever reads
  std::mutex mutex_;
  std::vector<TaskEvent> batch_;
  size_t sent_ = 0;        // of the batch
  pb::TaskEvent message_;  // gRPC's while sending_
  bool news_ = false, reading_ = false, sending_ = false, finished_ = false;
  std::optional<absl::Status> end_;
};

TaskWatches::TaskWatches(TaskEngine& engine, DiskPool& pool, int64_t most, ToGrpc to_grpc)
    : engine_(engine), pool_(pool), most_(most), to_grpc_(std::move(to_grpc)) {
  engine_.AddListener(this);
}
TaskWatches::~TaskWatches() { engine_.RemoveListener(this); }

TaskWatches::Reactor* TaskWatches::Begin(TaskClient by, TaskId id, int64_t after) {
  auto watch = std::make_shared<TaskWatch>(*this, std::move(by), std::move(id), after);
  const bool full = ++open_ > most_;
  {
    const std::lock_guard lock(mutex_);
    watches_.emplace(watch->id(), watch);
  }
  if (full) {
    watch->End(absl::ResourceExhaustedError(absl::StrCat(
        most_, " streams of events are open already; ask for the task from time to time, or later")));
  } else if (after < 0) {
    watch->End(absl::InvalidArgumentError(absl::StrCat("after is ", after, "; events begin with number 1")));
  } else {
    watch->OnNews();
  }
  return watch.get();
}

void TaskWatches::OnChanged(const std::set<TaskId>& tasks) {
  std::vector<std::shared_ptr<TaskWatch>> changed;
  {
    const std::lock_guard lock(mutex_);
    if (watches_.empty()) return;
    for (const TaskId& id : tasks) {
      const auto [begin, end] = watches_.equal_range(id);
      for (auto it = begin; it != end; ++it) changed.push_back(it->second);
    }
  }
  for (const auto& watch : changed) watch->OnNews();
}

void TaskWatches::EndAll(const absl::Status& status) {
  std::vector<std::shared_ptr<TaskWatch>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, watch] : watches_) all.push_back(watch);
  }
  for (const auto& watch : all) watch->End(status);
}

void TaskWatches::Remove(TaskWatch* watch) {
  std::shared_ptr<TaskWatch> last;  // goes without the lock
  const std::lock_guard lock(mutex_);
  const auto [begin, end] = watches_.equal_range(watch->id());
  for (auto it = begin; it != end; ++it) {
    if (it->second.get() != watch) continue;
    last = std::move(it->second);
    watches_.erase(it);
    --open_;
    return;
  }
}

}  // namespace omni
