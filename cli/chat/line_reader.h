// The lines that a person types, or a program writes.
#pragma once

#include <memory>
#include <string>

namespace omni::cli {

class LineReader {
 public:
  // kInterrupted: Ctrl-C, and what had been typed is forgotten.
  enum class End { kLine, kNoMore, kInterrupted };

  virtual ~LineReader() = default;
  // The next line without its end. `prompt` is shown to a person alone.
  virtual End Read(const std::string& prompt, std::string& line) = 0;
};

// Of standard input: with editing and the history of this chat where that and standard output are a terminal
// which can do it, and otherwise as they come.
std::unique_ptr<LineReader> MakeLineReader();

}  // namespace omni::cli
