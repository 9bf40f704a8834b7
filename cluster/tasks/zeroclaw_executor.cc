#include "cluster/tasks/zeroclaw_executor.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/tasks/command_executor.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {
namespace {

constexpr size_t kMostMessage = 100 << 10;  // an argument; the system takes 128 KiB
constexpr size_t kMostResult = 256 << 10;

class TextTalk final : public StreamTalk {
 public:
  using StreamTalk::StreamTalk;
  std::optional<TaskOutcome> OnOut(std::string_view bytes) override {
    text_ += bytes.substr(0, kMostResult - std::min(kMostResult, text_.size()));
    return StreamTalk::OnOut(bytes);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

ZeroclawExecutor::ZeroclawExecutor(std::string name, AgentConfig agent, const ChildPlace& place)
    : name_(std::move(name)), agent_(std::move(agent)), place_(place) {}

std::vector<TaskExecutor::Offer> ZeroclawExecutor::offers() const {
  return {{{"agent", name_}, agent_.program.description}};
}

TaskOutcome ZeroclawExecutor::Run(TaskAttempt& attempt) {
  omni::tasks::v1::Work work;
  if (!work.ParseFromString(attempt.task().work.input) || !work.has_agent() || work.agent().agent() != name_)
    return TaskOutcome::Failed(kErrorInvalid, "the task's work is not this agent's");
  const std::string& message = work.agent().message();
  if (!work.agent().session().empty())
    return TaskOutcome::Failed(kErrorInvalid, "ZeroClaw's command line cannot go on with a session");
  if (message.empty() || message.size() > kMostMessage || message.find('\0') != std::string::npos)
    return TaskOutcome::Failed(kErrorInvalid, absl::StrCat("a message for ZeroClaw has 1 to ", kMostMessage,
                                                           " bytes, and no zero byte"));
  const auto own = WorkFolder::Make(place_);
  if (!own.ok()) return TaskOutcome::Failed(kErrorNotStarted, std::string(own.status().message()));
  ChildSpec spec;
  spec.argv = agent_.program.argv;
  for (const std::string& word :
       {std::string("agent"), std::string("-a"), agent_.alias, std::string("-m"), message})
    spec.argv.push_back(word);
  if (!agent_.provider.empty()) spec.argv.insert(spec.argv.end(), {"-p", agent_.provider});
  if (!agent_.model.empty()) spec.argv.insert(spec.argv.end(), {"--model", agent_.model});
  spec.environment = ChildEnvironment(agent_.program, attempt.task(), (*own)->path());
  spec.folder = agent_.workspace.empty() ? (*own)->path() : agent_.workspace;
  spec.watched = (*own)->path();
  spec.input = "";
  spec.limits = agent_.program.limits;
  TextTalk talk(attempt, agent_.program, "text");
  const absl::StatusOr<ChildRun> run = RunChild(attempt, place_, spec, talk);
  return ChildOutcome(run, talk.last(), talk.text());
}

}  // namespace omni
