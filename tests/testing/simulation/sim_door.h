// The way of tokens from the swarm over the session log to clients, as cluster/inference_service.cc has it,
// without gRPC: whatever is drawn is logged before it is shown, all streams' in one write; a request is taken
// up again by its id.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "actors/generate.h"
#include "actors/session_channel.h"
#include "cluster/session_log.h"
#include "tests/testing/simulation/client.h"

namespace omni::simulation {

// A session under way; gone: it is cancelled.
class Answer {
 public:
  virtual ~Answer() = default;
  virtual SessionChannel::Taken Poll() = 0;
};

class SimDoor : public Door {
 public:
  using Submit = std::function<absl::StatusOr<std::unique_ptr<Answer>>(GenerateRequest request,
                                                                       std::function<void()> notify)>;

  SimDoor(Process& home, SessionLog& log, std::function<bool()> serving, Submit submit)
      : home_(home),
        log_(log),
        serving_(std::move(serving)),
        submit_(std::move(submit)),
        executor_(std::make_unique<Mailbox>(home)) {}

  void Generate(Client& client, int64_t attempt, ClientRequest request) override;
  void Leave(Client& client, int64_t attempt) override;
  void EndAll(const absl::Status& status);

 private:
  struct Stream {
    Client* client;
    int64_t attempt;
    ClientRequest request;
    uint64_t tokens = 0;
    bool finishing = false, end_told = false, logging = false;
    std::unique_ptr<Answer> answer;
    std::vector<TokenId> drawn;
    std::optional<GenerateResult> result;
  };
  using StreamPtr = std::shared_ptr<Stream>;

  void Post(std::function<void()> f) { executor_->Post(std::move(f)); }
  void Begin(const StreamPtr& stream);
  void BeginNamed(const StreamPtr& stream);
  void Go(const StreamPtr& stream, std::vector<TokenId> known, const std::string& finished);
  void Poll(const StreamPtr& stream);
  void Log();
  void OnLogged(const std::vector<std::pair<StreamPtr, size_t>>& logged, const absl::Status& status);
  void Show(const StreamPtr& stream, size_t tokens);
  void ShowToken(const StreamPtr& stream, TokenId token, bool tell);
  void ShowEnd(const StreamPtr& stream);
  void Finish(const StreamPtr& stream, const absl::Status& status);
  void ToClient(const StreamPtr& stream, std::function<void(Client&, int64_t attempt)> what);

  Process& home_;
  SessionLog& log_;
  const std::function<bool()> serving_;
  const Submit submit_;
  std::list<StreamPtr> streams_;
  bool log_busy_ = false;
  std::deque<std::function<void()>> after_log_;
  std::shared_ptr<Time> last_ = std::make_shared<Time>();
  std::unique_ptr<Mailbox> executor_;  // goes first
};

}  // namespace omni::simulation
