// What the log says of a cluster: each call is one event of docs/operations.md, "Log". From any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include <absl/status/status.h>

#include "engine/base/ids.h"

namespace omni {

// Of a coordinator's connection to a node.
void LogNodeUp(std::string_view node, std::string_view address);
void LogNodeLost(std::string_view cluster, std::string_view address, const absl::Status& reason);
void LogNodeRefused(std::string_view address, const absl::Status& reason);
void LogNodeSuspect(std::string_view node);
void LogNodeUnreachable(std::string_view address, const absl::Status& reason,
                        std::chrono::milliseconds again);

// Of a coordinator's records.
void LogStoreUnavailable(const absl::Status& reason);
void LogRegionPlaced(RegionId region, std::string_view owner, std::string_view shadow,
                     std::string_view target, std::string_view reason);

void LogJoinRefused(std::string_view node, std::string_view address, const absl::Status& reason);

// A node's certificate is valid for less than a month.
void LogCertificateEndsSoon(std::string_view folder);

// Of a node that joins.
void LogJoined(std::string_view node, std::string_view address);
void LogNotJoined(std::string_view address, const absl::Status& reason);

// Of a node: a coordinator's connection was accepted, refused, or has ended.
void LogCoordinatorAccepted(std::string_view coordinator, uint64_t term);
void LogCoordinatorRefused(std::string_view coordinator, const absl::Status& reason);
void LogCoordinatorGone(std::string_view coordinator, const absl::Status& reason);
// It could not fetch or read what it is to hold, and tries again.
void LogRegionNotKept(RegionId region, const absl::Status& reason);

// Of a coordinator's leadership.
void LogElected(std::string_view node, uint64_t term);
void LogFollows(std::string_view node, std::string_view leader);
void LogDeposed(std::string_view node, const absl::Status& reason);

}  // namespace omni
