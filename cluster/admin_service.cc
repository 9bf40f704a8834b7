#include "cluster/admin_service.h"

#include <atomic>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>

#include "cluster/cluster_log.h"
#include "cluster/executor.h"
#include "cluster/grpc_status.h"
#include "cluster/report_proto.h"
#include "omni/cluster/v1/admin.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::cluster::v1;

// The status, again and again: what changes while a message is on its way is told once, when it has gone.
class WatchReactor final : public grpc::ServerWriteReactor<pb::ClusterStatus>,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  // `to_status`: of the role's errors, with where to ask instead.
  WatchReactor(CoordinatorRole& role, Executor& executor,
               std::function<grpc::Status(const absl::Status&)> to_status)
      : role_(role), executor_(executor), to_status_(std::move(to_status)) {}
  void Begin() {
    self_ = shared_from_this();
    watch_ = role_.Watch([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Changed();
    });
    Changed();
  }
  void OnWriteDone(bool ok) override {
    executor_.Post([self = shared_from_this(), ok] {
      self->busy_ = false;
      if (!ok) return self->End(grpc::Status::CANCELLED);
      if (self->again_) self->Tell();
    });
  }
  void OnCancel() override {
    executor_.Post([self = shared_from_this()] { self->End(grpc::Status::CANCELLED); });
  }
  void OnDone() override {
    executor_.Post([self = shared_from_this()] {
      self->watch_ = nullptr;
      self->self_ = nullptr;
    });
  }

 private:
  void Changed() {
    executor_.Post([self = shared_from_this()] {
      self->again_ = true;
      if (!self->busy_) self->Tell();
    });
  }
  void Tell() {
    busy_ = true;
    again_ = false;
    role_.Report([self = shared_from_this()](absl::StatusOr<ClusterReport> report) {
      self->executor_.Post([self, report = std::move(report)] {
        if (self->over_) return;
        if (!report.ok()) return self->End(self->to_status_(report.status()));
        self->status_.Clear();
        ToProto(*report, self->status_);
        self->StartWrite(&self->status_);
      });
    });
  }
  void End(const grpc::Status& status) {
    if (!std::exchange(over_, true)) Finish(status);
  }

  CoordinatorRole& role_;
  Executor& executor_;
  const std::function<grpc::Status(const absl::Status&)> to_status_;
  std::shared_ptr<WatchReactor> self_;  // until gRPC has done with it
  std::shared_ptr<void> watch_;
  pb::ClusterStatus status_;
  bool busy_ = false, again_ = false, over_ = false;
};

}  // namespace

struct AdminService::Impl final : public pb::Admin::CallbackService {
  Impl(ClusterRecord c, std::function<std::string()> e) : cluster(std::move(c)), elsewhere(std::move(e)) {}

  // The role's answer, with where to ask instead.
  grpc::Status Answer(const absl::Status& status, grpc::CallbackServerContext& context) const {
    if (!absl::IsUnavailable(status)) return ToGrpc(status);
    const std::string other = elsewhere();
    if (other.empty()) return ToGrpc(status);
    context.AddTrailingMetadata(kCoordinatorMetadata, other);
    return ToGrpc(absl::UnavailableError(absl::StrCat(status.message(), "; ask ", other)));
  }
  grpc::Status Nowhere(grpc::CallbackServerContext& context) const {
    return Answer(absl::UnavailableError("this node does not coordinate"), context);
  }

