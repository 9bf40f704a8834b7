// Somebody who wants an answer, keeps what was shown, and takes it up again wherever it goes on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "tests/testing/simulation/world.h"

namespace omni::simulation {

struct ClientRequest {
  std::string id;
  std::vector<TokenId> prompt;
  int64_t max_tokens = 0;
  uint64_t have = 0;  // tokens of the answer that need not be told again
};
// As it stands in the session log.
std::string ToText(const ClientRequest& request);
ClientRequest ParseRequest(const std::string& text);

class Client;

// Where answers are given. What it tells a client comes after some time, by At.
class Door {
 public:
  virtual ~Door() = default;
  virtual void Generate(Client& client, int64_t attempt, ClientRequest request) = 0;
  virtual void Leave(Client& client, int64_t attempt) = 0;
};

class Client : public Process {
 public:
  // A coordinator's process, and its door as long as it is up.
  struct Place {
    Process* process;
    std::function<Door*()> door;
  };

  Client(World& world, std::string name, std::vector<Place> places, int64_t prompt, int64_t tokens);

  bool done() const { return done_; }
  size_t have() const { return shown_.size(); }
  bool may_lose = false;       // what was shown may be lost: then it begins afresh
  bool impatient = false;      // it may leave at once and ask again
  void GoAway(Duration time);  // and comes back

  // --- From a door, of that attempt; dropped if there is a later one
  void OnToken(int64_t attempt, uint64_t number, TokenId token);
  void OnFinished(int64_t attempt, uint64_t tokens);
  void OnError(int64_t attempt, const absl::Status& status);
  void OnProcessGone(const Process& process);

 private:
  void OnStart() override { Ask(); }
  void OnKill(bool) override {}
  void Ask();
  void AskAgain(Duration wait);
  void Watch(int64_t attempt, size_t had);

  const std::vector<Place> places_;
  const std::vector<TokenId> prompt_;
  const std::vector<TokenId> whole_;
  std::vector<TokenId> shown_;
  int64_t attempt_ = 0;
  size_t place_ = 0;
  bool done_ = false;
};

}  // namespace omni::simulation
