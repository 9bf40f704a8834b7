// What is said beside the results: on stderr, and only to a person.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace omni::cli {

bool StdoutIsTerminal();
bool StderrIsTerminal();
// Whether stderr is a terminal on which a line can be erased: TERM is neither unset nor "dumb".
bool StderrCanErase();
// Whether stderr may be coloured: as above, and NO_COLOR is unset or empty.
bool StderrHasColor();

// Figures as people read them: 41 MB, 1.2k, 12.3.
std::string HumanBytes(int64_t bytes);
std::string HumanCount(int64_t n);
std::string OneDecimal(double value);

int64_t ResidentBytes();      // of this process now; 0 if the system does not tell
int64_t PeakResidentBytes();  // the most there has been
int64_t MajorPageFaults();    // page reads from disk so far

// The text on one line: line breaks become "; ", other control characters, which a terminal might obey, "?".
std::string OneLine(const std::string& text);

// As much of the text as fits into so many columns, an ellipsis at its end if that is not all. What is not
// UTF-8 or cannot be shown becomes "?"; characters of two columns count as two.
std::string FitColumns(const std::string& text, int columns);

// One line on the terminal's stderr that is written over and over, cut to its width; silent unless enabled,
// as StderrCanErase says. A line of the log clears it.
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

// Shows `what` on the line at once, and with the share that is done and the time left whenever the result is
// called, a few times a second at most. Empty if the line is not enabled. The line outlives it.
std::function<void(double share)> ShowShare(StatusLine& line, const std::string& what);

// A note on stderr, made one line, dimmed where colours are allowed.
void Note(const std::string& text);

}  // namespace omni::cli
