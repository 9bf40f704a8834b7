#include "cluster/tasks/task_service.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/disk_pool.h"
#include "cluster/grpc_access.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "cluster/tasks/task_calls.h"
#include "cluster/tasks/task_messages.h"
#include "cluster/tasks/task_watches.h"
#include "engine/base/quoted.h"
#include "omni/tasks/v1/tasks.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;

constexpr int kMostBatch = 1000, kSchedulePage = 100;
constexpr size_t kMostBatchBytes = 16 << 20;
constexpr int kArtifactEvents = 256;    // looked at together
constexpr int64_t kMostReads = 10'000;  // at one time

// Why a call failed, where its code says too little.
struct Reasons {
  const char* not_found = "TASK_NOT_FOUND";
  const char* failed_precondition = "";
  const char* already_exists = "IDEMPOTENCY_KEY_REUSED";
};

std::string ReasonOf(const absl::Status& status, const Reasons& reasons) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return reasons.not_found;
    case absl::StatusCode::kFailedPrecondition:
      return reasons.failed_precondition;
    case absl::StatusCode::kAlreadyExists:
      return reasons.already_exists;
    default:
      return "";
  }
}

grpc::Status ToTaskGrpc(const absl::Status& status, const Reasons& reasons = {}) {
  return ToDetailedGrpc(status, {.reason = ReasonOf(status, reasons), .metadata = {}, .retry = {}});
}

using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;

class EndedWatch final : public TaskWatches::Reactor {
 public:
  explicit EndedWatch(const grpc::Status& status) { Finish(status); }

 private:
  void OnDone() override { delete this; }
};

}  // namespace

struct TaskService::Impl final : public pb::SwarmTasks::CallbackService {
  Impl(TaskServiceOptions o, TaskEngine* e, std::unique_ptr<DiskPool> p)
      : options(std::move(o)), engine(e), pool(std::move(p)) {
    if (engine == nullptr) return;
    watches = std::make_unique<TaskWatches>(*engine, *pool, options.most_watches,
                                            [](const absl::Status& status) { return ToTaskGrpc(status); });
  }

  // Who asks, if tasks are kept here; else how the call ends.
  grpc::Status Begin(Context* context, TaskClient* by) {
    if (absl::Status s = options.serving(); !s.ok() || engine == nullptr) {
      if (s.ok()) s = absl::UnavailableError("this node keeps no tasks");
      ErrorDetails details;
      details.reason = "NOT_LEADING";
      if (const std::string other = options.elsewhere(); !other.empty()) {
        details.metadata["coordinator"] = other;
        context->AddTrailingMetadata(kCoordinatorMetadata, other);
      }
      return ToDetailedGrpc(s, details);
    }
    const absl::StatusOr<Caller> caller = CallerOf(*context, options.access);
    if (!caller.ok()) return ToTaskGrpc(caller.status());
    by->caller = caller->name;
    by->all = caller->scopes.Has(Scope::kAdmin);
    // A node has all scopes, and whom it asks for has not.
    const auto& metadata = context->client_metadata();
    if (metadata.contains(kForwardedMetadata) && !metadata.contains(kForwardedAllMetadata)) by->all = false;
    return grpc::Status::OK;
  }

  // `begin(by, reactor)` ends the call.
  template <typename F>
  Unary* Call(Context* context, F&& begin) {
    Unary* reactor = context->DefaultReactor();
    TaskClient by;
    if (const grpc::Status s = Begin(context, &by); !s.ok()) {
      reactor->Finish(s);
    } else {
      begin(std::move(by), reactor);
    }
    return reactor;
  }
  // A call that reads the disk: `read(by)` on a thread of the pool, as long as the request is there.
  template <typename F>
  Unary* Read(Context* context, Reasons reasons, F read) {
    return Call(context, [&](TaskClient by, Unary* reactor) {
      if (++reads > kMostReads) {
        --reads;
        return reactor->Finish(
            ToTaskGrpc(absl::ResourceExhaustedError("too many calls wait for the disk; ask again later")));
      }
      pool->Run(
          [this, reasons, read = std::move(read), by = std::move(by), reactor] {
            const absl::Status status = read(by);
            --reads;
            reactor->Finish(ToTaskGrpc(status, reasons));
          },
          [this, reactor](const absl::Status& thrown) {
            --reads;
            reactor->Finish(ToTaskGrpc(thrown));
          });
    });
  }
  // One that changes a task's state.
  auto Tell(Unary* reactor, Reasons reasons, pb::Task* task) {
    return [reactor, reasons, task](absl::StatusOr<TaskState> state) {
      if (state.ok()) TellTask(*state, *task);
      reactor->Finish(ToTaskGrpc(state.status(), reasons));
    };
  }

