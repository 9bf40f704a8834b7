// The Agent2Agent protocol's messages as JSON: version 1.0, which is protobuf's own, and 0.3.
#pragma once

#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <google/protobuf/message.h>
#include <third_party/a2a.pb.h>
#include <nlohmann/json.hpp>

namespace omni {

namespace a2a = ::lf::a2a::v1;

inline constexpr size_t kA2aJsonDepth = 32;

// Fields that are not known are left out. A2aStatus's errors.
absl::StatusOr<nlohmann::json> ParseA2aJson(const std::string& text);
absl::Status ReadA2aJson(const nlohmann::json& json, google::protobuf::Message* message);

nlohmann::json A2aJson(const google::protobuf::Message& message);
nlohmann::json A2aJson(const a2a::ListTasksResponse& response);  // with all of its fields, whatever they are

// Of 0.3: the params of message/send, and a task as its result.
absl::StatusOr<a2a::SendMessageRequest> ReadLegacyMessage(const nlohmann::json& params);
nlohmann::json LegacyTaskJson(const a2a::Task& task);
// Of 0.3: the params of tasks/pushNotificationConfig/…, as 1.0 has them, and what they set.
absl::StatusOr<nlohmann::json> ReadLegacyPush(const nlohmann::json& params);
nlohmann::json LegacyPushJson(const a2a::TaskPushNotificationConfig& config);

}  // namespace omni
