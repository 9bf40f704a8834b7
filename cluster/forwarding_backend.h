// What a node that does not lead answers its doors with: what the one that leads says, asked over gRPC.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>

#include "cluster/access.h"
#include "cluster/inference_backend.h"
#include "cluster/named_submit.h"

namespace grpc {
class ChannelCredentials;
class Service;
}  // namespace grpc

namespace omni {

class Forwarding;

// While `own` serves, it is `own`. Else a request goes to whoever leads, under a name of its own, so that it
// goes on over the end of that node too, by whichever leads then; for so long nobody may answer.
class ForwardingBackend final : public InferenceBackend, public NamedSubmit {
 public:
  struct Leader {
    // The address of whoever leads, this node's own included, or of who may know; empty: nobody is known. The
    // number says the how manieth question it is about one request.
    std::function<std::string(size_t)> address;
    std::function<bool()> stopping;    // nothing new is taken
    std::function<std::string()> own;  // this node's address: who names it as the one to ask is not believed
  };
  // `own` and what `leader` needs outlive it; sessions may outlive it, and end with it.
  ForwardingBackend(InferenceBackend& own, std::shared_ptr<grpc::ChannelCredentials> credentials,
                    Leader leader);
  ~ForwardingBackend() override;  // ends what is under way

  absl::Status Serving() override;
  std::string Elsewhere() override { return own_.Elsewhere(); }
  // Of another node's memory there is nothing here: it holds what is asked for itself.
  absl::StatusOr<HeldMemory> HoldMemory(const std::string& caller, const MemoryChoice& choice) override {
    if (!own_.Serving().ok()) return HeldMemory();
    return own_.HoldMemory(caller, choice);
  }
  // Unavailable: another node leads, whose they are.
  absl::StatusOr<std::vector<OfferedAdapter>> Adapters() override;
  // Unavailable: an embedding is asked for, and another node leads.
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                        SubmitOptions options) override {
    return SubmitNamed(std::move(request), std::move(options), {});
  }
  absl::StatusOr<std::unique_ptr<SessionHandle>> SubmitNamed(GenerateRequest request, SubmitOptions options,
                                                             const RequestIds& ids) override;
  const Tokenizer& tokenizer() override { return own_.tokenizer(); }
  int64_t max_context() override { return own_.max_context(); }
  std::string model_hash() override { return own_.model_hash(); }
  std::string node() override { return own_.node(); }

  // Waits until nothing is forwarded any more, but no longer than `until`: whether nothing is.
  bool WaitForNone(std::chrono::steady_clock::time_point until);

  // omni.inference.v1.Inference: `local`'s while `own` serves, else what the one that leads says. `local` is
  // InferenceService's, and outlives it; null: nothing is answered here. `access` says who calls (CallerOf);
  // `log`: a call that is sent on leaves a line in the log, as those of `local` do.
  // It may be used until its server has been shut down; after this backend's end it refuses all.
  std::unique_ptr<grpc::Service> MakeService(grpc::Service* local, Access* access, bool log = true);
  // The same of omni.tasks.v1.SwarmTasks; `leads`: whether tasks are kept here.
  std::unique_ptr<grpc::Service> MakeTaskService(grpc::Service& local, Access* access,
                                                 std::function<absl::Status()> leads);
  // The same of omni.memory.v1.Memory, but for imports, which go to whoever leads.
  std::unique_ptr<grpc::Service> MakeMemoryService(grpc::Service& local, Access* access,
                                                   std::function<absl::Status()> leads);

 private:
  InferenceBackend& own_;
  const std::function<bool()> stopping_;
  const std::shared_ptr<Forwarding> forwarding_;
};

}  // namespace omni
