#include "cluster/tasks/a2a_handlers.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/executor.h"
#include "cluster/tasks/a2a_card.h"
#include "cluster/tasks/a2a_error.h"
#include "cluster/tasks/a2a_messages.h"
#include "cluster/tasks/a2a_push.h"
#include "cluster/tasks/task_pusher.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr int kPage = 50, kMostPage = 100, kMostLongPage = 20;
constexpr int kBatchEvents = 64, kCounted = 2000;
constexpr size_t kBatchBytes = 128 << 10;
constexpr size_t kTaskBytes = 1 << 20, kListedBytes = 32 << 10;  // of a task's artifacts

TaskClient Client(const A2aAsker& asker) { return {asker.caller, false}; }

absl::Status NoSuchTask(const std::string& id) {
  return A2aStatus(A2aReason::kTaskNotFound, absl::StrCat("there is no task ", Quoted(id)));
}
// Of what was read of a task.
absl::Status OfTask(const absl::Status& status, const std::string& id) {
  return absl::IsNotFound(status) ? NoSuchTask(id) : status;
}
absl::Status OfPush(const absl::Status& status) {
  return absl::IsNotFound(status) ? A2aStatus(A2aReason::kTaskNotFound, std::string(status.message()))
                                  : status;
}

}  // namespace

class TaskStream;

struct A2aHandlers::Impl : public TaskListener, public std::enable_shared_from_this<A2aHandlers::Impl> {
  Impl(A2aOptions o, TaskEngine* e) : options(std::move(o)), engine(e) {}

  absl::Status Serving() const {
    {
      const std::lock_guard lock(mutex);
      if (end.has_value()) return *end;
    }
    if (absl::Status s = options.serving == nullptr ? absl::OkStatus() : options.serving(); !s.ok()) return s;
    return engine != nullptr ? absl::OkStatus() : absl::UnavailableError("this node keeps no tasks");
  }
  // Room for one more call or stream, until what it gives is let go; null: there is none.
  std::shared_ptr<void> Enter() {
    if (++open > options.most_calls) {
      --open;
      return nullptr;
    }
    return std::shared_ptr<void>(this, [self = shared_from_this()](void*) { --self->open; });
  }
  static absl::Status Full() {
    return absl::ResourceExhaustedError("too many calls wait at present; ask again later");
  }
  // `read()` on a thread of the pool.
  template <typename T, typename F>
  void Read(Done<T> done, F read) {
    if (absl::Status s = Serving(); !s.ok()) return done(s);
    const std::shared_ptr<void> place = Enter();
    if (place == nullptr) return done(Full());
    Run([place, done = std::move(done), read = std::move(read)] { done(read()); });
  }
  // Nothing, once the handlers go.
  void Run(std::function<void()> job) {
    const std::lock_guard lock(pool_mutex);
    if (pool != nullptr) pool->Post(std::move(job));
  }

  // What else of a task is asked for than its state.
  struct Wanted {
    bool artifacts = true;
    std::optional<int32_t> history;
    size_t bytes = kTaskBytes;
  };
  // Waits for the disk. `updates` goes on after the event that `after` is then.
  absl::StatusOr<a2a::Task> ReadTask(const A2aAsker& asker, const std::string& id, const Wanted& wanted,
                                     std::unique_ptr<A2aUpdates>* updates = nullptr,
                                     TaskState* state = nullptr) const;
  std::string ResultOf(const A2aAsker& asker, const std::string& id) const {
    return engine->reader().Result(Client(asker), id).value_or("");
  }
  void Submit(const A2aAsker& asker, const a2a::SendMessageRequest& request, Done<TaskState> done);
  void Submitted(const TaskSubmission& submission, Done<TaskState> done);
  absl::Status CheckFollowUp(const A2aAsker& asker, const a2a::Message& message) const;
  absl::StatusOr<TaskPush> ReadPush(const a2a::TaskPushNotificationConfig& config) const;
  void PutPush(const A2aAsker& asker, TaskPush push, Done<TaskPush> done);
  std::shared_ptr<A2aStream> Open(const A2aAsker& asker, const TaskId& id, bool live);
  void OnChanged(const std::set<TaskId>& tasks) override;

  const A2aOptions options;
  TaskEngine* const engine;
  std::atomic<int64_t> open{0};
  mutable std::mutex mutex;
  std::multimap<TaskId, TaskStream*> streams;
  std::optional<absl::Status> end;
  std::mutex pool_mutex;
  std::unique_ptr<Executor> pool;  // null: the handlers go
};

