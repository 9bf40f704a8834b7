#include "cluster/http/response_store.h"

#include <algorithm>
#include <utility>

namespace omni {
namespace {

constexpr size_t kOfEach = 512;  // bytes, about: of a response and of a message beside their texts

size_t BytesOf(const StoredResponse& response) {
  size_t bytes = kOfEach + response.json.size();
  for (const ChatMessage& message : response.messages)
    bytes += sizeof message + message.role.size() + message.content.size();
  return bytes;
}

}  // namespace

void ResponseStore::Put(const std::string& caller, const std::string& id, StoredResponse response) {
  const size_t bytes = BytesOf(response) + caller.size() + id.size();
  if (bytes > most_bytes_) return;
  auto kept = std::make_shared<const StoredResponse>(std::move(response));
  std::lock_guard lock(mutex_);
  Caller& mine = callers_[caller];
  mine.oldest_first.push_back({id, bytes, std::move(kept)});
  mine.by_id[id] = std::prev(mine.oldest_first.end());
  mine.bytes += bytes;
  bytes_ += bytes;
  while (bytes_ > most_bytes_) {
    const auto largest = std::max_element(callers_.begin(), callers_.end(), [](const auto& a, const auto& b) {
      return a.second.bytes < b.second.bytes;
    });
    Forget(largest, largest->second.oldest_first.begin());
  }
}

std::shared_ptr<const StoredResponse> ResponseStore::Find(const std::string& caller,
                                                          const std::string& id) const {
  std::lock_guard lock(mutex_);
  const auto mine = callers_.find(caller);
  if (mine == callers_.end()) return nullptr;
  const auto it = mine->second.by_id.find(id);
  return it == mine->second.by_id.end() ? nullptr : it->second->response;
}

bool ResponseStore::Remove(const std::string& caller, const std::string& id) {
  std::lock_guard lock(mutex_);
  const auto mine = callers_.find(caller);
  if (mine == callers_.end()) return false;
  const auto it = mine->second.by_id.find(id);
  if (it == mine->second.by_id.end()) return false;
  Forget(mine, it->second);
  return true;
}

size_t ResponseStore::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

void ResponseStore::Forget(std::map<std::string, Caller>::iterator caller, std::list<Kept>::iterator kept) {
  bytes_ -= kept->bytes;
  caller->second.bytes -= kept->bytes;
  caller->second.by_id.erase(kept->id);
  caller->second.oldest_first.erase(kept);
  if (caller->second.oldest_first.empty()) callers_.erase(caller);
}

}  // namespace omni
