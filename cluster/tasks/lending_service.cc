#include "cluster/tasks/lending_service.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "cluster/grpc_errors.h"
#include "cluster/grpc_status.h"
#include "cluster/tasks/lending_messages.h"
#include "omni/tasks/v1/lending.grpc.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;
using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::minutes kMostWait{1}, kOfLate{2};
constexpr std::chrono::seconds kTurn{2};
constexpr size_t kMostNodes = 10'000, kMostOffers = 1000;

}  // namespace

struct LendingService::Impl final : public pb::TaskLending::CallbackService {
  Impl(TaskEngine* e, std::function<absl::Status()> s, std::function<std::string()> o, ReadOwnArtifact r)
      : engine(e), serving(std::move(s)), elsewhere(std::move(o)), read(std::move(r)) {}

  bool Begin(Context* context, Unary* reactor) {
    absl::Status s = serving();
    if (s.ok() && engine == nullptr) s = absl::UnavailableError("this node keeps no tasks");
    if (s.ok()) return true;
    ErrorDetails details;
    details.reason = "NOT_LEADING";
    if (const std::string other = elsewhere(); !other.empty()) {
      details.metadata["coordinator"] = other;
      context->AddTrailingMetadata(kCoordinatorMetadata, other);
    }
    reactor->Finish(ToDetailedGrpc(s, details));
    return false;
  }

  Unary* Take(Context* context, const pb::TakeRequest* request, pb::TakeResponse* response) override {
    Unary* reactor = context->DefaultReactor();
    if (!Begin(context, reactor)) return reactor;
    if (request->node().empty() || request->worker().empty() ||
        request->offers_size() > static_cast<int>(kMostOffers) ||
        request->all_size() > static_cast<int>(kMostOffers)) {
      reactor->Finish(ToDetailedGrpc(absl::InvalidArgumentError("a node says who it is, and what it does")));
      return reactor;
    }
    if (request->ends()) {
      engine->ReturnLeases(request->node(), request->worker(), [reactor](const absl::Status& returned) {
        reactor->Finish(ToDetailedGrpc(returned));
      });
      return reactor;
    }
    OnHeard(*request);
    auto waiting = std::make_shared<Waiting>();
    waiting->context = context;
    waiting->request = request;
    waiting->response = response;
    waiting->reactor = reactor;
    waiting->until =
        Clock::now() + std::clamp<std::chrono::seconds>(std::chrono::seconds(request->wait().seconds()),
                                                        std::chrono::seconds(0), kMostWait);
    Await(std::move(waiting));
    return reactor;
  }

  struct Waiting {
    Context* context = nullptr;
    const pb::TakeRequest* request = nullptr;
    pb::TakeResponse* response = nullptr;
    Unary* reactor = nullptr;
    Clock::time_point until;
  };
  // In short turns, so that a node that has gone is not waited with for long.
  void Await(std::shared_ptr<Waiting> w) {
    std::vector<TaskOffer> offers;
    for (const pb::Offer& offer : w->request->offers()) offers.push_back({offer.executor(), offer.target()});
    const Clock::time_point began = Clock::now();
    const auto turn = std::chrono::ceil<TaskDuration>(
        std::clamp<Clock::duration>(w->until - began, Clock::duration(0), kTurn));
    engine->Await(w->request->worker(), w->request->node(), std::move(offers), turn,
                  [this, w, began, turn](absl::StatusOr<std::optional<TaskAssignment>> given) {
                    if (given.ok() && given->has_value()) {
                      // Nobody would do it, nor say so, until its lease is over.
                      if (w->context->IsCancelled())
                        engine->Return((*given)->token, [](const absl::Status&) {});
                      TellAssignment(**given, *w->response->mutable_task());
                    }
                    const Clock::time_point now = Clock::now();
                    // An engine that drains has none before its time.
                    const bool again = given.ok() && !given->has_value() && now < w->until &&
                                       now - began >= turn / 2 && !w->context->IsCancelled();
                    if (again) return Await(w);
                    w->reactor->Finish(ToDetailedGrpc(given.status()));
                  });
  }