// Reads one batch when it is asked for one and there is something new.
class TaskStream final : public A2aStream, public std::enable_shared_from_this<TaskStream> {
 public:
  // `live`: of a task that is over there is none.
  TaskStream(std::shared_ptr<A2aHandlers::Impl> handlers, A2aAsker asker, TaskId id, bool live)
      : handlers_(std::move(handlers)), asker_(std::move(asker)), id_(std::move(id)), live_(live) {
    place_ = handlers_->Enter();
  }
  // Once somebody holds it.
  void Register() {
    const std::lock_guard lock(handlers_->mutex);
    handlers_->streams.emplace(id_, this);
    end_ = handlers_->end;
    if (place_ == nullptr) end_ = A2aHandlers::Impl::Full();
  }
  ~TaskStream() override {
    const std::lock_guard lock(handlers_->mutex);
    const auto [begin, end] = handlers_->streams.equal_range(id_);
    for (auto it = begin; it != end; ++it) {
      if (it->second != this) continue;
      handlers_->streams.erase(it);
      return;
    }
  }

  void Next(Told told) override {
    Go([&] { told_ = std::move(told); });
  }
  void OnNews() {
    Go([this] { news_ = true; });
  }
  void End(const absl::Status& status) {
    Go([&] { end_ = status; });
  }

 private:
  template <typename Change>
  void Go(const Change& change) {
    Told told;
    absl::Status end;
    {
      const std::lock_guard lock(mutex_);
      change();
      if (told_ == nullptr || reading_) return;
      if (end_.has_value()) {
        told = std::exchange(told_, nullptr);
        end = *end_;
      } else if (news_) {
        news_ = false;
        reading_ = true;
      } else {
        return;
      }
    }
    if (told != nullptr) return told(end);
    handlers_->Run([self = shared_from_this()] { self->Read(); });
  }

  void Read() {
    absl::StatusOr<Batch> batch = ReadNext();
    Told told;
    const bool silent = batch.ok() && batch->updates.empty() && !batch->over;
    Go([&] {
      reading_ = false;
      if (silent) return;
      news_ = true;  // there may be more
      told = std::exchange(told_, nullptr);
    });
    if (told != nullptr) told(std::move(batch));
  }

  // On a thread of the pool, one at a time.
  absl::StatusOr<Batch> ReadNext() {
    Batch batch;
    if (updates_ == nullptr) {
      TaskState state;
      absl::StatusOr<a2a::Task> task = handlers_->ReadTask(asker_, id_, {}, &updates_, &state);
      if (!task.ok()) return task.status();
      if (live_ && IsOver(state.status)) {
        return A2aStatus(A2aReason::kUnsupportedOperation,
                         "the task is over: there is nothing to subscribe to; get it instead");
      }
      after_ = state.last_event;
      batch.over = IsOver(state.status);
      *batch.updates.emplace_back().mutable_task() = *std::move(task);
      return batch;
    }
    const TaskReader& reader = handlers_->engine->reader();
    const TaskClient by = Client(asker_);
    // Of a batch without updates the next is looked at.
    while (batch.updates.empty() && !batch.over) {
      const absl::StatusOr<std::vector<TaskEvent>> events =
          reader.Events(by, id_, after_, kBatchEvents, kBatchBytes);
      if (!events.ok()) return OfTask(events.status(), id_);
      if (events->empty()) break;
      for (const TaskEvent& event : *events) {
        updates_->Apply(
            event, [this] { return handlers_->ResultOf(asker_, id_); }, &batch.updates);
        after_ = event.number;
        batch.over = event.kind == TaskEventKind::kOver;
        if (batch.over) break;
      }
    }
    return batch;
  }

  const std::shared_ptr<A2aHandlers::Impl> handlers_;
  const A2aAsker asker_;
  const TaskId id_;
  const bool live_;
  std::shared_ptr<void> place_;
  std::unique_ptr<A2aUpdates> updates_;  // of whoever reads
  int64_t after_ = 0;                    // the same
  std::mutex mutex_;
  Told told_;
  bool news_ = true, reading_ = false;
  std::optional<absl::Status> end_;
};

