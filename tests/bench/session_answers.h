// What sessions ask of a cluster in measurements, and what they must be answered.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/cluster_client.h"

namespace omni::bench {

// Another text and seed for each session; every second one is greedy.
ClusterClient::Request RequestOf(int session, int64_t tokens);

// The tokens that one process without a cluster answers, by session.
absl::StatusOr<std::vector<std::vector<TokenId>>> AnswersOfOneProcess(const std::string& model, int sessions,
                                                                      int64_t tokens);

}  // namespace omni::bench