  absl::Status CheckJoin(const pb::JoinRequest& r) const {
    const auto differs = [](const char* what, auto theirs, auto ours) {
      return absl::FailedPreconditionError(
          absl::StrCat("the node's ", what, " is ", theirs, ", the cluster's is ", ours));
    };
    const ProtocolRange theirs = ProtocolsSaid(r.protocol(), r.newest_protocol());
    if (kClusterProtocols.HighestWith(theirs) == 0)
      return differs("protocol", ToString(theirs), ToString(kClusterProtocols));
    if (!r.model_hash().empty() && r.model_hash() != cluster.model_hash)
      return differs("model", r.model_hash(), cluster.model_hash);
    if (!r.model_hash().empty() && r.regions() != static_cast<uint32_t>(cluster.regions))
      return differs("number of regions", r.regions(), cluster.regions);
    if (r.node().empty() || r.node().size() > 200 || r.address().empty() || r.address().size() > 300)
      return absl::InvalidArgumentError("a node that joins says its id and its address");
    return absl::OkStatus();
  }

  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context, const pb::JoinRequest* request,
                                 pb::JoinResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::Status fits = role == nullptr ? absl::OkStatus() : CheckJoin(*request);
    if (role == nullptr) {
      reactor->Finish(Nowhere(*context));
      return reactor;
    }
    if (!fits.ok()) {
      LogJoinRefused(request->node(), request->address(), fits);
      reactor->Finish(ToGrpc(fits));
      return reactor;
    }
    response->set_cluster(cluster.name);
    response->set_model_hash(cluster.model_hash);
    response->set_regions(static_cast<uint32_t>(cluster.regions));
    const auto done = [this, reactor, context, node = request->node()](const absl::Status& status) {
      if (!status.ok()) LogJoinRefused(node, "", status);
      reactor->Finish(Answer(status, *context));
    };
    // A node without the model asks what to fetch; it joins when it can serve.
    if (request->model_hash().empty()) {
      role.load()->Report([done](const absl::StatusOr<ClusterReport>& report) { done(report.status()); });
    } else {
      role.load()->Join({request->node()}, {request->address(), request->offered_bytes(), false},
                        [done, response](const absl::StatusOr<ClusterRecord>& joined) {
                          if (joined.ok()) response->set_cluster_id(joined->id);
                          done(joined.status());
                        });
    }
    return reactor;
  }
  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const pb::StatusRequest*,
                                   pb::ClusterStatus* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (role == nullptr) {
      reactor->Finish(Nowhere(*context));
      return reactor;
    }
    role.load()->Report([this, reactor, context, response](absl::StatusOr<ClusterReport> report) {
      if (report.ok()) ToProto(*report, *response);
      reactor->Finish(Answer(report.status(), *context));
    });
    return reactor;
  }
  grpc::ServerWriteReactor<pb::ClusterStatus>* Watch(grpc::CallbackServerContext* context,
                                                     const pb::StatusRequest*) override {
    if (role == nullptr) {
      class Refusal final : public grpc::ServerWriteReactor<pb::ClusterStatus> {
       public:
        explicit Refusal(const grpc::Status& status) { Finish(status); }
        void OnDone() override { delete this; }
      };
      return new Refusal(Nowhere(*context));
    }
    auto reactor = std::make_shared<WatchReactor>(
        *role.load(), executor,
        [this, context](const absl::Status& status) { return Answer(status, *context); });
    reactor->Begin();
    return reactor.get();
  }
  grpc::ServerUnaryReactor* Place(grpc::CallbackServerContext* context, const pb::PlaceRequest* request,
                                  pb::PlaceResponse*) override {
    return Do(context, [&](CoordinatorRole::Done done) {
      role.load()->Place(RegionId(static_cast<int32_t>(request->region() & INT32_MAX)), {request->node()},
                         std::move(done));
    });
  }
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const pb::DrainRequest* request,
                                  pb::DrainResponse*) override {
    return Do(context, [&](CoordinatorRole::Done done) {
      role.load()->Drain({request->node()}, request->undo(), std::move(done));
    });
  }
  grpc::ServerUnaryReactor* Forget(grpc::CallbackServerContext* context, const pb::ForgetRequest* request,
                                   pb::ForgetResponse*) override {
    return Do(context,
              [&](CoordinatorRole::Done done) { role.load()->Forget({request->node()}, std::move(done)); });
  }
  grpc::ServerUnaryReactor* Rebalance(grpc::CallbackServerContext* context, const pb::RebalanceRequest*,
                                      pb::RebalanceResponse* response) override {
    return Do(context, [&](CoordinatorRole::Done done) {
      role.load()->Rebalance([done = std::move(done), response](absl::StatusOr<int> moves) {
        if (moves.ok()) response->set_moves(static_cast<uint32_t>(*moves));
        done(moves.status());
      });
    });
  }
  template <typename F>
  grpc::ServerUnaryReactor* Do(grpc::CallbackServerContext* context, F&& begin) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (role == nullptr) {
      reactor->Finish(Nowhere(*context));
    } else {
      begin([this, reactor, context](absl::Status status) { reactor->Finish(Answer(status, *context)); });
    }
    return reactor;
  }

  std::atomic<CoordinatorRole*> role = nullptr;
  const ClusterRecord cluster;
  const std::function<std::string()> elsewhere;
  Executor executor;
};

AdminService::AdminService(ClusterRecord cluster, std::function<std::string()> elsewhere)
    : impl_(std::make_unique<Impl>(std::move(cluster), std::move(elsewhere))) {}
AdminService::~AdminService() = default;
grpc::Service* AdminService::service() { return impl_.get(); }
void AdminService::set_role(CoordinatorRole* role) { impl_->role = role; }

}  // namespace omni