void A2aHandlers::Impl::OnChanged(const std::set<TaskId>& tasks) {
  std::vector<std::shared_ptr<TaskStream>> changed;
  {
    const std::lock_guard lock(mutex);
    if (streams.empty()) return;
    for (const TaskId& id : tasks) {
      const auto [begin, last] = streams.equal_range(id);
      for (auto it = begin; it != last; ++it) {
        if (auto stream = it->second->weak_from_this().lock()) changed.push_back(std::move(stream));
      }
    }
  }
  for (const auto& stream : changed) stream->OnNews();
}

std::shared_ptr<A2aStream> A2aHandlers::Impl::Open(const A2aAsker& asker, const TaskId& id, bool live) {
  auto stream = std::make_shared<TaskStream>(shared_from_this(), asker, id, live);
  stream->Register();
  return stream;
}

absl::StatusOr<a2a::Task> A2aHandlers::Impl::ReadTask(const A2aAsker& asker, const std::string& id,
                                                      const Wanted& wanted,
                                                      std::unique_ptr<A2aUpdates>* updates,
                                                      TaskState* state) const {
  const TaskReader& reader = engine->reader();
  const TaskClient by = Client(asker);
  const absl::StatusOr<TaskState> found = reader.Find(by, id);
  if (!found.ok()) return OfTask(found.status(), id);
  a2a::Task task = TellA2aTask(*found, asker.extended);
  if (!wanted.history.has_value() || *wanted.history > 0) {
    const absl::StatusOr<TaskWork> work = reader.Work(by, id);
    if (!work.ok()) return OfTask(work.status(), id);
    *task.add_history() = TellA2aMessage(*found, *work);
  }
  auto own = std::make_unique<A2aUpdates>(*found, asker.extended);
  std::vector<a2a::StreamResponse> made;
  for (int64_t after = 0; wanted.artifacts && after < found->last_event;) {
    const absl::StatusOr<std::vector<TaskEvent>> events =
        reader.Events(by, id, after, kBatchEvents, kBatchBytes);
    if (!events.ok()) return OfTask(events.status(), id);
    if (events->empty()) break;
    for (const TaskEvent& event : *events) {
      if (event.number > found->last_event) break;
      made.clear();
      own->Apply(
          event, [&] { return ResultOf(asker, id); }, &made);
      for (const a2a::StreamResponse& update : made) MergeA2a(update, wanted.bytes, &task);
    }
    after = events->back().number;
  }
  if (updates != nullptr) *updates = std::move(own);
  if (state != nullptr) *state = *found;
  return task;
}

// A message that names a task goes on with it, which none of the executors here takes.
absl::Status A2aHandlers::Impl::CheckFollowUp(const A2aAsker& asker, const a2a::Message& message) const {
  const absl::StatusOr<TaskState> state = engine->reader().Find(Client(asker), message.task_id());
  if (!state.ok()) return OfTask(state.status(), message.task_id());
  if (!message.context_id().empty() && message.context_id() != TellA2aTask(*state, false).context_id())
    return A2aStatus(A2aReason::kInvalidParams, "message.contextId is not that of the task it names");
  return A2aStatus(
      A2aReason::kUnsupportedOperation,
      IsOver(state->status)
          ? "the task is over and takes no messages; send one without taskId for a new task"
          : "the task has been given all that it takes; send a message without taskId for another");
}

void A2aHandlers::Impl::Submitted(const TaskSubmission& submission, Done<TaskState> done) {
  engine->Submit(submission, [done = std::move(done)](absl::StatusOr<TaskSubmitted> submitted) {
    if (submitted.ok()) return done(std::move(submitted->state));
    const absl::Status& status = submitted.status();
    if (!absl::IsAlreadyExists(status)) return done(status);
    done(A2aStatus(A2aReason::kInvalidParams,
                   "message.messageId was that of another message of yours; give each its own"));
  });
}

