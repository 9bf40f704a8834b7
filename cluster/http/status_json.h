// What the status page is told, as JSON; docs/serve.md says what it means.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "cluster/http/recent_events.h"
#include "cluster/status_source.h"

namespace omni {

// A moment of a process. Counters are since its start: whoever wants rates has two moments.
struct StatusMoment {
  ProcessStatus now;
  bool ready = false;  // takes requests; if not, `why`
  std::string why;
  int64_t connections = 0;
  std::chrono::system_clock::time_point time;
  std::chrono::nanoseconds up{0};  // since the process's door was opened; never goes back
};

// What does not change is said with every moment: each is whole.
class StatusJson {
 public:
  // `name`: what clients call the model; `slots`: sessions that are stepped together.
  StatusJson(ProcessFacts facts, std::string name, int64_t slots);

  // One object on one line. `before`: the expert rows that were counted at the moment before; each layer's
  // `taken` is since then, or nothing if that is empty.
  std::string Text(const StatusMoment& moment, const std::vector<int64_t>& before) const;

 private:
  const ProcessFacts facts_;
  const std::string name_;
  const int64_t slots_;
};

std::string EventsJson(const std::vector<RecentEvent>& events);  // a list on one line

}  // namespace omni
