// The client's side of a conversation with an agent in the Agent Client Protocol.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "cluster/tasks/command_executor.h"

namespace omni {

struct AcpWork {
  std::string message;
  std::string session;  // to go on with; empty: a new one
  std::string folder;
};

// One prompt, from the greeting to its answer. What comes from the agent is not trusted: lines and what is
// kept of them are bounded.
class AcpSession final : public StreamTalk {
 public:
  AcpSession(TaskAttempt& attempt, const AgentConfig& agent, AcpWork work);

  std::optional<TaskOutcome> OnOut(std::string_view bytes) override;
  bool OnStop() override;

 private:
  using Json = nlohmann::json;
  static constexpr size_t kMostLine = 8 << 20, kMostResult = 256 << 10;

  std::optional<TaskOutcome> OnLine(std::string_view line);
  std::optional<TaskOutcome> OnAnswer(const Json& message);
  std::optional<TaskOutcome> OnUpdate(const Json& update);
  void OnAsked(const Json& message);
  // The answer to an agent's request; an error's text in `refused`.
  Json Permit(const Json& params) const;
  std::optional<Json> ReadFile(const Json& params, std::string& refused) const;
  std::optional<Json> WriteFile(const Json& params, std::string& refused) const;
  // In the session's folder, links followed; none: it is not.
  std::optional<std::string> Within(const Json& params, bool exists) const;

  void Ask(const char* method, Json params);
  void Say(const Json& message);
  std::optional<TaskOutcome> Prompt(const Json& result);

  TaskAttempt& attempt_;
  const AgentConfig& agent_;
  const AcpWork work_;
  enum class Step { kGreeting, kSession, kPrompt } step_ = Step::kGreeting;
  int64_t asked_ = -1;  // the number of the request that is under way
  std::string line_, session_, text_;
  bool loads_ = false;  // what it tells while it loads a session was told before
  bool cancelled_ = false;
};

}  // namespace omni