void A2aHandlers::Impl::Submit(const A2aAsker& asker, const a2a::SendMessageRequest& request,
                               Done<TaskState> done) {
  if (absl::Status s = Serving(); !s.ok()) return done(s);
  if (!request.message().task_id().empty()) {
    return Read<TaskState>(std::move(done), [this, asker, message = request.message()] {
      return absl::StatusOr<TaskState>(CheckFollowUp(asker, message));
    });
  }
  absl::StatusOr<TaskSubmission> submission = ReadA2aMessage(request);
  if (!submission.ok()) return done(submission.status());
  submission->caller = asker.caller;
  if (!request.configuration().has_task_push_notification_config())
    return Submitted(*submission, std::move(done));
  a2a::TaskPushNotificationConfig config = request.configuration().task_push_notification_config();
  config.set_task_id("none yet");  // which its id would be
  if (absl::Status s = ReadPush(config).status(); !s.ok()) return done(s);
  Submitted(*submission, [self = shared_from_this(), asker, config,
                          done = std::move(done)](absl::StatusOr<TaskState> state) mutable {
    if (!state.ok()) return done(state.status());
    config.set_task_id(state->id);
    absl::StatusOr<TaskPush> push = self->ReadPush(config);
    if (!push.ok()) return done(push.status());
    self->PutPush(asker, *std::move(push), [state = *std::move(state), done](absl::StatusOr<TaskPush> put) {
      put.ok() ? done(state) : done(put.status());
    });
  });
}

absl::StatusOr<TaskPush> A2aHandlers::Impl::ReadPush(const a2a::TaskPushNotificationConfig& config) const {
  if (options.pusher == nullptr) return NoA2aPush();
  return ReadA2aPush(options.pusher->config(), config);
}

void A2aHandlers::Impl::PutPush(const A2aAsker& asker, TaskPush push, Done<TaskPush> done) {
  const std::string id = push.task;
  engine->PutPush(Client(asker), std::move(push),
                  [self = shared_from_this(), id, done = std::move(done)](absl::StatusOr<TaskPush> put) {
                    if (!put.ok()) return done(OfTask(put.status(), id));
                    {
                      const std::lock_guard lock(self->mutex);  // once the handlers go, it may have gone
                      if (!self->end.has_value()) self->options.pusher->Added(*put);
                    }
                    done(*std::move(put));
                  });
}

namespace {

// A call that waits for a task's end.
struct WaitingSend : public std::enable_shared_from_this<WaitingSend> {
  void Go() {
    // Whoever lets this go is told nothing more.
    stream->Next([weak = weak_from_this()](absl::StatusOr<A2aStream::Batch> batch) {
      const auto self = weak.lock();
      if (self == nullptr) return;
      if (batch.ok() && !batch->over) return self->Go();
      self->ended(batch.status());
    });
  }
  std::shared_ptr<A2aStream> stream;
  std::function<void(absl::Status)> ended;
};

}  // namespace

A2aHandlers::Waiting A2aHandlers::Send(const A2aAsker& asker, a2a::SendMessageRequest request,
                                       Done<a2a::SendMessageResponse> done) {
  auto waiting = std::make_shared<WaitingSend>();
  Impl* const impl = impl_.get();
  const bool at_once = request.configuration().return_immediately();
  Impl::Wanted wanted;
  if (request.configuration().has_history_length()) wanted.history = request.configuration().history_length();
  impl->Submit(asker, request,
               [self = impl_, asker, at_once, wanted, weak = std::weak_ptr(waiting),
                done = std::move(done)](absl::StatusOr<TaskState> state) {
                 if (!state.ok()) return done(state.status());
                 const auto answer = [impl = self.get(), asker, wanted, id = state->id,
                                      done](const absl::Status& status) {
                   if (!status.ok()) return done(status);
                   impl->Read<a2a::SendMessageResponse>(
                       done, [impl, asker, wanted, id]() -> absl::StatusOr<a2a::SendMessageResponse> {
                         absl::StatusOr<a2a::Task> task = impl->ReadTask(asker, id, wanted);
                         if (!task.ok()) return task.status();
                         a2a::SendMessageResponse response;
                         *response.mutable_task() = *std::move(task);
                         return response;
                       });
                 };
                 if (at_once || IsOver(state->status)) return answer(absl::OkStatus());
                 const auto waits = weak.lock();
                 if (waits == nullptr) return;
                 waits->ended = answer;
                 waits->stream = self->Open(asker, state->id, false);
                 waits->Go();
               });
  return waiting;
}

void A2aHandlers::SendStreaming(const A2aAsker& asker, const a2a::SendMessageRequest& request,
                                Done<std::shared_ptr<A2aStream>> done) {
  impl_->Submit(asker, request,
                [self = impl_, asker, done = std::move(done)](absl::StatusOr<TaskState> state) {
                  if (!state.ok()) return done(state.status());
                  done(self->Open(asker, state->id, false));
                });
}

