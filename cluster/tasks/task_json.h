// The messages of omni.tasks.v1 as JSON, with the names that their fields have in the .proto.
#pragma once

#include <string>

#include <absl/status/status.h>

namespace google::protobuf {
class Message;
}

namespace omni {

// Every field without presence, set or not. Of messages without Any, whose texts are UTF-8.
std::string TaskJson(const google::protobuf::Message& message);
// InvalidArgument: it is no such message; the text says where.
absl::Status ReadTaskJson(const std::string& json, google::protobuf::Message* message);

}  // namespace omni
