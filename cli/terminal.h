// What is said beside the results: on stderr, and only to a person.
#pragma once

#include <cstdint>
#include <string>

namespace omni::cli {

bool StdoutIsTerminal();
bool StderrIsTerminal();
// Whether stderr may be coloured: a terminal, NO_COLOR unset or empty, TERM not "dumb".
bool StderrHasColor();

// Figures as people read them: 41 MB, 1.2k, 12.3.
std::string HumanBytes(int64_t bytes);
std::string HumanCount(int64_t n);
std::string OneDecimal(double value);

int64_t ResidentBytes();      // of this process now; 0 if the system does not tell
int64_t PeakResidentBytes();  // the most there has been
int64_t MajorPageFaults();    // page reads from disk so far

// One line on the terminal's stderr that is written over and over; silent elsewhere. A line of the log clears
// it.
class StatusLine {
 public:
  explicit StatusLine(bool enabled);
  ~StatusLine() { Clear(); }
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  bool enabled() const { return enabled_; }
  void Show(const std::string& text);
  void Clear();

 private:
  bool enabled_;
};

// A note on stderr, one line, dimmed where colours are allowed.
void Note(const std::string& text);

}  // namespace omni::cli
