#pragma once

#include "cluster/http/http_server.h"
#include "engine/base/json.h"

namespace omni {

// The value, and a line's end.
inline HttpAnswer JsonAnswer(const nlohmann::json& json, int status = 200) {
  HttpAnswer answer;
  answer.status = status;
  answer.body = JsonText(json) + "\n";
  return answer;
}

}  // namespace omni
