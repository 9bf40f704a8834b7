#include "cluster/tasks/adapter_learner.h"

#include <algorithm>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "engine/around/adapter.h"
#include "engine/base/quoted.h"
#include "engine/base/threads.h"
#include "engine/decode/worker_pool.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTells = 20;  // of a whole budget

absl::Status Stopped() { return absl::CancelledError("was stopped; nothing was changed"); }

}  // namespace

absl::StatusOr<std::string> AdapterNameOf(const std::string& caller, const std::string& name) {
  if (absl::Status s = CheckAdapterName(name); !s.ok()) return s;
  if (caller.empty()) return name;
  if (name.find('.') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(name), " has a '.', which stands between a caller's name and that of his adapter"));
  }
  std::string full = absl::StrCat(caller, ".", name);
  if (absl::Status s = CheckAdapterName(full); !s.ok()) return s;
  return full;
}

absl::StatusOr<AdapterLearner::Learned> AdapterLearner::Learn(
    const LearnRequest& request, const std::function<bool()>& stopped,
    const std::function<void(const std::string&)>& tell) {
  if (!place_.experts.resident()) {
    return absl::FailedPreconditionError(
        "the model is not whole in memory, and what learning reads of it would be taken from those who "
        "decode; serve it whole to learn here, or use omni adapt without a server");
  }
  if (request.budget.count() <= 0 || request.budget > LearnRequest::kLongest) {
    return absl::InvalidArgumentError(absl::StrCat("the budget is ", request.budget.count(),
                                                   " ms; it may be up to ", LearnRequest::kLongest.count()));
  }
  // What is given way to others is a thread's for good.
  absl::StatusOr<Learned> learned = Stopped();
  try {
    std::thread([&] {
      if (place_.gives_way) GiveWayToOthers();
      learned = LearnHere(request, stopped, tell);
    }).join();
  } catch (const std::system_error& refused) {
    return ThreadsRefused(1, "learn", refused.code().value());
  }
  return learned;
}

absl::StatusOr<AdapterLearner::Learned> AdapterLearner::LearnHere(
    const LearnRequest& request, const std::function<bool()>& stopped,
    const std::function<void(const std::string&)>& tell) {
  absl::StatusOr<std::string> name = AdapterNameOf(request.caller, request.name);
  if (!name.ok()) return name.status();
  std::optional<Adapter> adapter;
  if (request.more) {
    const absl::StatusOr<std::string> bytes = files_.Load(*name);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<Adapter> old = Adapter::Read(*bytes);
    if (!old.ok()) return old.status();
    if (absl::Status s = old->Fits(place_.weights.config, place_.model_hash); !s.ok()) return s;
    adapter = *std::move(old);
  } else {
    adapter.emplace(place_.weights.config, AdapterParts(), place_.model_hash);
  }
  WorkerPool pool(place_.threads);
  if (!pool.status().ok()) return pool.status();

  Learned learned;
  learned.name = *std::move(name);
  AdaptSettings settings = place_.settings;
  settings.budget = request.budget;
  settings.processor_time = true;
  if (request.most_drift.has_value()) settings.most_drift = *request.most_drift;
  int told = -1;
  settings.progress = [&](double share) {
    const int now = static_cast<int>(share * kTells);
    if (now > told) tell(absl::StrFormat("%d %% of its time is used", now * 100 / kTells));
    told = std::max(told, now);
    return false;
  };
  bool waiting_told = false;
  settings.before_batch = [&]() -> absl::Status {
    if (stopped()) return Stopped();
    if (!place_.busy()) return absl::OkStatus();
    if (!std::exchange(waiting_told, true)) tell("waits while others are answered");
    const auto begun = Clock::now();
    while (place_.busy()) {
      std::this_thread::sleep_for(kLook);
      if (stopped()) return Stopped();
    }
    learned.waited += std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun);
    return absl::OkStatus();
  };
  absl::StatusOr<AdaptReport> report =
      LearnAdapter(place_.weights, place_.experts, place_.tokenizer, pool, request.text, settings, *adapter);
  if (!report.ok()) return report.status();
  learned.report = *std::move(report);
  if (learned.report.kept) {
    // Whoever cancelled is not to find it there.
    if (stopped()) return Stopped();
    if (absl::Status s = files_.Save(learned.name, adapter->Write()); !s.ok()) return s;
    learned.hash = adapter->Hash();
  }
  return learned;
}

}  // namespace omni
