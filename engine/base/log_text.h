// The log's text: what stands in a line, whatever writes it.
#pragma once

#include <cstddef>
#include <string>

#include "engine/base/log_output.h"

namespace omni {

// What stands in a line of that form after the level, and for kJson after the time and the level's comma; the
// object's closing brace included. At most `most_bytes`, which must be at least 1000: longer texts are cut,
// with three dots.
std::string LogPayload(LogFormat format, const LogRecord& record, size_t most_bytes);

}  // namespace omni
