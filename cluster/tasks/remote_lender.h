// Tasks of whichever node keeps them at present, for this one to do.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/task/task_engine.h"
#include "cluster/tasks/task_service.h"

namespace grpc {
class ChannelCredentials;
}

namespace omni {

struct RemoteLenderOptions {
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  // The address of whoever keeps them, or of who may know; empty: nobody is known. The number says the how
  // manieth question without an answer it is.
  std::function<std::string(size_t)> keeper;
  // While `own_keeps`, they are this one's. Null: never.
  TaskLender* own = nullptr;
  std::function<bool()> own_keeps = {};
  std::function<std::string()> address = {};             // where this node is asked
  std::function<std::vector<TaskPlaces>()> places = {};  // what this node does in all, as it tells the keeper
};

// A token is good with whoever keeps the tasks next, too. Of another's only what calls give is told, no news:
// listeners are `own`'s.
class RemoteLender final : public TaskLender {
 public:
  // What the options refer to outlives it.
  explicit RemoteLender(RemoteLenderOptions options);
  // Calls under way end with Unavailable. After StopTaking the keeper is told, for a second at most, that the
  // process ends, so that what a cancelled call was given goes back.
  ~RemoteLender() override;

  // From now on nothing is taken of another, and whoever waits for a task is told so: else what a node that
  // ends gives back would come to itself.
  void StopTaking();

  void Take(std::string worker, std::string node, std::vector<TaskOffer> offers,
            Done<std::optional<TaskAssignment>> done) override;
  void Await(std::string worker, std::string node, std::vector<TaskOffer> offers, TaskDuration most,
             Done<std::optional<TaskAssignment>> done) override;
  void Report(std::string token, TaskReport report, Done<TaskLedger::Told> done) override;
  void Succeed(std::string token, TaskReport last, std::string result, Told told) override;
  void Fail(std::string token, TaskReport last, std::string error, std::string message, Told told) override;
  void Return(std::string token, Told told) override;
  void AddListener(TaskListener* listener) override;
  void RemoveListener(TaskListener* listener) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
