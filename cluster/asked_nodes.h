// Whom a client of a cluster asks: one address after the other, whoever coordinates first once it is known.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <grpcpp/grpcpp.h>

#include "cluster/cluster_client.h"
#include "cluster/node_credentials.h"

namespace omni {

inline constexpr std::chrono::milliseconds kConnecting{2000};  // to a node, at most

// Thread-safe.
class AskedNodes {
 public:
  // InvalidArgument: no address, or one that is no HOST:PORT; NodeCredentials::Make's errors.
  static absl::StatusOr<std::unique_ptr<AskedNodes>> Make(ClusterClientOptions options);

  // The next to be asked; whom another has named comes first.
  std::string Next(const std::string& hint);
  void Failed();  // that one: another is next
  // One that is kept, and connects again by itself.
  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address);
  // A key is not sent in the clear, whatever plain links are allowed for else.
  void ShowKey(grpc::ClientContext& context, const std::string& address) const;
  // An error that came of `address`, in words for people.
  absl::Status Explain(const absl::Status& status, const std::string& address) const;

  // Asks one after another until one answers, or the options' patience is over. `each`: for how long one may
  // take. What may have been done by one that was cut off is asked for again; `perhaps_done`, if not null,
  // says whether one before the last may have done it.
  using Ask = std::function<grpc::Status(const std::string& address, grpc::ClientContext& context)>;
  absl::Status Call(std::chrono::milliseconds each, const Ask& ask, bool* perhaps_done = nullptr);

  // Whether another, or the same a little later, may answer.
  static bool MayPass(const grpc::Status& status);
  // Where a node that does not coordinate sends its callers; empty: nowhere, or to itself.
  static std::string HintOf(const grpc::ClientContext& context, const std::string& asked);

  const ClusterClientOptions& options() const { return options_; }
  const NodeCredentials& credentials() const { return *credentials_; }

 private:
  explicit AskedNodes(ClusterClientOptions options) : options_(std::move(options)) {}

  const ClusterClientOptions options_;
  std::unique_ptr<NodeCredentials> credentials_;
  std::mutex mutex_;
  std::string current_;
  size_t turn_ = 0;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_;
};

// Of one call: for how long nobody has answered it. Not thread-safe.
class Silence {
 public:
  explicit Silence(AskedNodes& nodes) : nodes_(nodes) { Heard(); }
  void Heard();  // somebody answers
  // `said` came of `address` in the place of an answer. OK: a moment has passed, and the next may be asked,
  // whom `hint` names if it is not empty. Cancelled: the options' give_up says so. Else patience is over, and
  // that is the error to end with. Silence that lasts is said in the log, once.
  absl::Status Failed(const std::string& address, const absl::Status& said, const std::string& hint);

 private:
  AskedNodes& nodes_;
  std::chrono::steady_clock::time_point since_;
  bool told_ = false;
};

}  // namespace omni