  // Room for what waits to be accepted; false: there is none.
  bool Reserve(int64_t bytes) {
    if (submitted_bytes.fetch_add(bytes) + bytes <= options.submitted_bytes) return true;
    submitted_bytes -= bytes;
    return false;
  }
  static absl::Status Full() {
    return absl::ResourceExhaustedError("too much waits to be accepted at present; ask again later");
  }

  // As SubmitTaskCall.
  template <typename F>
  void Submit(const TaskClient& by, const pb::SubmitTaskRequest& request, const std::string& field,
              pb::SubmitTaskResponse* response, F done) {
    SubmitTaskCall(*engine, by, request, field, *response,
                   [this, response, done = std::move(done)](const absl::Status& status) {
                     if (status.ok() && !response->existed()) ++accepted;
                     done(status);
                   });
  }

  Unary* SubmitTask(Context* context, const pb::SubmitTaskRequest* request,
                    pb::SubmitTaskResponse* response) override {
    return Call(context, [&](const TaskClient& by, Unary* reactor) {
      const auto bytes = static_cast<int64_t>(request->ByteSizeLong());
      if (!Reserve(bytes)) return reactor->Finish(ToTaskGrpc(Full()));
      Submit(by, *request, "spec", response, [this, reactor, bytes](const absl::Status& status) {
        submitted_bytes -= bytes;
        reactor->Finish(ToTaskGrpc(status));
      });
    });
  }

  // All are handed in before any is waited for, so that they share what makes them last.
  Unary* SubmitBatch(Context* context, const pb::SubmitBatchRequest* request,
                     pb::SubmitBatchResponse* response) override {
    return Call(context, [&](const TaskClient& by, Unary* reactor) {
      const int count = request->tasks_size();
      const size_t size = request->ByteSizeLong();
      if (count > kMostBatch || size > kMostBatchBytes) {
        return reactor->Finish(
            ToDetailedGrpc(absl::InvalidArgumentError(absl::StrCat("tasks are ", count, " of ", size,
                                                                   " bytes together; use up to ", kMostBatch,
                                                                   " of up to ", kMostBatchBytes, " bytes")),
                           {.reason = "BATCH_TOO_LARGE", .metadata = {}, .retry = {}}));
      }
      const auto bytes = static_cast<int64_t>(size);
      if (!Reserve(bytes)) return reactor->Finish(ToTaskGrpc(Full()));
      auto left = std::make_shared<std::atomic<int>>(count + 1);  // and this loop
      const auto one_less = [this, left, reactor, bytes] {
        if (--*left > 0) return;
        submitted_bytes -= bytes;
        reactor->Finish(grpc::Status::OK);
      };
      for (int i = 0; i < count; ++i) response->add_results();
      for (int i = 0; i < count; ++i) {
        pb::SubmitBatchResponse::Result* result = response->mutable_results(i);
        // Made where it is needed: a message that has one kind.
        auto accepted = std::make_shared<pb::SubmitTaskResponse>();
        pb::SubmitTaskResponse* into = accepted.get();
        Submit(by, request->tasks(i), absl::StrCat("tasks[", i, "].spec"), into,
               [result, accepted, one_less](const absl::Status& status) {
                 if (status.ok()) {
                   accepted->mutable_task()
                       ->clear_message();  // so that the answer has no more than clients take
                   result->mutable_accepted()->Swap(accepted.get());
                 } else {
                   pb::Refused& refused = *result->mutable_refused();
                   refused.set_code(static_cast<int32_t>(status.code()));
                   refused.set_message(std::string(status.message()));
                   const std::string reason = ReasonOf(status, {});
                   refused.set_reason(reason.empty() ? absl::StatusCodeToString(status.code()) : reason);
                 }
                 one_less();
               });
      }
      one_less();
    });
  }

