// Runs a program as a user would and keeps what it said.
#pragma once

#include <sys/types.h>

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
  bool terminal = false;        // stderr is a terminal; what it shows is in `err`
  int signal_after_output = 0;  // sent once the first byte has come on stdout
};

// argv[0] is the program's path. Blocks until the program has ended and its pipes are closed.
Output RunProcess(const std::vector<std::string>& argv, const ProcessOptions& options = {});

}  // namespace omni::testing
