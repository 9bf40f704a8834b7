#include "cluster/cluster_log.h"

#include "engine/base/log.h"

namespace omni {

void LogNodeUp(std::string_view node, std::string_view address) {
  LogInfo("node_up", "node {node} at {address} is connected", {{"node", node}, {"address", address}});
}

void LogNodeLost(std::string_view cluster, std::string_view address, const absl::Status& reason) {
  LogWarning("node_lost", "the node at {address} of cluster {cluster} is lost: {reason}",
             {{"address", address}, {"cluster", cluster}, {"reason", reason.message()}});
}

void LogNodeRefused(std::string_view address, const absl::Status& reason) {
  LogWarning("node_refused", "the node at {address} and this coordinator do not fit: {reason}",
             {{"address", address}, {"reason", reason.message()}});
}

void LogNodeSuspect(std::string_view node) {
  LogInfo("node_suspect", "node {node} is silent, and others are asked first until it is heard again",
          {{"node", node}});
}

void LogNodeUnreachable(std::string_view address, const absl::Status& reason,
                        std::chrono::milliseconds again) {
  LogInfo("node_unreachable", "the node at {address} cannot be reached, next try in {wait}: {reason}",
          {{"address", address}, {"wait", again}, {"reason", reason.message()}});
}

void LogStoreUnavailable(const absl::Status& reason) {
  LogWarning("coordination_unavailable", "the coordination store does not answer: {reason}",
             {{"reason", reason.message()}});
}

void LogRegionPlaced(RegionId region, std::string_view owner, std::string_view shadow,
                     std::string_view target, std::string_view reason) {
  LogInfo("region_placed", "region {region}: owner {owner}, shadow {shadow}, moving to {target}: {reason}",
          {{"region", region.value},
           {"owner", owner},
           {"shadow", shadow.empty() ? "-" : shadow},
           {"target", target.empty() ? "-" : target},
           {"reason", reason}});
}

void LogJoinRefused(std::string_view node, std::string_view address, const absl::Status& reason) {
  LogWarning("join_refused", "node {node} at {address} may not join: {reason}",
             {{"node", node}, {"address", address}, {"reason", reason.message()}});
}

void LogCertificateEndsSoon(std::string_view folder) {
  LogWarning("certificate_ends_soon",
             "{folder}: the certificate ends within a month; make another with omni cluster cert",
             {{"folder", folder}});
}

void LogJoined(std::string_view node, std::string_view address) {
  LogInfo("joined", "node {node} has joined the cluster of {address}",
          {{"node", node}, {"address", address}});
}

void LogNotJoined(std::string_view address, const absl::Status& reason) {
  LogWarning("not_joined", "the coordinator at {address} does not take this node: {reason}",
             {{"address", address}, {"reason", reason.message()}});
}

void LogCoordinatorAccepted(std::string_view coordinator, uint64_t term) {
  LogInfo("coordinator_accepted", "coordinator {coordinator} of term {term} is connected",
          {{"coordinator", coordinator}, {"term", term}});
}

void LogCoordinatorRefused(std::string_view coordinator, const absl::Status& reason) {
  LogWarning("coordinator_refused", "coordinator {coordinator} was refused: {reason}",
             {{"coordinator", coordinator}, {"reason", reason.message()}});
}

void LogCoordinatorGone(std::string_view coordinator, const absl::Status& reason) {
  LogInfo("coordinator_gone", "the connection of coordinator {coordinator} has ended: {reason}",
          {{"coordinator", coordinator}, {"reason", reason.message()}});
}

void LogRegionNotKept(RegionId region, const absl::Status& reason) {
  LogWarning("region_not_kept", "region {region} cannot be held here yet: {reason}",
             {{"region", region.value}, {"reason", reason.message()}});
}

void LogElected(std::string_view node, uint64_t term) {
  LogInfo("coordinator_elected", "node {node} leads the cluster, term {term}",
          {{"node", node}, {"term", term}});
}

void LogFollows(std::string_view node, std::string_view leader) {
  LogInfo("coordinator_waits", "node {node} waits: {leader} leads the cluster",
          {{"node", node}, {"leader", leader}});
}

void LogDeposed(std::string_view node, const absl::Status& reason) {
  LogWarning("coordinator_deposed", "node {node} leads no more: {reason}",
             {{"node", node}, {"reason", reason.message()}});
}

}  // namespace omni