  Unary* GetTask(Context* context, const pb::GetTaskRequest* request, pb::Task* task) override {
    return Read(context, {}, [this, request, task](const TaskClient& by) {
      return GetTaskCall(engine->reader(), by, *request, *task);
    });
  }
  Unary* ListTasks(Context* context, const pb::ListTasksRequest* request,
                   pb::ListTasksResponse* response) override {
    return Read(context, {}, [this, request, response](const TaskClient& by) {
      return ListTasksCall(engine->reader(), by, *request, *response);
    });
  }
  Unary* ListDeadLetters(Context* context, const pb::ListDeadLettersRequest* request,
                         pb::ListTasksResponse* response) override {
    return Read(context, {}, [this, request, response](const TaskClient& by) {
      return ListDeadLettersCall(engine->reader(), by, *request, *response);
    });
  }

  TaskWatches::Reactor* WatchTask(Context* context, const pb::WatchTaskRequest* request) override {
    TaskClient by;
    if (const grpc::Status s = Begin(context, &by); !s.ok()) return new EndedWatch(s);
    return watches->Begin(std::move(by), request->id(), request->after());
  }

  Unary* CancelTask(Context* context, const pb::CancelTaskRequest* request, pb::Task* task) override {
    return Call(context, [&](TaskClient by, Unary* reactor) {
      engine->Cancel(std::move(by), request->id(),
                     Tell(reactor, {.failed_precondition = "TASK_IS_OVER"}, task));
    });
  }
  Unary* RetryTask(Context* context, const pb::RetryTaskRequest* request, pb::Task* task) override {
    return Call(context, [&](TaskClient by, Unary* reactor) {
      engine->Retry(std::move(by), request->id(),
                    Tell(reactor, {.failed_precondition = "TASK_HAS_NOT_FAILED"}, task));
    });
  }
  Unary* PurgeTask(Context* context, const pb::PurgeTaskRequest* request, pb::PurgeTaskResponse*) override {
    return Call(context, [&](TaskClient by, Unary* reactor) {
      engine->Purge(std::move(by), request->id(), [reactor](const absl::Status& status) {
        reactor->Finish(ToTaskGrpc(status, {.failed_precondition = "TASK_IS_NOT_OVER"}));
      });
    });
  }

  // The event that told of an artifact. NotFound: the task has none such.
  absl::StatusOr<TaskEvent> FindArtifact(const TaskClient& by, const pb::GetArtifactRequest& request) const {
    const bool by_number = request.event() > 0;
    std::optional<TaskEvent> found;
    for (int64_t after = by_number ? request.event() - 1 : 0;;) {
      absl::StatusOr<std::vector<TaskEvent>> events =
          engine->reader().Events(by, request.id(), after, by_number ? 1 : kArtifactEvents);
      if (!events.ok()) return events.status();
      for (TaskEvent& event : *events) {
        after = event.number;
        if (event.kind == TaskEventKind::kArtifact && (by_number || event.name == request.name()))
          found = std::move(event);
      }
      if (by_number || events->empty()) break;
    }
    if (found.has_value()) return *std::move(found);
    return absl::NotFoundError(absl::StrCat("the task has no artifact ", Quoted(request.name())));
  }
  Unary* GetArtifact(Context* context, const pb::GetArtifactRequest* request,
                     pb::GetArtifactResponse* response) override {
    return Call(context, [&](TaskClient by, Unary* reactor) {
      if (++reads > kMostReads || options.artifact == nullptr) {
        --reads;
        return reactor->Finish(ToTaskGrpc(
            options.artifact == nullptr
                ? absl::UnavailableError("this node cannot ask others for artifacts")
                : absl::ResourceExhaustedError("too many calls wait for the disk; ask again later")));
      }
      // Once, by whichever is first: what asks for the piece may throw when it has been asked for.
      const auto end = [this, reactor, over = std::make_shared<std::atomic<bool>>(false)](
                           const absl::Status& status, Reasons reasons, const auto& fill) {
        if (over->exchange(true)) return;
        --reads;
        fill();
        reactor->Finish(ToTaskGrpc(status, reasons));
      };
      pool->Run(
          [this, by = std::move(by), request, response, end] {
            const absl::Status there = engine->reader().Find(by, request->id()).status();
            const absl::StatusOr<TaskEvent> event =
                there.ok() ? FindArtifact(by, *request) : absl::StatusOr<TaskEvent>(there);
            if (!event.ok()) {
              return end(event.status(), {.not_found = there.ok() ? "ARTIFACT_NOT_FOUND" : "TASK_NOT_FOUND"},
                         [] {});
            }
            response->set_node(event->node);
            response->set_event(event->number);
            response->set_sha256(event->data.substr(std::min(event->data.size(), event->data.find(':') + 1)));
            options.artifact(event->node, event->data, request->offset(),
                             [response, end](absl::StatusOr<ArtifactPiece> piece) {
                               end(piece.status(), {.not_found = "ARTIFACT_LOST"}, [&] {
                                 if (!piece.ok()) return;
                                 response->set_size(piece->size);
                                 response->set_data(std::move(piece->data));
                               });
                             });
          },
          [end](const absl::Status& thrown) { end(thrown, {}, [] {}); });
    });
  }

