// What a coordinator and a node that serves regions say to each other, and its bytes: Frame of
// proto/omni/cluster/v1/regions.proto, written and read without a protobuf object for rows and answers.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/region_link.h"
#include "engine/model/config.h"

namespace omni {

// How nodes talk to each other. The newest is raised when frames or records change so that an older program
// would misread them; a program speaks the one before it too, so that a cluster is upgraded node by node.
//
//     1  a hello says one number
//     2  a hello says a range, of which the node takes the highest that is its own too; a welcome names the
//        program
struct ProtocolRange {
  uint32_t oldest = 1, newest = 2;
  bool Has(uint32_t protocol) const { return protocol >= oldest && protocol <= newest; }
  // The highest that both speak; 0: there is none.
  uint32_t HighestWith(const ProtocolRange& other) const;
  bool operator==(const ProtocolRange&) const = default;
};
inline constexpr ProtocolRange kClusterProtocols;
std::string ToString(const ProtocolRange& protocols);  // "1" or "1 to 2"
// As both are on the wire, where a program of protocol 1 says, and reads, the oldest alone.
ProtocolRange ProtocolsSaid(uint32_t oldest, uint32_t newest);

// A node of a cluster: kept in its state directory, so that it is the same node after a restart.
struct NodeId {
  std::string value;
  auto operator<=>(const NodeId&) const = default;
};

struct HelloFrame {
  ProtocolRange protocols;
  NodeId coordinator;
  uint64_t term = 0;
  std::string model_hash;
  uint32_t regions = 0;
  std::string cluster, cluster_id;
};

struct WelcomeFrame {
  uint32_t protocol = kClusterProtocols.newest;  // spoken from here on
  NodeId node;
  uint64_t offered_bytes = 0;
  uint32_t threads = 0;
  std::string program = {};  // its version; empty: of protocol 1, which does not say
};

struct GoodbyeFrame {
  std::string reason;
};

struct ComputeFrame {
  std::vector<RegionRequestPtr> requests;  // of one layer, at least one
};

struct AnswersFrame {
  std::vector<RegionReplyPtr> replies;  // at least one
};

struct PrefetchFrame {
  RegionId region;
  LayerId layer;
  std::vector<ExpertId> experts;
  Foresight foresight = Foresight::kGuess;
};

enum class HoldingRole : uint8_t { kOwner, kShadow, kTarget };

struct AssignFrame {
  uint64_t revision = 0;
  struct Region {
    RegionId region;
    uint64_t epoch = 0;
    HoldingRole role = HoldingRole::kOwner;
    bool operator==(const Region&) const = default;
  };
  std::vector<Region> regions;  // ascending
  std::vector<std::string> sources;
  bool operator==(const AssignFrame&) const = default;
};

struct HoldingsFrame {
  uint64_t revision = 0;
  std::vector<RegionId> regions;  // ascending
  uint32_t filling = 0;
  uint64_t missing_bytes = 0, fetched_bytes = 0;
  std::string error;
};

struct RefusedFrame {
  uint64_t id = 0;
  RegionId region;
  uint64_t epoch = 0;
  std::string reason;
};

struct CancelFrame {
  std::vector<uint64_t> ids;
};

struct PingFrame {
  uint64_t number = 0;
};

struct PongFrame {
  uint64_t number = 0;
  uint64_t free_bytes = 0;
};

using Frame = std::variant<HelloFrame, WelcomeFrame, ComputeFrame, AnswersFrame, PrefetchFrame, AssignFrame,
                           HoldingsFrame, RefusedFrame, CancelFrame, PingFrame, PongFrame, GoodbyeFrame>;

// Bytes that somebody else owns.
struct FrameBytes {
  std::span<const uint8_t> bytes;
  std::shared_ptr<const void> keep;
};
FrameBytes FrameBytesOf(std::string bytes);

// Larger frames are refused by both ends.
inline constexpr int64_t kMaxFrameBytes = 64 << 20;

std::string EncodeFrame(const Frame& frame);

// Everything a frame says is checked against the model: layers, experts of the region named, rows and widths,
// the amount of data. InvalidArgument says what does not fit. Requests and replies own their rows.
absl::StatusOr<Frame> DecodeFrame(std::span<const uint8_t> bytes, const ModelConfig& config);

}  // namespace omni
