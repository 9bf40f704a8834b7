// The task engine of a node that leads from time to time: where several may coordinate, each leadership has
// an engine of its own, over what the one before has left in the coordination store.
#pragma once

#include <memory>

#include <absl/status/status.h>

#include "actors/task/task_engine.h"

namespace omni {

// Thread-safe. While there is no engine, calls end with Unavailable, and so does all reading; listeners are
// those of every engine in turn.
class LeadingEngine : public TaskEngine {
 public:
  static std::unique_ptr<LeadingEngine> Make(TaskEngine::Options of_each = {});

  // Ends the engine there is, and begins another one over these records. On a thread that may wait, but in no
  // callback of the engine's. Errors: TaskEngine::Start's; there is none then.
  virtual absl::Status Lead(std::unique_ptr<RecordStore> records) = 0;
  // Ends it. As Lead.
  virtual void Retire() = 0;
  virtual bool leads() const = 0;  // there is one
};

}  // namespace omni
