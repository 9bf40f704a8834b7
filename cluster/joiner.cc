#include "cluster/joiner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "cluster/cluster_log.h"
#include "cluster/frames.h"
#include "cluster/grpc_status.h"
#include "cluster/node_credentials.h"
#include "omni/cluster/v1/admin.grpc.pb.h"

namespace omni {

namespace pb = ::omni::cluster::v1;
using std::chrono::milliseconds;

absl::StatusOr<JoinAnswer> AskToJoin(const std::string& address, const NodeCredentials& credentials,
                                     const JoinOffer& offer, milliseconds patience) {
  const auto stub = pb::Admin::NewStub(grpc::CreateChannel(address, credentials.channel()));
  grpc::ClientContext context;
  context.set_wait_for_ready(offer.model_hash.empty());
  context.set_deadline(std::chrono::system_clock::now() + patience);
  pb::JoinRequest request;
  request.set_protocol(kClusterProtocols.oldest);
  request.set_newest_protocol(kClusterProtocols.newest);
  request.set_node(offer.node);
  request.set_address(offer.address);
  request.set_model_hash(offer.model_hash);
  request.set_regions(offer.regions);
  request.set_offered_bytes(offer.offered_bytes);
  pb::JoinResponse response;
  absl::Status asked = FromGrpc(stub->Join(&context, request, &response));
  if (absl::IsDeadlineExceeded(asked)) asked = absl::UnavailableError("it does not answer");
  if (!asked.ok()) return credentials.Explain(asked, address);
  return JoinAnswer{response.cluster(), response.cluster_id(), response.model_hash()};
}

Joiner::Joiner(std::vector<std::string> addresses, const NodeCredentials& credentials, JoinOffer offer,
               Events events)
    : addresses_(std::move(addresses)),
      credentials_(credentials),
      offer_(std::move(offer)),
      events_(std::move(events)),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

void Joiner::Run(const std::stop_token& stop) {
  constexpr milliseconds kFirst{100}, kLongest{3000}, kLook{1000};
  milliseconds wait = kFirst;
  while (!stop.stop_requested()) {
    const bool led = events_.is_led();
    if (led) {
      if (!joined_.ok()) joined_ = absl::OkStatus();
      wait = kFirst;
    } else {
      Ask(stop);
    }
    std::unique_lock lock(mutex_);
    stopped_.wait_for(lock, stop, led ? kLook : wait, [] { return false; });
    if (!led) wait = std::min(2 * wait, kLongest);
  }
}

void Joiner::Ask(const std::stop_token& stop) {
  for (const std::string& address : addresses_) {
    if (stop.stop_requested()) return;
    const absl::StatusOr<JoinAnswer> answer = AskToJoin(address, credentials_, offer_, milliseconds(3000));
    const absl::Status before = std::exchange(joined_, answer.status());
    if (answer.ok()) {
      if (!before.ok()) LogJoined(offer_.node, address);
      events_.on_joined(*answer);
      return;
    }
    if (before != joined_) LogNotJoined(address, joined_);
  }
}

}  // namespace omni
