// The adapters that there are: here, at a server, in a cluster.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/cluster_client.h"
#include "cluster/http/openai_client.h"
#include "engine/around/adapter_source.h"
#include "store/state/adapter_files.h"

namespace omni::cli {

struct ListedAdapter {
  OfferedAdapter adapter;        // of one that cannot be read, its name alone
  std::optional<int64_t> bytes;  // of its file, if it lies here
  std::string error;             // why it cannot be read; empty: it can
};

// By name.
absl::StatusOr<std::vector<ListedAdapter>> AdaptersOf(const AdapterFiles& files);
// Those of its model that a cluster's coordinator, or a server, offers.
absl::StatusOr<std::vector<ListedAdapter>> AdaptersOf(ClusterClient& cluster);
// NotFound: it has no list of adapters, and so is no omni serve, or an older one.
absl::StatusOr<std::vector<ListedAdapter>> AdaptersOf(OpenAiClient& server);

// NotFound: the server offers none of that name, and the message says which it does; or the above. OK also
// where the server sends its requests on, and so cannot say.
absl::Status CheckOffered(OpenAiClient& server, const std::string& name);

}  // namespace omni::cli