void A2aHandlers::Subscribe(const A2aAsker& asker, const a2a::SubscribeToTaskRequest& request,
                            Done<std::shared_ptr<A2aStream>> done) {
  if (absl::Status s = impl_->Serving(); !s.ok()) return done(s);
  done(impl_->Open(asker, request.id(), true));
}

void A2aHandlers::Get(const A2aAsker& asker, a2a::GetTaskRequest request, Done<a2a::Task> done) {
  if (request.has_history_length() && request.history_length() < 0)
    return done(A2aStatus(A2aReason::kInvalidParams, "historyLength is negative"));
  impl_->Read<a2a::Task>(std::move(done), [impl = impl_.get(), asker, request = std::move(request)] {
    Impl::Wanted wanted;
    if (request.has_history_length()) wanted.history = request.history_length();
    return impl->ReadTask(asker, request.id(), wanted);
  });
}

void A2aHandlers::List(const A2aAsker& asker, a2a::ListTasksRequest request,
                       Done<a2a::ListTasksResponse> done) {
  const int size = request.has_page_size() ? request.page_size() : kPage;
  if (size < 1 || size > kMostPage)
    return done(A2aStatus(A2aReason::kInvalidParams, absl::StrCat("pageSize is 1 to ", kMostPage)));
  if (request.history_length() < 0)
    return done(A2aStatus(A2aReason::kInvalidParams, "historyLength is negative"));
  absl::StatusOr<TaskFilter> filter = ReadA2aFilter(request);
  if (!filter.ok()) return done(filter.status());
  impl_->Read<a2a::ListTasksResponse>(
      std::move(done),
      [impl = impl_.get(), asker, size, request = std::move(request),
       filter = *std::move(filter)]() -> absl::StatusOr<a2a::ListTasksResponse> {
        const TaskReader& reader = impl->engine->reader();
        const bool whole = request.include_artifacts() || request.history_length() > 0;
        const int most = whole ? std::min(size, kMostLongPage) : size;
        const auto fits = [&](const TaskState& state) {
          return request.status() == a2a::TASK_STATE_UNSPECIFIED ||
                 A2aStateOf(state.status, state.attempt, state.error) == request.status();
        };
        absl::StatusOr<TaskPage> page = reader.List(Client(asker), filter, most, request.page_token());
        if (!page.ok()) return page.status();
        a2a::ListTasksResponse response;
        response.set_page_size(most);
        response.set_next_page_token(page->next);
        Impl::Wanted wanted;
        wanted.artifacts = request.include_artifacts();
        wanted.history = request.history_length();
        wanted.bytes = kListedBytes;
        for (const TaskState& state : page->tasks) {
          if (!fits(state)) continue;
          if (!whole) {
            *response.add_tasks() = TellA2aTask(state, asker.extended);
            continue;
          }
          absl::StatusOr<a2a::Task> task = impl->ReadTask(asker, state.id, wanted);
          if (task.ok()) *response.add_tasks() = *std::move(task);  // else it was purged meanwhile
        }
        int total = 0;
        std::string from;
        do {
          page = reader.List(Client(asker), filter, kMostPage, from);
          if (!page.ok()) return page.status();
          total += static_cast<int>(std::count_if(page->tasks.begin(), page->tasks.end(), fits));
          from = page->next;
        } while (!from.empty() && total < kCounted);
        response.set_total_size(total);
        return response;
      });
}

void A2aHandlers::Cancel(const A2aAsker& asker, const a2a::CancelTaskRequest& request, Done<a2a::Task> done) {
  if (absl::Status s = impl_->Serving(); !s.ok()) return done(s);
  impl_->engine->Cancel(Client(asker), request.id(),
                        [asker, id = request.id(), done = std::move(done)](absl::StatusOr<TaskState> state) {
                          if (state.ok()) return done(TellA2aTask(*state, asker.extended));
                          if (!absl::IsFailedPrecondition(state.status()))
                            return done(OfTask(state.status(), id));
                          done(A2aStatus(A2aReason::kTaskNotCancelable, "the task is over"));
                        });
}

