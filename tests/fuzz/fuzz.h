// What a fuzz target is: one NAME_fuzz.cc that defines LLVMFuzzerTestOneInput and Seeds, linked either with
// libFuzzer (OMNI_FUZZ) or with driver.cc, which makes a test of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace omni::fuzz {

// Defined by each target: inputs from which mutation begins. Most are valid; some are what once failed.
std::vector<std::string> Seeds();
// Defined by each target: how many mutated inputs a release build tries in two or three seconds.
extern const int kRuns;
// What one input may have allocated at any one moment, beside 64 bytes for each of its own. Defined by
// targets to which driver.cc's 4 MiB are too little, whatever the input is.
extern const size_t kBaseBytes __attribute__((weak));

// Ends the program, with `what` on stderr, unless it holds.
void Require(bool holds, std::string_view what);
// An error that a person can be shown: a line of printable text, however hostile the input that it speaks of.
void RequireReadable(const absl::Status& error);

inline std::string_view View(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// `bytes` with its last eight replaced by the XXH3-64 of those before, as the formats here end. Shorter ones
// stay.
std::string WithChecksum(std::string bytes);

// A file in memory, for what reads only files. It has a name in a folder, so that it can be replaced.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  const std::string& path() const { return path_; }
  std::string Read() const;

 private:
  std::string path_;
};

// Takes an input apart, front to back; zeros and empty strings once it is used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(View(data, size)) {}
  std::string_view Bytes(size_t n);
  uint8_t Byte() {
    const std::string_view byte = Bytes(1);
    return byte.empty() ? uint8_t{0} : static_cast<uint8_t>(byte[0]);
  }
  template <typename T>
  T Value() {
    T value{};
    const std::string_view bytes = Bytes(sizeof(T));
    if (bytes.size() == sizeof(T)) __builtin_memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

}  // namespace omni::fuzz
