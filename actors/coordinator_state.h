// The coordinator without the actor: which sessions run, what a step computes, what is asked of the regions.
//
// One step takes a batch of rows (a token each of every decoding session, and blocks of prompts) through all
// layers, and those that end in a token through the stages after them. Between steps it looks at its sessions
// afresh:
//
//     Submit --> queue --> active --> layer 0 .. L-1 --> hidden --> project --> logits --> decide --> emit
//                                (requests out,
//                                 replies in)
//
// Where sessions have perspectives, these are rows of the same pass, or if it is the logits that ask for
// them, of a second pass through the layers before the decide stages.
//
// Every arrow may be waited for, none blocks: a part of the step that goes on elsewhere says when it is over
// (PartDone), a region answers by its link. A region that is lost or silent is asked again (region_calls.h);
// after the last attempt the sessions whose rows are concerned end with an error and the others go on.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/counters.h"
#include "actors/looks.h"
#include "actors/region_calls.h"
#include "actors/route_guess.h"
#include "actors/session.h"
#include "actors/waiting_sessions.h"
#include "engine/decode/decoder.h"
#include "engine/decode/token_stage.h"

namespace omni {

struct CoordinatorOptions {
  int max_active = 16;   // sessions stepped together
  int max_queued = 256;  // sessions waiting beyond those; of more, only some of others (waiting_sessions.h)
  int max_rows = 64;     // rows of a step
  int prefill_rows_beside_decode = 16;  // prompt rows of a step in which others decode: bounds their wait
  // What the states of all active sessions may take of memory. A session that does not fit waits; if not even
  // one fits, every session is refused. Nothing: no limit.
  std::optional<int64_t> state_bytes;
  RegionCallOptions calls;
  // Expert layers ahead whose experts are guessed and announced to their regions; 0: none, and none counted.
  // Where routes come from the tokens before, nothing is guessed: if this is not 0, what is known of the next
  // token's expert is announced when a layer is over, and every layer's expert when its token starts.
  int predict_ahead = 0;
  // On whose threads the tokens of a step are drawn; it outlives the coordinator. Null: on the coordinator's.
  WorkerPool* pool = nullptr;
  // Of the model, for what sessions with perspectives tell of their tokens; outlives the coordinator. Null:
  // none.
  const Calibration* calibration = nullptr;
  // Between hidden state and token (token_stage.h), in this order. They outlive the coordinator.
  std::vector<TokenStage*> project, decide;
};

// When the state is called again; the actor, or a test.
class StepTimer {
 public:
  virtual ~StepTimer() = default;
  virtual void StepSoon() = 0;                                     // call Step after the messages waiting now
  virtual void TickAfter(std::chrono::milliseconds) = 0;           // call OnTick once, then
  virtual void WakeAt(std::chrono::steady_clock::time_point) = 0;  // call OnWake once, then
  // Call OnPartDone. Thread-safe: called by whoever ends a part of the step that went on elsewhere.
  virtual void PartDone() = 0;
};

class CoordinatorState : private RegionCalls::Owner {
 public:
  using Clock = std::chrono::steady_clock;

  // All references outlive the state.
  CoordinatorState(const ModelConfig& config, Decoder& decoder, const CoordinatorOptions& options,
                   SwarmCounters& counters);

  // Before anything else; links are by region. Disconnect lets go of both: nothing may be called after it.
  void Connect(StepTimer* timer, std::vector<std::shared_ptr<RegionLink>> links);
  void Disconnect() { Connect(nullptr, {}); }

  void Submit(std::shared_ptr<Session> session);
  void Cancel(SessionId session);
  void Resume(SessionId session);  // its client has caught up
  // Of an active session, as it is between two steps: now, or when the present step is over.
  void Snapshot(SessionId session, SnapshotPromise promise);
  void Step();
  void OnPartDone();
  void OnReply(const RegionReply& reply);
  void OnLost(RegionId region, const std::string& reason);
  void OnMoved(RegionId region, uint64_t epoch);
  void OnTick(Clock::time_point now);
  void OnWake(Clock::time_point now);  // for the links
  // Ends every session: with an error (Abort), or as cancelled, refusing new ones (Shutdown).
  void Abort(const absl::Status& status);
  void Shutdown();

