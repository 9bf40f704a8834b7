// The coordinator without the actor: which sessions run, what a step computes, what is asked of the regions.
//
// One step takes a batch of rows (a token each of every decoding session, and blocks of prompts) through all
// layers. Within a layer the coordinator waits for the regions' answers; between steps it looks at its
// sessions afresh:
//
//     Submit --> queue --> active --Step--> layer 0 .. L-1 (jobs out, replies in) --> sample --> Step ...
//
// A region that dies or stays silent is replaced and its job sent again; regions keep nothing between jobs,
// so the answer is the same. After `job_attempts` the sessions whose rows are concerned end with an error and
// the others go on.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/counters.h"
#include "actors/region_job.h"
#include "actors/session.h"
#include "engine/decode/decoder.h"

namespace omni {

struct CoordinatorOptions {
  int max_active = 16;                  // sessions stepped together
  int max_queued = 256;                 // sessions waiting beyond those; more are refused
  int max_rows = 64;                    // rows of a step
  int prefill_rows_beside_decode = 16;  // prompt rows of a step in which others decode: bounds their wait
  std::chrono::milliseconds job_timeout{30000};
  int job_attempts = 3;
  // Expert layers ahead whose experts are guessed and announced to the source; 0: none, and none counted.
  int predict_ahead = 0;
  // For measurements: decides in the routers' place, and says when a layer starts which experts it will
  // decide for.
  Decoder::Reroute reroute;
  std::function<void(LayerId layer, std::vector<ExpertId>& experts)> foretell;
};

// What the state asks of the world around it; the actor, or a test.
class CoordinatorIo {
 public:
  virtual ~CoordinatorIo() = default;
  virtual void SendJob(RegionJobPtr job) = 0;       // an answer arrives by OnReply, or OnRegionDown, or never
  virtual void ReplaceRegion(RegionId region) = 0;  // jobs sent from now on go to a new actor
  virtual void ReadAhead(LayerId layer, std::span<const ExpertId> experts) = 0;  // they may be needed soon
  virtual void StepSoon() = 0;                            // call Step after the messages waiting now
  virtual void TickAfter(std::chrono::milliseconds) = 0;  // call OnTick once, then
};

class CoordinatorState {
 public:
  using Clock = std::chrono::steady_clock;

  // All references outlive the state. The state outlives every region that may hold one of its jobs.
  CoordinatorState(const ModelWeights& weights, WorkerPool& pool, const CoordinatorOptions& options,
                   SwarmCounters& counters);

  void set_io(CoordinatorIo* io) { io_ = io; }  // before anything else; null when the actor has gone

  void Submit(std::shared_ptr<Session> session);
  void Cancel(uint64_t session);
  void Resume(uint64_t session);  // its client has caught up
  void Step();
  void OnReply(const RegionReply& reply);
  void OnRegionDown(RegionId region, const std::string& reason);
  void OnTick(Clock::time_point now);
  // Ends every session: with an error (Abort), or as cancelled, refusing new ones (Shutdown).
  void Abort(const absl::Status& status);
  void Shutdown();

 private:
  struct Part {  // a session's rows in the current batch
    std::shared_ptr<Session> session;
    int32_t begin = 0, rows = 0;
    bool wants_logits = false;
  };
  struct Pending {
    RegionJobPtr job;
    Clock::time_point sent;
  };

  void Wake();
  void Admit();
  void Sweep();
  void Plan();
  void AddPart(const std::shared_ptr<Session>& session, int64_t rows);
  void Advance();
  void Ask(LayerId layer, std::vector<ExpertJob> jobs);
  void Predict();  // the expert layers after the one just routed
  void CheckPrediction(LayerId layer);
  void SendAttempt(RegionId region, int attempt, std::vector<ExpertJob> jobs);
  void Retry(RegionId region, const std::string& reason);
  void FailRows(const ExpertJob& job, const absl::Status& status);
  void FinishStep();
  void EndStep();

  template <typename F>
  auto Timed(F&& f) {  // counts the call as computation
    const auto start = Clock::now();
    struct Stop {
      CoordinatorState& state;
      Clock::time_point start;
      ~Stop() { state.step_compute_ += Clock::now() - start; }
    } stop{*this, start};
    return f();
  }

  const ModelConfig& config_;
  const CoordinatorOptions options_;
  SwarmCounters& counters_;
  Decoder decoder_;
  CoordinatorIo* io_ = nullptr;

  std::deque<std::shared_ptr<Session>> queue_;
  std::vector<std::shared_ptr<Session>> active_;
  size_t next_prefill_ = 0;  // whose prompt comes first, so that no prompt starves another
  bool step_wanted_ = false;
  bool chained_ = false;  // the wanted step follows another at once: its message counts as a hop of it
  bool tick_armed_ = false;
  bool shut_down_ = false;

  // The step in flight.
  bool in_step_ = false;
  bool has_prefill_ = false;
  std::vector<Part> parts_;
  std::vector<BatchRow> rows_;
  std::vector<Sampled> drawn_;
  int64_t layer_ = 0;  // the next to run
  // predicted_[a][layer]: what was guessed for its rows a + 1 expert layers before; empty: nothing.
  std::vector<std::vector<std::vector<ExpertId>>> predicted_;
  std::vector<ExpertId> expected_;
  // Share of rows guessed right of late, by a. Below kWorthReading guesses are made and counted, but not
  // announced: reading the wrong expert would keep the disk from the right one.
  static constexpr double kWorthReading = 0.25;
  std::vector<double> accuracy_;
  std::map<RegionId, Pending> pending_;
  uint64_t next_job_ = 1;
  int64_t step_hops_ = 0;
  Clock::time_point step_start_;
  std::chrono::nanoseconds step_compute_{0};
};

}  // namespace omni
