#include "cluster/memory_service.h"

#include <memory>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/grpc_access.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "omni/memory/v1/memory.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::memory::v1;
using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;

constexpr int kThreads = 2;  // that wait for the disk

absl::StatusOr<std::vector<Association>> ReadAssociations(const pb::AddRequest& request) {
  int64_t bytes = 0;
  std::vector<Association> associations;
  for (const pb::Association& a : request.associations()) {
    bytes += static_cast<int64_t>(a.key().size() + a.value().size());
    if (bytes > kMostAssociationBytes || request.associations_size() > kMostAssociations) {
      return absl::InvalidArgumentError(absl::StrCat("associations: more than ", kMostAssociations, " or ",
                                                     kMostAssociationBytes >> 20,
                                                     " MiB in one message; send several"));
    }
    associations.push_back({a.key(), a.value()});
  }
  return associations;
}

class Calls final : public pb::Memory::CallbackService {
 public:
  explicit Calls(MemoryDeeds& deeds) : deeds_(deeds) {}

  Unary* Add(Context* context, const pb::AddRequest* request, pb::AddResponse* response) override {
    return Call(context, [request, response](omni::Memory& memory, const std::string& owner) {
      absl::StatusOr<std::vector<Association>> all = ReadAssociations(*request);
      if (!all.ok()) return all.status();
      response->set_added(all->size());
      return all->empty() ? absl::OkStatus() : memory.Add(ScopeOrDefault(request->scope()), *all, owner);
    });
  }
  Unary* Ask(Context* context, const pb::AskRequest* request, pb::AskResponse* response) override {
    return Call(context, [request, response](omni::Memory& memory, const std::string& owner) {
      const absl::StatusOr<std::optional<Remembered>> got =
          memory.Ask(ScopeOrDefault(request->scope()), request->key(), owner);
      if (!got.ok() || !got->has_value()) return got.status();
      const Recalled& how = (*got)->how;
      response->set_found(true);
      response->set_value((*got)->value);
      response->set_distance(static_cast<uint32_t>(how.distance));
      response->set_margin(static_cast<uint32_t>(how.margin));
      response->set_votes(static_cast<uint32_t>(how.votes));
      response->set_bank_items(static_cast<uint32_t>(how.bank_items));
      return absl::OkStatus();
    });
  }
  Unary* Stats(Context* context, const pb::StatsRequest*, pb::StatsResponse* response) override {
    return Call(context, [response](omni::Memory& memory, const std::string& owner) {
      const absl::StatusOr<std::vector<ScopeStats>> stats = memory.Stats(owner);
      if (!stats.ok()) return stats.status();
      for (const ScopeStats& s : *stats) {
        pb::Scope& scope = *response->add_scopes();
        scope.set_scope(s.scope);
        scope.set_keys(static_cast<uint64_t>(s.associations));
        scope.set_values(static_cast<uint64_t>(s.values));
        scope.set_used_banks(static_cast<uint32_t>(s.used_banks));
        scope.set_fullest_bank(static_cast<uint32_t>(s.fullest_bank));
        scope.set_bytes(static_cast<uint64_t>(s.bytes));
        scope.set_version(s.version);
      }
      return absl::OkStatus();
    });
  }
  Unary* Forget(Context* context, const pb::ForgetRequest* request, pb::ForgetResponse* response) override {
    return Call(context, [request, response](omni::Memory& memory, const std::string& owner) -> absl::Status {
      if (request->has_key() == request->all())
        return absl::InvalidArgumentError("forget wants a key, or all, and not both");
      const absl::StatusOr<int64_t> forgotten =
          memory.Forget(ScopeOrDefault(request->scope()),
                        request->all() ? std::nullopt : std::optional<std::string>(request->key()), owner);
      if (!forgotten.ok()) return forgotten.status();
      response->set_forgotten(static_cast<uint64_t>(*forgotten));
      return absl::OkStatus();
    });
  }
  grpc::ServerReadReactor<pb::AddRequest>* Import(Context* context, pb::AddResponse* response) override {
    return new ImportCall(*this, context, response);
  }

 private:
  // One message after another: the next is read when the last is on disk. Owns itself.
  class ImportCall final : public grpc::ServerReadReactor<pb::AddRequest> {
   public:
    ImportCall(Calls& calls, Context* context, pb::AddResponse* response)
        : calls_(calls), response_(response) {
      if (const grpc::Status s = calls.Begin(context, &owner_); !s.ok()) {
        Finish(s);
      } else {
        StartRead(&request_);
      }
    }
    void OnReadDone(bool ok) override {
      if (!ok) {
        response_->set_added(added_);
        return Finish(grpc::Status::OK);
      }
      const absl::Status posted = calls_.deeds_.Run([this](omni::Memory& memory) {
        const absl::Status added = AddAll(memory);
        if (added.ok()) return StartRead(&request_);
        End(added);
      });
      if (!posted.ok()) End(posted);
    }
    void OnDone() override { delete this; }

   private:
    absl::Status AddAll(omni::Memory& memory) {
      if (scope_.empty()) scope_ = ScopeOrDefault(request_.scope());
      if (!request_.scope().empty() && request_.scope() != scope_)
        return absl::InvalidArgumentError("an import is into one scope, and a later message names another");
      const absl::StatusOr<std::vector<Association>> all = ReadAssociations(request_);
      if (!all.ok()) return all.status();
      const absl::Status status = all->empty() ? absl::OkStatus() : memory.Add(scope_, *all, owner_);
      if (status.ok()) added_ += all->size();
      return status;
    }
    void End(const absl::Status& status) {
      Finish(ToDetailedGrpc(absl::Status(
          status.code(), absl::StrCat(status.message(), "; ", added_, " associations before were added"))));
    }

    Calls& calls_;
    pb::AddResponse* const response_;
    pb::AddRequest request_;
    std::string owner_, scope_;
    uint64_t added_ = 0;
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
    const absl::Status posted = deeds_.Run([deed, owner, reactor](omni::Memory& memory) {
      reactor->Finish(ToDetailedGrpc(deed(memory, owner)));
    });
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

absl::Status MemoryDeeds::Run(std::function<void(Memory& memory)> deed) {
  if (++waiting_ > options_.most_waiting) {
    --waiting_;
    return absl::ResourceExhaustedError("too many calls wait for the memory; ask again later");
  }
  pool_->Run([this, deed = std::move(deed)] {
    deed(*memory_);
    --waiting_;
  });
  return absl::OkStatus();
}

std::unique_ptr<grpc::Service> MakeMemoryService(MemoryDeeds& deeds) {
  return std::make_unique<Calls>(deeds);
}

}  // namespace omni
