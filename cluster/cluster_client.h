// What a program says to a cluster that it is no part of.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/generate.h"
#include "cluster/coordinator_role.h"
#include "engine/around/adapter_source.h"

namespace omni {

// Between the pings of a client that hears nothing; a node hangs up on nobody who pings so often.
inline constexpr std::chrono::milliseconds kClientPing{1000};

struct ClusterClientOptions {
  std::vector<std::string> addresses = {};  // of nodes, HOST:PORT; whoever does not coordinate says who does
  std::string certificates = {};            // a node's folder of `omni cluster cert`; empty: none
  std::string key = {};                     // of `omni key`, for nodes that want one; empty: none
  bool allow_plain = false;                 // off loopback without encryption
  std::chrono::milliseconds patience{30'000};  // how long nobody may answer before a call is given up
  // Asked again and again while nobody answers; true: the call is given up at once. Empty: never.
  std::function<bool()> give_up = {};
};

// Thread-safe.
class ClusterClient {
 public:
  static absl::StatusOr<std::unique_ptr<ClusterClient>> Make(ClusterClientOptions options);
  ~ClusterClient();

  // Of the first address alone, asked once: OK, it takes requests or serves regions to others; Unavailable,
  // it does not, or is not there.
  absl::Status Health();
  absl::StatusOr<ClusterReport> Status();
  // Calls on_report now and at every change, until it returns false or `stop`; over lost connections.
  absl::Status Watch(const std::function<bool(const ClusterReport&)>& on_report, const std::stop_token& stop);
  absl::Status Place(RegionId region, const NodeId& node);
  absl::Status Drain(const NodeId& node, bool undo);
  absl::Status Forget(const NodeId& node);
  absl::StatusOr<int> Rebalance();

  // Those that requests may ask the coordinator for, by name.
  absl::StatusOr<std::vector<OfferedAdapter>> Adapters();

  struct Request {
    std::string id;  // empty: a new one is drawn
    std::string prompt;
    int64_t max_tokens = 128;
    SamplerSettings sampler;
    std::vector<std::string> stops;
    bool stop_at_end_of_text = true;
    std::optional<PerspectiveSettings> perspectives;
    std::string safety;   // a polytope of the coordinator's; empty: none
    std::string adapter;  // an adapter of the coordinator's; empty: none
    bool context_memory = false;
    std::string memory;  // a scope of the coordinator's memory; empty: none
    std::stop_token cancel;
  };
  struct Answer {
    std::string text;
    std::vector<TokenId> tokens;
    std::string reason, model_hash;
    std::string safety_hash;   // of the polytope; empty: none was asked for
    std::string adapter_hash;  // of the adapter; empty: none was asked for
    std::string memory_version;
    int64_t prompt_tokens = 0;
    std::chrono::nanoseconds queued{0}, prefill{0}, decode{0};
    int reconnects = 0;
    std::chrono::nanoseconds longest_gap{0};  // between two tokens
  };
  // As Swarm::Generate, and over the end of any process of the cluster: who has had n tokens asks for the
  // rest. Events are called with each token once.
  absl::StatusOr<Answer> Generate(const Request& request, const GenerateCallback& on_event);

 private:
  struct Impl;
  explicit ClusterClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
