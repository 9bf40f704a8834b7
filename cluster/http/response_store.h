// Responses that their callers may read, go on from and delete: in memory alone, and bounded, whatever is
// asked.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cluster/http/chat_template.h"

namespace omni {

struct StoredResponse {
  std::string json;                   // as it was answered
  std::vector<ChatMessage> messages;  // the conversation, the answer included
};

// Thread-safe. Nobody sees another caller's. When it is full, the oldest of the caller whose responses take
// the most is forgotten, so that nobody's work makes another's go.
class ResponseStore {
 public:
  explicit ResponseStore(size_t most_bytes = 64 << 20) : most_bytes_(most_bytes) {}

  void Put(const std::string& caller, const std::string& id, StoredResponse response);
  std::shared_ptr<const StoredResponse> Find(const std::string& caller, const std::string& id) const;
  bool Remove(const std::string& caller, const std::string& id);  // whether it was there
  size_t bytes() const;

 private:
  struct Kept {
    std::string id;
    size_t bytes = 0;
    std::shared_ptr<const StoredResponse> response;
  };
  struct Caller {
    std::list<Kept> oldest_first;
    std::map<std::string, std::list<Kept>::iterator> by_id;
    size_t bytes = 0;
  };
  void Forget(std::map<std::string, Caller>::iterator caller, std::list<Kept>::iterator kept);

  const size_t most_bytes_;
  mutable std::mutex mutex_;
  std::map<std::string, Caller> callers_;  // those with responses
  size_t bytes_ = 0;
};

}  // namespace omni
