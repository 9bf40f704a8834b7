// Flags of every verb that can ask a server in this process's place.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "cli/verb.h"
#include "cluster/http/openai_client.h"

namespace omni::cli {

class ServerFlags {
 public:
  std::string server, ca;

  // `model`: of a verb whose -m names the server's model.
  void Add(Verb& verb, bool model = true);
  const GivenFlags& given() const { return server_; }         // --server alone
  const GivenFlags& given_beside() const { return beside_; }  // all but --server
  // `model`: its name at the server; empty: the one that it has. A key that no flag and no OMNI_API_KEY gives
  // is OPENAI_API_KEY's.
  absl::StatusOr<std::unique_ptr<OpenAiClient>> Connect(const std::string& model, bool allow_plain) const;

 private:
  std::string key_;
  GivenFlags server_, beside_;
};

}  // namespace omni::cli
