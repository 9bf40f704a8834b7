// The log of a run, RUN/log.jsonl: a JSON object a line.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

#include "engine/base/open_file.h"

namespace omni::train {

class RunLog {
 public:
  // Begun if it is not there. Held until the object goes: a second trainer of the same run is refused.
  static absl::StatusOr<RunLog> Open(const std::string& path);

  // For a run that goes on after `step`: what an earlier process wrote of later steps, which now come again,
  // is cut off, as is a last line that was not written to its end. Step 0: everything is.
  absl::Status Cut(int64_t step);

  // Adds the object as a line. Members that are numbers but not finite, which JSON cannot say, are left out.
  absl::Status Append(nlohmann::json object);

 private:
  RunLog(std::string path, FileDescriptor file) : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  FileDescriptor file_;
};

}  // namespace omni::train
