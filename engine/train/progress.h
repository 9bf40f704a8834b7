// What a run says on stderr while it trains.
#pragma once

#include <string>

namespace omni::train {

// On a terminal one line that is written over, cut to the terminal's width; elsewhere, and on a terminal that
// cannot go back in a line (TERM=dumb), a line each time.
class Progress {
 public:
  Progress();
  ~Progress();  // what is shown stays, on a line of its own
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Show(const std::string& line);  // ASCII
  void Say(const std::string& line);   // a line that stays

 private:
  bool live_;
  bool shown_ = false;
};

}  // namespace omni::train
