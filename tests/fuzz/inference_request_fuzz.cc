// Requests over gRPC, and what is kept of them: whatever bytes they are, a request that can be computed or an
// error that can be shown.
#include <google/protobuf/stubs/logging.h>

#include "actors/session.h"
#include "cluster/inference_impl.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 150000;

std::vector<std::string> Seeds() {
  pb::GenerateRequest request;
  request.set_request_id("an-id_1");
  request.set_have(3);
  request.set_prompt("the sea");
  request.set_max_tokens(5);
  request.mutable_sampler()->set_temperature(0.5f);
  request.mutable_sampler()->set_top_p(0.9f);
  request.mutable_sampler()->set_repetition_penalty(1.1f);
  request.mutable_sampler()->set_repetition_window(8);
  request.mutable_sampler()->set_seed(7);
  request.add_stops(std::string(1, 'a'));
  request.set_model("m");
  request.set_alternatives(20);
  request.set_routes(true);
  request.set_session("s");
  request.set_save_as("t");
  request.set_perspectives("near");
  request.set_memory("s");
  request.set_memory_version("1-00");
  pb::KeptRequest kept;
  kept.add_context(256);
  kept.add_context(97);
  kept.set_revision(9);
  pb::GenerateRequest tokens;
  tokens.add_tokens(1);
  tokens.add_tokens(300);
  tokens.mutable_sampler()->set_top_k(4);
  pb::KeptSession about;
  about.set_tokens(2);
  about.set_model_hash("0123");
  about.set_forked_from("s");
  return {request.SerializeAsString(), request.SerializeAsString() + kept.SerializeAsString(),
          tokens.SerializeAsString(), about.SerializeAsString(), TokenBytes({TokenId(1), TokenId(256)})};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  constexpr int64_t kVocab = 260, kContext = 200;
  const std::string bytes(View(data, size));
  const google::protobuf::LogSilencer quiet;

  pb::GenerateRequest message;
  pb::KeptRequest kept;
  if (message.ParseFromString(bytes) && kept.ParseFromString(bytes)) {
    // What a client sends is kept without what it may not say.
    message.DiscardUnknownFields();
    pb::KeptRequest said;
    Require(said.ParseFromString(message.SerializeAsString()), "what is kept can be read");
    Require(said.context_size() == 0 && said.revision() == 0, "a client says nothing of what is kept");
    if (const absl::Status checked = CheckGenerate(message); !checked.ok()) {
      RequireReadable(checked);
      Require(absl::IsInvalidArgument(checked), "what is wrong is the client's error");
    } else {
      GenerateRequest request = ToRequest(message);
      Require(request.max_tokens >= 1, "something is to be generated");
      Require(request.alternatives >= 0 && request.alternatives <= kMostAlternatives,
              "alternatives are within their range");
      for (int32_t token : kept.context()) request.prompt.emplace_back(token);
      for (int32_t token : message.tokens()) request.prompt.emplace_back(token);
      if (const absl::Status fits = CheckRequest(request, kVocab, kContext); !fits.ok()) {
        RequireReadable(fits);
        Require(absl::IsInvalidArgument(fits), "what is wrong is the client's error");
      }
    }
  }

  SavedSession saved{"owner.id", 1, bytes, bytes};
  const pb::Session session = ToSession(saved, "owner.");
  Require(session.id() == "id", "a session has the id that its owner gave");
  if (const auto tokens = ReadTokens(saved); tokens.ok()) {
    saved.tokens = TokenBytes(*tokens);
    const auto again = ReadTokens(saved);
    Require(again.ok() && *again == *tokens, "tokens are kept as they are");
  } else {
    RequireReadable(tokens.status());
  }
  return 0;
}
