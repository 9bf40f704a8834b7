// Results: what goes to standard output, and nothing else does.
#pragma once

#include <string_view>

#include <absl/status/status.h>
#include <absl/strings/str_format.h>

namespace omni::cli {

// To be called first. Whoever starts a program with a standard stream closed would otherwise have the first
// file that is opened be that stream; and a reader that goes away must be an error, not a death without a
// word.
void PrepareOutput();

// Prints to standard output, which is buffered. An error is kept for FinishOutput; what is printed after it
// is dropped.
void Print(std::string_view text);
template <typename... Args>
void PrintF(const absl::FormatSpec<Args...>& format, const Args&... args) {
  Print(absl::StrFormat(format, args...));
}
// Writes out what is buffered; false if that, or anything before it, failed: then there is no use in going
// on.
bool FlushOutput();

// To be called last. Whether everything that was printed has been written.
absl::Status FinishOutput();

}  // namespace omni::cli
