#include "cluster/tasks/task_json.h"

#include <absl/strings/str_cat.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

namespace omni {

namespace protobuf = ::google::protobuf;

std::string TaskJson(const protobuf::Message& message) {
  protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  // Of such messages this does not fail.
  protobuf::util::MessageToJsonString(message, &json, options).ok();
  return json;
}

absl::Status ReadTaskJson(const std::string& json, protobuf::Message* message) {
  const auto parsed = protobuf::util::JsonStringToMessage(json, message);
  if (parsed.ok()) return absl::OkStatus();
  const auto why = parsed.message();
  return absl::InvalidArgumentError(absl::StrCat("this is no ", message->GetDescriptor()->full_name(), ": ",
                                                 std::string(why.data(), why.size())));
}

}  // namespace omni
