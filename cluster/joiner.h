// How a node comes to a coordinator: it says that it is there, and again whenever nobody leads it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

class NodeCredentials;

// What a node says of itself. Without a model it asks which one the cluster has, and does not join yet.
struct JoinOffer {
  std::string node, address, model_hash;
  uint32_t regions = 0;
  uint64_t offered_bytes = 0;
};

struct JoinAnswer {
  std::string cluster, cluster_id, model_hash;
};

// Asks the coordinator at `address`, and waits for up to `patience`; without a model also for one to be
// there. FailedPrecondition: it does not take the node, and says why. Unavailable: there is none.
absl::StatusOr<JoinAnswer> AskToJoin(const std::string& address, const NodeCredentials& credentials,
                                     const JoinOffer& offer, std::chrono::milliseconds patience);

// Asks these coordinators in turn until one takes the node, and again whenever nobody leads it: a coordinator
// that has lost its records knows of the node by that alone.
class Joiner {
 public:
  // Called on the joiner's thread.
  struct Events {
    std::function<bool()> is_led;  // asked about once a second
    std::function<void(const JoinAnswer&)> on_joined;
  };

  // `credentials` and what the events refer to outlive it.
  Joiner(std::vector<std::string> addresses, const NodeCredentials& credentials, JoinOffer offer,
         Events events);

 private:
  void Run(const std::stop_token& stop);
  void Ask(const std::stop_token& stop);

  const std::vector<std::string> addresses_;
  const NodeCredentials& credentials_;
  const JoinOffer offer_;
  const Events events_;
  absl::Status joined_ = absl::UnavailableError("it has not asked yet");
  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;
};

}  // namespace omni
