// The inside of cluster/inference_service.h: an answer on its way (inference_service.cc) and the calls that
// ask for answers and sessions (inference_calls.cc). Nobody else includes this, but a test of what is read.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "cluster/executor.h"
#include "cluster/grpc_errors.h"
#include "cluster/grpc_request.h"
#include "cluster/inference_service.h"
#include "cluster/session_retention.h"
#include "cluster/session_states.h"
#include "engine/text/stop_matcher.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "omni/inference/v1/kept.pb.h"

namespace omni {

namespace pb = ::omni::inference::v1;

// Where an answer goes. On the executor's thread.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  virtual void Write(const pb::GenerateResponse& response) = 0;  // valid until it is over
  virtual void End(const grpc::Status& status) = 0;
};

// A token that was drawn, and all that is told with it.
struct DrawnToken {
  TokenId token;
  std::optional<float> probability = {};  // none: it is told again
  std::vector<Sampled> alternatives = {};
  std::vector<ExpertId> experts = {};
  std::optional<TokenConfidence> confidence = {};
  TokenNotes notes = {};
};

// An answer under way, on the executor's thread.
struct Stream {
  AnswerSink* sink = nullptr;  // null: gRPC has done with it
  grpc::CallbackServerContext* context = nullptr;
  bool whole = false;  // it is asked for in one message
  GrpcRequest call;    // for the log
  bool writing = false, finishing = false;
  std::string caller, owner;                     // owner: what stands before ids of the caller's
  std::shared_ptr<CallerLimits::Permit> permit;  // null: there are no limits
  pb::GenerateRequest request;
  bool named() const { return !request.request_id().empty(); }
  std::string log_id() const { return owner + request.request_id(); }

  // Of the session that it goes on from.
  std::vector<TokenId> session;
  uint64_t revision = 0;

  HeldMemory memory;  // that it asks for

  std::vector<TokenId> prompt;  // what comes after the session
  std::vector<TokenId> answer;  // that has gone through the matcher
  std::unique_ptr<StopMatcher> matcher;
  bool ending = false, end_told = false;
  std::unique_ptr<SessionHandle> handle;
  std::deque<pb::GenerateResponse> out;

  std::vector<DrawnToken> drawn;  // and not been logged
  std::optional<GenerateResult> result;
  bool logging = false;  // the last of it is being logged
};
using StreamPtr = std::shared_ptr<Stream>;

struct InferenceService::Impl : public SessionRetention::Owner {
  Impl(InferenceOptions o, Backend& b, SessionLog& l, SavedSessions& s);
  ~Impl() override;

  bool InUse(const std::string& id) override;
  void Post(std::function<void()> f) override { executor.Post(std::move(f)); }

  // From any thread: an answer is asked for; `stream` has its sink, its context and its request. `allowed`
  // not OK: it is refused.
  void Ask(const StreamPtr& stream, const absl::Status& allowed);
  // Once the sink is gone; from any thread.
  void Forget(const StreamPtr& stream);

  // --- All on the executor's thread

  void Begin(const StreamPtr& stream);
  void BeginNamed(const StreamPtr& stream);
  void TakeUp(const StreamPtr& stream, const LoggedSession& logged);
  void FindSession(const StreamPtr& stream);
  void CheckFree(const StreamPtr& stream);
  void BeginNew(const StreamPtr& stream);
  void HoldMemory(const StreamPtr& stream, std::function<void()> then);
  void BeginLog(const StreamPtr& stream);
  void ReadPrompt(const StreamPtr& stream, std::vector<TokenId> known, const std::string& finished);
  void Go(const StreamPtr& stream, std::vector<TokenId> known, const std::string& finished);
  void Poll(const StreamPtr& stream);
  void Log();
  void OnLogged(const std::vector<std::pair<StreamPtr, size_t>>& logged, const absl::Status& status);
  void Show(const StreamPtr& stream, size_t tokens);
  void ShowToken(const StreamPtr& stream, const DrawnToken& drawn, bool tell);
  void End(const StreamPtr& stream, const std::string& reason, const Timings& timings);
  void Save(const StreamPtr& stream, const std::string& reason, const Timings& timings);
  void OnSaved(const StreamPtr& stream, const SavedSession& session, const absl::StatusOr<uint64_t>& saved,
               const std::string& reason, const Timings& timings);
  void ShowEnd(const StreamPtr& stream, const std::string& reason, const Timings& timings,
               const SavedSession* saved);
  void Write(const StreamPtr& stream);
  void OnWritten(const StreamPtr& stream, bool ok);
  void Finish(const StreamPtr& stream, const absl::Status& status, const ErrorDetails& details = {});

  absl::Status CheckModel(const std::string& name) const;

  const InferenceOptions options;
  Backend& backend;
  SessionLog& log;
  SavedSessions& saved;
  SessionStates states;
  InferenceCounters counters;
  SessionRetention retention;
  std::list<StreamPtr> streams;
  bool log_busy = false;
  std::deque<std::function<void()>> after_log;  // waits until nothing is being logged

  std::mutex open_mutex;
  std::condition_variable none_open;
  int64_t open = 0;  // answers

  std::unique_ptr<grpc::Service> rpc;
  Executor executor;
  Executor readers;  // of long prompts; goes first
};

// The calls; made by inference_calls.cc.
std::unique_ptr<grpc::Service> MakeInferenceCalls(InferenceService::Impl& impl);

// At most 64 characters of A-Z a-z 0-9 - _; `field` is for the message.
absl::Status CheckId(const char* field, const std::string& id);
// What is wrong with a request that has come, apart from ids that are not known.
absl::Status CheckGenerate(const pb::GenerateRequest& request);
SafetyChoice ToSafety(const pb::GenerateRequest& r);
MemoryChoice ToMemory(const pb::GenerateRequest& r);
AdapterChoice ToAdapter(const pb::GenerateRequest& r);
GenerateRequest ToRequest(const pb::GenerateRequest& r);  // without its prompt
pb::Session ToSession(const SavedSession& session, const std::string& owner);
std::string TokenBytes(const std::vector<TokenId>& tokens);  // a pb::KeptTokens
absl::StatusOr<std::vector<TokenId>> ReadTokens(const SavedSession& session);
void TellToken(const DrawnToken& drawn, const Tokenizer& tokenizer, pb::Token& token);
// Not the leader: who is, if that is known.
ErrorDetails NotLeading(InferenceBackend& backend);

}  // namespace omni
