#include "cluster/memory_service.h"

#include <memory>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/grpc_access.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "cluster/memory_calls.h"
#include "omni/memory/v1/memory.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::memory::v1;
using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;

constexpr int kThreads = 2;  // that wait for the disk

class Calls final : public pb::Memory::CallbackService {
 public:
  explicit Calls(MemoryDeeds& deeds) : deeds_(deeds) {}

  Unary* Add(Context* context, const pb::AddRequest* request, pb::AddResponse* response) override {
    return Call(context, [request, response](omni::Memory& memory, const std::string& owner) {
      return AddCall(memory, owner, *request, *response);
    });
  }
  Unary* Ask(Context* context, const pb::AskRequest* request, pb::AskResponse* response) override {
    return Call(context, [request, response](omni::Memory& memory, const std::string& owner) {
      return AskCall(memory, owner, *request, *response);
    });
  }
  Unary* Stats(Context* context, const pb::StatsRequest*, pb::StatsResponse* response) override {
    return Call(context, [response](omni::Memory& memory, const std::string& owner) {
      return StatsCall(memory, owner, *response);
    });
  }
  Unary* Forget(Context* context, const pb::ForgetRequest* request, pb::ForgetResponse* response) override {
    return Call(context, [request, response](omni::Memory& memory, const std::string& owner) {
      return ForgetCall(memory, owner, *request, *response);
    });
  }
  grpc::ServerReadReactor<pb::AddRequest>* Import(Context* context, pb::AddResponse* response) override {
    return new Importing(*this, context, response);
  }

 private:
  // One message after another: the next is read when the last is on disk. Owns itself.
  class Importing final : public grpc::ServerReadReactor<pb::AddRequest> {
   public:
    Importing(Calls& calls, Context* context, pb::AddResponse* response)
        : calls_(calls), response_(response) {
      std::string owner;
      if (const grpc::Status s = calls.Begin(context, &owner); !s.ok()) {
        Finish(s);
      } else {
        import_.emplace(std::move(owner));
        StartRead(&request_);
      }
    }
    void OnReadDone(bool ok) override {
      if (!ok) {
        response_->set_added(import_->added());
        return Finish(grpc::Status::OK);
      }
      const absl::Status posted = calls_.deeds_.Run(
          [this](omni::Memory& memory) {
            const absl::Status added = import_->Take(memory, request_);
            if (added.ok()) return StartRead(&request_);
            End(added);
          },
          [this](const absl::Status& thrown) { End(thrown); });
      if (!posted.ok()) End(posted);
    }
    void OnDone() override { delete this; }

   private:
    void End(const absl::Status& status) {
      Finish(ToDetailedGrpc(absl::Status(status.code(), absl::StrCat(status.message(), "; ", import_->added(),
                                                                     " associations before were added"))));
    }

    Calls& calls_;
    pb::AddResponse* const response_;
    pb::AddRequest request_;
    std::optional<ImportCall> import_;  // once it has begun
  };

  // Who asks, if things are remembered here; else how the call ends.
  grpc::Status Begin(Context* context, std::string* owner) {
    if (const absl::Status s = deeds_.Serving(); !s.ok()) {
      ErrorDetails details{.reason = "NOT_LEADING", .metadata = {}, .retry = {}};
      if (const std::string other = deeds_.options().elsewhere(); !other.empty()) {
        details.metadata["coordinator"] = other;
        context->AddTrailingMetadata(kCoordinatorMetadata, other);
      }
      return ToDetailedGrpc(s, details);
    }
    const absl::StatusOr<Caller> caller = CallerOf(*context, deeds_.options().access);
    if (caller.ok()) *owner = caller->name;
    return ToDetailedGrpc(caller.status());
  }

  template <typename F>
  Unary* Call(Context* context, F deed) {
    Unary* reactor = context->DefaultReactor();
    std::string owner;
    if (const grpc::Status s = Begin(context, &owner); !s.ok()) {
      reactor->Finish(s);
      return reactor;
    }
    const absl::Status posted =
        deeds_.Run([deed, owner,
                    reactor](omni::Memory& memory) { reactor->Finish(ToDetailedGrpc(deed(memory, owner))); },
                   [reactor](const absl::Status& thrown) { reactor->Finish(ToDetailedGrpc(thrown)); });
    if (!posted.ok()) reactor->Finish(ToDetailedGrpc(posted));
    return reactor;
  }

  MemoryDeeds& deeds_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MemoryDeeds>> MemoryDeeds::Make(MemoryServiceOptions options, Memory* memory) {
  std::unique_ptr<MemoryDeeds> made(new MemoryDeeds(std::move(options), memory));
  absl::StatusOr<std::unique_ptr<DiskPool>> pool = DiskPool::Start(kThreads);
  if (!pool.ok()) return pool.status();
  made->pool_ = *std::move(pool);
  return made;
}
MemoryDeeds::~MemoryDeeds() = default;

absl::Status MemoryDeeds::Serving() const {
  if (absl::Status s = options_.serving(); !s.ok()) return s;
  return memory_ != nullptr ? absl::OkStatus() : absl::UnavailableError("this node remembers nothing");
}

absl::Status MemoryDeeds::Run(std::function<void(Memory& memory)> deed,
                              std::function<void(const absl::Status&)> failed) {
  if (++waiting_ > options_.most_waiting) {
    --waiting_;
    return absl::ResourceExhaustedError("too many calls wait for the memory; ask again later");
  }
  pool_->Run(
      [this, deed = std::move(deed)] {
        deed(*memory_);
        --waiting_;
      },
      [this, failed = std::move(failed)](const absl::Status& thrown) {
        --waiting_;
        failed(thrown);
      });
  return absl::OkStatus();
}

std::unique_ptr<grpc::Service> MakeMemoryService(MemoryDeeds& deeds) {
  return std::make_unique<Calls>(deeds);
}

}  // namespace omni
