#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include <xxhash.h>

namespace omni::fuzz {

void Require(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: does not hold: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

void RequireReadable(const absl::Status& error) {
  constexpr size_t kMaxMessageBytes = 1000;
  const auto control = [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; };
  const absl::string_view message = error.message();
  Require(!error.ok() && !message.empty(), "an error says something");
  Require(message.size() <= kMaxMessageBytes, "an error is short");
  Require(std::none_of(message.begin(), message.end(), control),
          "an error is one line without control characters");
}

std::string WithChecksum(std::string bytes) {
  if (bytes.size() < sizeof(uint64_t)) return bytes;
  const size_t covered = bytes.size() - sizeof(uint64_t);
  const uint64_t checksum = XXH3_64bits(bytes.data(), covered);
  std::memcpy(bytes.data() + covered, &checksum, sizeof checksum);
  return bytes;
}

MemoryFile::MemoryFile(std::string_view bytes) {
  for (const char* folder : {"/dev/shm", "/tmp"}) {
    path_ = std::string(folder) + "/omni-fuzz-XXXXXX";
    const int fd = mkostemp(path_.data(), O_CLOEXEC);
    if (fd < 0) continue;
    const bool written = write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
    close(fd);
    Require(written, "a file can be made in memory");
    return;
  }
  Require(false, "a file can be made in memory");
}

MemoryFile::~MemoryFile() { unlink(path_.c_str()); }

std::string MemoryFile::Read() const {
  std::ifstream file(path_, std::ios::binary);
  Require(file.is_open(), "a file in memory can be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string_view Input::Bytes(size_t n) {
  const std::string_view bytes = rest_.substr(0, n);
  rest_.remove_prefix(bytes.size());
  return bytes;
}

}  // namespace omni::fuzz
