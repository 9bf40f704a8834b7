// Serves the Agent2Agent protocol, with an executor of "model" that says each text again in pieces, until its
// standard input ends. A text "wait" is not done before it is cancelled; "fail" fails.
//
//     a2a_server     says: listening on HOST:PORT

#include "tests/cluster/tasks/a2a_server.h"

#include <cstdio>
#include <functional>
#include <iostream>
#include <string>

#include "omni/tasks/v1/tasks.pb.h"

namespace omni::testing {
namespace {

// Takes one task after another, until the engine goes.
class Echo final : public TaskListener {
 public:
  explicit Echo(A2aServer& server) : engine_(server.engine()) {
    engine_.AddListener(this);
    OnQueued();
  }
  ~Echo() override { engine_.RemoveListener(this); }

  void OnQueued() override {
    engine_.Take("w", "n1", {{"model", "*"}, {"model", ""}}, [this](auto taken) {
      if (!taken.ok() || !taken->has_value()) return;
      Do(**taken);
      OnQueued();
    });
  }
  void OnEnded(const std::vector<std::string>& leases) override {
    for (const std::string& token : leases)
      engine_.Fail(token, {}, kErrorCancelled, "it was cancelled", [](const absl::Status&) {});
  }

 private:
  void Do(const TaskAssignment& task) {
    tasks::v1::Work work;
    work.ParseFromString(task.work.input);
    const std::string& text = work.model().prompt();
    if (text == "wait") return;
    if (text == "fail")
      return engine_.Fail(task.token, {}, kErrorInvalid, "as was asked", [](const auto&) {});
    TaskReport report;
    for (const char c : text) report.items.push_back({TaskEventKind::kOutput, "text", std::string(1, c)});
    engine_.Succeed(task.token, report, text, [](const auto&) {});
  }
  TaskEngine& engine_;
};

int Main() {
  A2aServer server;
  const Echo echo(server);
  std::printf("listening on %s\n", server.address().c_str());
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
  }
  return 0;
}

}  // namespace
}  // namespace omni::testing

int main() { return omni::testing::Main(); }