  Unary* PutSchedule(Context* context, const pb::PutScheduleRequest* request,
                     pb::Schedule* response) override {
    return Call(context, [&](const TaskClient& by, Unary* reactor) {
      absl::StatusOr<TaskSchedule> schedule = ReadSchedule(request->schedule(), by.caller);
      if (!schedule.ok()) return reactor->Finish(ToTaskGrpc(schedule.status()));
      const std::string name = schedule->name;
      engine->PutSchedule(*std::move(schedule), [this, by, name, response, reactor](const absl::Status& put) {
        if (!put.ok()) return reactor->Finish(ToTaskGrpc(put));
        pool->Run(
            [this, by, name, response, reactor] {
              const absl::StatusOr<TaskSchedule> kept = engine->reader().FindSchedule(by.caller, name);
              if (kept.ok()) TellSchedule(*kept, *response);
              reactor->Finish(ToTaskGrpc(kept.status(), {.not_found = "SCHEDULE_NOT_FOUND"}));
            },
            [reactor](const absl::Status& thrown) { reactor->Finish(ToTaskGrpc(thrown)); });
      });
    });
  }
  Unary* ListSchedules(Context* context, const pb::ListSchedulesRequest* request,
                       pb::ListSchedulesResponse* response) override {
    return Read(context, {}, [this, request, response](const TaskClient& by) -> absl::Status {
      const absl::StatusOr<TaskSchedulePage> page =
          engine->reader().ListSchedules(by, kSchedulePage, request->page_token());
      if (!page.ok()) return page.status();
      for (const TaskSchedule& schedule : page->schedules) TellSchedule(schedule, *response->add_schedules());
      response->set_next_page_token(page->next);
      return absl::OkStatus();
    });
  }
  Unary* DeleteSchedule(Context* context, const pb::DeleteScheduleRequest* request,
                        pb::DeleteScheduleResponse*) override {
    return Call(context, [&](const TaskClient& by, Unary* reactor) {
      engine->DeleteSchedule(by.caller, request->name(), [reactor](const absl::Status& status) {
        reactor->Finish(ToTaskGrpc(status, {.not_found = "SCHEDULE_NOT_FOUND"}));
      });
    });
  }

  Unary* ListExecutors(Context* context, const pb::ListExecutorsRequest*,
                       pb::ListExecutorsResponse* response) override {
    return Call(context, [&](const TaskClient&, Unary* reactor) {
      ListExecutorsCall(options.places(), *response);
      reactor->Finish(grpc::Status::OK);
    });
  }

  const TaskServiceOptions options;
  TaskEngine* const engine;
  std::atomic<int64_t> reads{0}, submitted_bytes{0}, accepted{0};
  std::unique_ptr<DiskPool> pool;
  std::unique_ptr<TaskWatches> watches;
};

absl::StatusOr<std::unique_ptr<TaskService>> TaskService::Make(TaskServiceOptions options,
                                                               TaskEngine* engine) {
  absl::StatusOr<std::unique_ptr<DiskPool>> pool = DiskPool::Start(options.threads);
  if (!pool.ok()) return pool.status();
  return std::unique_ptr<TaskService>(
      new TaskService(std::make_unique<Impl>(std::move(options), engine, *std::move(pool))));
}

TaskService::TaskService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TaskService::~TaskService() = default;
grpc::Service* TaskService::service() { return impl_.get(); }
void TaskService::EndAll(const absl::Status& status) {
  if (impl_->watches != nullptr) impl_->watches->EndAll(status);
}
int64_t TaskService::accepted() const { return impl_->accepted; }
int64_t TaskService::watches() const { return impl_->watches == nullptr ? 0 : impl_->watches->open(); }

}  // namespace omni
