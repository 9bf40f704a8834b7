// Runs a program as a user would and keeps what it said.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <map>
#include <string>
#include <vector>

namespace omni::testing {

struct Output {
  int exit_code = -1;  // 128 + signal if one ended it
  std::string out, err;
};

struct ProcessOptions {
  std::map<std::string, std::string> env;  // added to a small fixed environment
  std::string stdin_text;
  bool terminal = false;                      // stderr is a terminal; what it shows is in `err`
  int columns = 0;                            // of that terminal; 0: unknown
  int signal_after_output = 0;                // sent once the first byte has come on stdout
  std::chrono::milliseconds signal_after{0};  // with `signal`: sent so long after the start
  int signal = 0;

  enum class Stdout { kRead, kClosed, kWithoutReader, kFile };
  Stdout stdout_to = Stdout::kRead;
  std::string stdout_file;  // of kFile, opened to write

  uid_t user = 0;                   // 0: this one
  rlim_t most_processes = 0;        // and threads, of the user; 0: no limit but this process's own
  rlim_t most_open_files = 0;       // 0: no limit but this process's own
  std::string group;                // a control group to join: its folder
  bool one_core = false;            // may run on one processor only
  bool stdin_stays_open = false;    // until the program has ended
  std::chrono::seconds limit{120};  // then the program is killed, and `err` says so
};

// argv[0] is the program's path. Blocks until the program has ended and its pipes are closed.
Output RunProcess(const std::vector<std::string>& argv, const ProcessOptions& options = {});

}  // namespace omni::testing
