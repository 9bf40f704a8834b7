// Tasks that the served model does: a text is gone on with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "actors/task/task.h"
#include "cluster/inference_backend.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

struct ModelExecutorOptions {
  std::string model_name;  // by which it may be asked for; empty: only as whichever is served
  int slots = 4;
  int64_t most_tokens = 1 << 20;  // of an answer
  TaskLimits limits = {};
};

// Output is the stream "text", the result all of it. Each token is a piece of the checkpoint, and what an
// attempt goes on with is what would have come: the text in all is that of a task that nothing happened to,
// as long as the model is the same (else "model-changed"). A text that a result cannot hold ends there, as at
// its most tokens. Sessions are the caller's, and take turns with its others.
class ModelExecutor final : public TaskExecutor {
 public:
  // The backend outlives it.
  ModelExecutor(InferenceBackend& backend, ModelExecutorOptions options);

  std::vector<Offer> offers() const override;
  int slots() const override { return options_.slots; }
  bool ready() const override { return backend_.Serving().ok(); }
  TaskOutcome Run(TaskAttempt& attempt) override;

 private:
  InferenceBackend& backend_;
  const ModelExecutorOptions options_;
};

}  // namespace omni
