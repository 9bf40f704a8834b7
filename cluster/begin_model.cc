#include "cluster/begin_model.h"

#include <chrono>
#include <filesystem>
#include <system_error>

#include <absl/strings/str_cat.h>

#include "cluster/node_credentials.h"
#include "cluster/tile_client.h"

namespace omni {

absl::Status BeginModel(const std::string& dir, const std::vector<std::string>& peers,
                        const NodeCredentials& credentials, const JoinOffer& offer) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error)
    return absl::UnavailableError(absl::StrCat(dir, ": the folder cannot be made: ", error.message()));
  const bool empty = std::filesystem::is_empty(dir, error) && !error;
  if (!empty || peers.empty()) return absl::OkStatus();
  absl::Status last;
  std::string hash;
  for (const std::string& peer : peers) {
    const absl::StatusOr<JoinAnswer> answer = AskToJoin(peer, credentials, offer, std::chrono::seconds(10));
    if (!answer.ok()) {
      last =
          absl::Status(answer.status().code(),
                       absl::StrCat(peer, " does not say which model to fetch: ", answer.status().message()));
      continue;
    }
    hash = answer->model_hash;
    break;
  }
  if (hash.empty()) return last;
  FillOptions fill;
  fill.peers = peers;
  fill.credentials = credentials.channel();
  return OpenOrBeginPartial(dir, hash, fill).status();
}

}  // namespace omni
