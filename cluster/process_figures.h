// What the system says of this process.
#pragma once

#include <cstdint>

namespace omni {

struct ProcessFigures {
  int64_t resident_bytes = 0, virtual_bytes = 0;
  double cpu_seconds = 0;    // of user and system
  double start_seconds = 0;  // when it was started, since 1970
  int64_t most_files = 0, threads = 0;
};
// What the system does not tell is 0.
ProcessFigures ThisProcess();
int64_t CountOpenFiles();  // takes longer the more there are

}  // namespace omni
