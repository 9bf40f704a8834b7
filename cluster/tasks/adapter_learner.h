// Adapters that a serving process learns beside its sessions: while nobody is answered, on a thread that
// gives way to all others.
//
//     text --> learns (own time counts) --> better on what is held out? --> its file is replaced, whole
//                ^      |                        no: the file is as it was
//                waits while sessions decode
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include <absl/status/statusor.h>

#include "engine/around/adapt_learn.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"
#include "store/state/adapter_files.h"

namespace omni {

// What is served here. All references outlive the learner.
struct LearnerPlace {
  const ModelWeights& weights;
  ExpertSource& experts;  // resident: another's would be taken from those who decode
  const Tokenizer& tokenizer;
  std::string model_hash;
  std::function<bool()> busy;   // whether sessions decode; thread-safe
  int threads = 1;              // that it may compute with
  AdaptSettings settings = {};  // what the request does not say; its hooks are the learner's
  bool gives_way = true;        // its threads are the machine's least urgent
};

struct LearnRequest {
  static constexpr std::chrono::milliseconds kLongest = std::chrono::hours(1);

  std::string caller;  // by whose key it is asked; empty: there are no keys
  std::string name, text;
  std::chrono::milliseconds budget{60'000};  // of its own processor time
  bool more = false;                         // go on from the adapter of that name
  std::optional<double> most_drift = {};     // AdaptSettings's; nothing: the place's
};

// What an adapter is called: of a caller with a key CALLER.NAME, so that nobody replaces another's.
// InvalidArgument: the name, or what would become of it.
absl::StatusOr<std::string> AdapterNameOf(const std::string& caller, const std::string& name);

// Thread-safe.
class AdapterLearner {
 public:
  // Waits at most so long between two looks at whether others are busy.
  static constexpr std::chrono::milliseconds kLook{20};

  AdapterLearner(LearnerPlace place, AdapterFiles files)
      : place_(std::move(place)), files_(std::move(files)) {}

  struct Learned {
    std::string name;  // AdapterNameOf
    AdaptReport report;
    std::chrono::milliseconds waited{0};  // for others
    std::string hash = {};                // of the adapter, if it was saved
  };
  // Where nothing is kept, the file is as it was. `stopped` is asked now and
  // then, and ends it as Cancelled, with nothing changed; `tell` is told how far it is. Both on a thread of
  // its own. Errors: AdapterNameOf's, LearnAdapter's, Adapter::Read's and Fits's, AdapterFiles's;
  // FailedPrecondition: the model is not resident; ResourceExhausted: no thread.
  absl::StatusOr<Learned> Learn(const LearnRequest& request, const std::function<bool()>& stopped,
                                const std::function<void(const std::string&)>& tell);

 private:
  absl::StatusOr<Learned> LearnHere(const LearnRequest& request, const std::function<bool()>& stopped,
                                    const std::function<void(const std::string&)>& tell);

  const LearnerPlace place_;
  const AdapterFiles files_;
};

}  // namespace omni