 private:
  enum class Phase { kLayer, kExperts, kHidden, kProject, kLogits, kDecide, kEmit };
  struct Part {  // a session's rows in the current batch
    std::shared_ptr<Session> session;
    int32_t begin = 0, rows = 0;
    bool wants_logits = false;
    bool reads_along = false;      // each of its rows goes through the stages, those of prompts too
    size_t token_row = 0;          // if it wants them
    std::vector<ExpertId> routes;  // by expert layer, of the last row, if they are to be told
  };
  struct Question {
    SessionId session;
    SnapshotPromise promise;
  };

  std::shared_ptr<Session> Find(SessionId session) const;
  void Wake();
  int64_t BytesOf(const Session& session) const;
  bool Fits(size_t sessions) const;
  Part* PartOf(int32_t row);
  void Admit();
  void Sweep();
  void Plan();
  void PlanPrompts(const std::vector<std::shared_ptr<Session>>& prompts, int64_t room);
  void AddPart(const std::shared_ptr<Session>& session, int64_t rows);
  void AddLooks();
  void AddLookRows(const Looks::Rows& look);

  void Run();  // on with the step, until something is waited for
  template <typename F>
  bool Start(F&& part);  // false: it goes on elsewhere, and Run must return
  bool RunLayer();
  void CountRoutes(LayerId layer);
  bool Recover(const absl::Status& error);
  void FailOrRepeat(const absl::Status& status);
  void RecomputeLostStates();
  bool RunStages(const std::vector<TokenStage*>& stages, std::span<TokenRow> rows, Phase next);
  void ReadAhead(LayerId layer);
  void AnnounceRoutes();
  void AnnounceNext(LayerId layer);
  void Announce(LayerId layer, Foresight foresight);
  void KeepRoutes();
  void MakeTokenRows();
  void TakeHidden();
  absl::Status TakeLogits();
  bool LookAgain();
  void ConcludeLooks();
  void ReleaseLooks();
  void Sample();
  std::vector<Sampled> Alternatives(const Part& part, const TokenRow& row);
  void Count(const TokenNotes& notes);
  void FailIfUnread(const Part& part);
  void Emit();
  void OnOutput(const ExpertJob& job, const float* out) override;
  void OnFailed(const ExpertJob& job, const absl::Status& status) override;
  void FailParts(const absl::Status& status);
  void EndStep();
  void ArmWake();
  void Answer();  // the questions that wait

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
  const int64_t bytes_per_session_;
  SwarmCounters& counters_;
  Decoder& decoder_;
  RegionCalls calls_;
  RouteGuess guess_;
  StepTimer* timer_ = nullptr;

  WaitingSessions queue_;
  std::vector<std::shared_ptr<Session>> active_;
  std::vector<Question> questions_;
  size_t next_prefill_ = 0;  // whose prompt comes first, so that none starves another
  bool step_wanted_ = false;
  bool chained_ = false;  // the wanted step follows another at once: its message counts as a hop of it
  bool tick_armed_ = false, wake_armed_ = false;
  bool shut_down_ = false;

  // The step in flight.
  bool in_step_ = false;
  bool part_running_ = false;        // elsewhere: nothing of the decoder or the stages may be touched
  bool given_up_ = false;            // to end when the part that runs is over
  bool states_lost_ = false;         // those that were elsewhere
  bool stages_read_states_ = false;  // any of them
  bool has_prefill_ = false;
  bool has_policies_ = false;  // of any row
  bool tells_routes_ = false;  // of any part
  bool embeds_ = false;        // any part
  Phase phase_ = Phase::kLayer;
  int64_t layer_ = 0;  // the present one
  size_t stage_ = 0;   // of the present kind
  std::vector<Part> parts_;
  std::vector<BatchRow> rows_;
  std::vector<int64_t> positions_;    // by row
  std::vector<TokenRow> token_rows_;  // the sessions' own, then those of perspectives
  std::vector<int64_t> outputs_;      // of the decoder, by token row
  size_t own_rows_ = 0;               // of token_rows_
  Looks looks_;
  // Whose the rows of perspectives are, and where they begin, by three rows.
  std::vector<size_t> look_parts_;
  std::vector<int32_t> look_rows_;
  bool second_pass_ = false;         // of perspectives alone
  size_t first_pass_rows_ = 0;       // before it
  std::vector<TokenRow> kept_rows_;  // the sessions' own in a second pass, and what they point to
  std::vector<float> kept_hidden_, kept_logits_;
  std::vector<ExpertId> known_;
  int64_t step_hops_ = 0;
  Clock::time_point step_start_;
  std::chrono::nanoseconds step_compute_{0};
};

}  // namespace omni