void A2aHandlers::CreatePush(const A2aAsker& asker, const a2a::TaskPushNotificationConfig& config,
                             Done<a2a::TaskPushNotificationConfig> done) {
  absl::StatusOr<TaskPush> push = impl_->ReadPush(config);
  if (!push.ok()) return done(push.status());
  if (absl::Status s = impl_->Serving(); !s.ok()) return done(s);
  push->told = -1;
  impl_->PutPush(asker, *std::move(push), [done = std::move(done)](const absl::StatusOr<TaskPush>& put) {
    if (!put.ok()) return done(put.status());
    done(TellA2aPush(*put));
  });
}

void A2aHandlers::GetPush(const A2aAsker& asker, a2a::GetTaskPushNotificationConfigRequest request,
                          Done<a2a::TaskPushNotificationConfig> done) {
  if (impl_->options.pusher == nullptr) return done(NoA2aPush());
  impl_->Read<a2a::TaskPushNotificationConfig>(
      std::move(done),
      [impl = impl_.get(), asker,
       request = std::move(request)]() -> absl::StatusOr<a2a::TaskPushNotificationConfig> {
        const absl::StatusOr<TaskPush> push = impl->engine->reader().FindPush(
            Client(asker), request.task_id(), request.id().empty() ? request.task_id() : request.id());
        if (!push.ok()) return OfPush(push.status());
        return TellA2aPush(*push);
      });
}

void A2aHandlers::ListPushes(const A2aAsker& asker, a2a::ListTaskPushNotificationConfigsRequest request,
                             Done<a2a::ListTaskPushNotificationConfigsResponse> done) {
  if (impl_->options.pusher == nullptr) return done(NoA2aPush());
  impl_->Read<a2a::ListTaskPushNotificationConfigsResponse>(
      std::move(done),
      [impl = impl_.get(), asker,
       request = std::move(request)]() -> absl::StatusOr<a2a::ListTaskPushNotificationConfigsResponse> {
        const absl::StatusOr<std::vector<TaskPush>> pushes =
            impl->engine->reader().Pushes(Client(asker), request.task_id());
        if (!pushes.ok()) return OfTask(pushes.status(), request.task_id());
        a2a::ListTaskPushNotificationConfigsResponse response;  // of so few there is one page
        for (const TaskPush& push : *pushes) *response.add_configs() = TellA2aPush(push);
        return response;
      });
}

void A2aHandlers::DeletePush(const A2aAsker& asker,
                             const a2a::DeleteTaskPushNotificationConfigRequest& request,
                             Done<google::protobuf::Empty> done) {
  if (impl_->options.pusher == nullptr) return done(NoA2aPush());
  if (absl::Status s = impl_->Serving(); !s.ok()) return done(s);
  impl_->engine->DeletePush(Client(asker), request.task_id(),
                            request.id().empty() ? request.task_id() : request.id(),
                            [done = std::move(done)](const absl::Status& status) {
                              if (!status.ok()) return done(OfPush(status));
                              done(google::protobuf::Empty());
                            });
}

a2a::AgentCard A2aHandlers::Card(const std::string& base) const { return MakeA2aCard(impl_->options, base); }

std::unique_ptr<A2aHandlers> A2aHandlers::Make(A2aOptions options, TaskEngine* engine) {
  auto impl = std::make_shared<Impl>(std::move(options), engine);
  impl->pool = std::make_unique<Executor>(static_cast<size_t>(impl->options.threads));
  if (engine != nullptr) engine->AddListener(impl.get());
  return std::unique_ptr<A2aHandlers>(new A2aHandlers(std::move(impl)));
}

A2aHandlers::~A2aHandlers() {
  if (impl_->engine != nullptr) impl_->engine->RemoveListener(impl_.get());
  EndAll(absl::UnavailableError("the server is shutting down"));
  std::unique_ptr<Executor> pool;  // its threads are waited for here, never on one of them
  const std::lock_guard lock(impl_->pool_mutex);
  pool.swap(impl_->pool);
}

void A2aHandlers::EndAll(const absl::Status& status) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->end = status;
  }
  EndWaiting(status);
}

void A2aHandlers::EndWaiting(const absl::Status& status) {
  std::vector<std::shared_ptr<TaskStream>> all;
  {
    const std::lock_guard lock(impl_->mutex);
    for (const auto& [id, stream] : impl_->streams) {
      if (auto held = stream->weak_from_this().lock()) all.push_back(std::move(held));
    }
  }
  for (const auto& stream : all) stream->End(status);
}

int64_t A2aHandlers::waiting() const { return impl_->open; }

}  // namespace omni