  Unary* Report(Context* context, const pb::ReportRequest* request, pb::ReportResponse* response) override {
    Unary* reactor = context->DefaultReactor();
    if (!Begin(context, reactor)) return reactor;
    engine->Report(request->token(), ReadReport(request->report()),
                   [reactor, response](absl::StatusOr<TaskLedger::Told> told) {
                     if (told.ok()) response->set_cancel(told->cancel);
                     reactor->Finish(ToDetailedGrpc(told.status()));
                   });
    return reactor;
  }

  Unary* End(Context* context, const pb::EndRequest* request, pb::EndResponse*) override {
    Unary* reactor = context->DefaultReactor();
    if (!Begin(context, reactor)) return reactor;
    const auto told = [reactor](const absl::Status& s) { reactor->Finish(ToDetailedGrpc(s)); };
    switch (request->kind_case()) {
      case pb::EndRequest::kSucceeded:
        engine->Succeed(request->token(), ReadReport(request->report()), request->succeeded().result(), told);
        break;
      case pb::EndRequest::kFailed:
        engine->Fail(request->token(), ReadReport(request->report()), request->failed().error(),
                     request->failed().message(), told);
        break;
      case pb::EndRequest::kReturned:
        engine->Return(request->token(), told);
        break;
      default:
        told(absl::InvalidArgumentError("this program does not know how the task ended"));
    }
    return reactor;
  }

  Unary* ReadArtifact(Context* context, const pb::ReadArtifactRequest* request,
                      pb::ReadArtifactResponse* response) override {
    Unary* reactor = context->DefaultReactor();
    const auto done = [reactor, response](absl::StatusOr<ArtifactPiece> piece) {
      if (piece.ok()) {
        response->set_size(piece->size);
        response->set_data(std::move(piece->data));
      }
      reactor->Finish(ToDetailedGrpc(piece.status()));
    };
    if (read == nullptr) {
      done(absl::NotFoundError("this node keeps no artifacts"));
    } else {
      read(request->where(), request->offset(), done);
    }
    return reactor;
  }

  // A node that comes as another process has lost all that it had.
  void OnHeard(const pb::TakeRequest& request) {
    bool other = false;
    {
      const std::lock_guard lock(mutex);
      const Clock::time_point now = Clock::now();
      std::erase_if(nodes, [&](const auto& node) { return now - node.second.heard > kOfLate; });
      if (nodes.size() >= kMostNodes && !nodes.contains(request.node())) return;
      Node& node = nodes[request.node()];
      other = node.worker != request.worker();
      node.worker = request.worker();
      node.address = request.address();
      node.heard = now;
      node.places.clear();
      for (const pb::Offer& offer : request.all())
        node.places.push_back({offer.executor(), offer.target(), request.node(), offer.slots(),
                               offer.running(), offer.description()});
    }
    if (other) engine->EndLeases(request.node(), request.worker(), [](const absl::Status&) {});
  }

  TaskEngine* const engine;
  const std::function<absl::Status()> serving;
  const std::function<std::string()> elsewhere;
  const ReadOwnArtifact read;
  struct Node {
    std::string worker, address;
    Clock::time_point heard;
    std::vector<TaskPlaces> places;
  };
  mutable std::mutex mutex;
  std::map<std::string, Node> nodes;
};

LendingService::LendingService(TaskEngine* engine, std::function<absl::Status()> serving,
                               std::function<std::string()> elsewhere, ReadOwnArtifact read)
    : impl_(std::make_unique<Impl>(engine, std::move(serving), std::move(elsewhere), std::move(read))) {}
LendingService::~LendingService() = default;
grpc::Service* LendingService::service() { return impl_.get(); }

std::vector<TaskPlaces> LendingService::places() const {
  std::vector<TaskPlaces> places;
  const std::lock_guard lock(impl_->mutex);
  const Clock::time_point now = Clock::now();
  for (const auto& [name, node] : impl_->nodes)
    if (now - node.heard <= kOfLate) places.insert(places.end(), node.places.begin(), node.places.end());
  return places;
}

std::string LendingService::AddressOf(const std::string& node) const {
  const std::lock_guard lock(impl_->mutex);
  const auto found = impl_->nodes.find(node);
  return found == impl_->nodes.end() ? "" : found->second.address;
}

}  // namespace omni
