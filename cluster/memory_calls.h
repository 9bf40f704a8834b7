// What the calls of omni.memory.v1.Memory do: messages in, messages out, whoever carries them. All of them
// may wait for the disk.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/status.h>

#include "actors/memory.h"
#include "cluster/memory_request.h"
#include "omni/memory/v1/memory.pb.h"

namespace omni {

inline constexpr int64_t kMostAssociationBytes = 16 << 20;  // of one message of kMostAssociations

// `owner`: who asks. Errors: the memory's, and InvalidArgument for a message that asks for nothing that can
// be done; after one, `response` means nothing.
absl::Status AddCall(Memory& memory, const std::string& owner, const memory::v1::AddRequest& request,
                     memory::v1::AddResponse& response);
absl::Status AskCall(Memory& memory, const std::string& owner, const memory::v1::AskRequest& request,
                     memory::v1::AskResponse& response);
absl::Status StatsCall(Memory& memory, const std::string& owner, memory::v1::StatsResponse& response);
absl::Status ForgetCall(Memory& memory, const std::string& owner, const memory::v1::ForgetRequest& request,
                        memory::v1::ForgetResponse& response);

// One import: its messages one after the other, until one fails.
class ImportCall {
 public:
  explicit ImportCall(std::string owner) : owner_(std::move(owner)) {}

  // All of the message's or none.
  absl::Status Take(Memory& memory, const memory::v1::AddRequest& request);
  uint64_t added() const { return added_; }  // by all messages
  // Where they are added, once there was a message.
  const std::string& scope() const { return scope_; }

 private:
  const std::string owner_;
  std::string scope_;  // the first message's
  uint64_t added_ = 0;
};

}  // namespace omni
