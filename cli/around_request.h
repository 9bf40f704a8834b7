// What acts around the token step, as verbs that generate ask for it and tell of it.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/statusor.h>

#include "actors/generate.h"
#include "cli/around_flags.h"
#include "cli/device_flags.h"
#include "cli/token_report.h"
#include "cluster/cluster_client.h"
#include "cluster/node.h"

namespace omni::cli {

void AskAround(const AroundFlags& around, GenerateRequest& request);
void AskAround(const AroundFlags& around, ClusterClient::Request& request);

// How many sessions' states a plan of memory is made with, so that one session of up to `tokens` tokens fits,
// with what these flags give it: perspectives, an adapter, a memory of contexts. `path`: the model's.
absl::StatusOr<int64_t> StatesToPlan(const AroundFlags& around, const DeviceFlags& device,
                                     const std::string& path, int64_t tokens);

// Tells the report what `request` asks for as the node has it now, an error before anything is computed.
// The memory that is asked for, if one is: as long as it is held, `request` gets this version of it.
absl::StatusOr<HeldMemory> HoldAround(Node& node, GenerateRequest& request, TokenReport& report);

// The same as a cluster had it for an answer.
void TellAround(const ClusterClient::Request& request, const ClusterClient::Answer& answer,
                TokenReport& report);

}  // namespace omni::cli
