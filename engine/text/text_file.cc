#include "engine/text/text_file.h"

#include <fcntl.h>
#include <lzma.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

namespace omni {
namespace {

using std::string_view_literals::operator""sv;

constexpr size_t kChunk = 1 << 16;
constexpr char kStdinName[] = "standard input";
constexpr std::string_view kXzStart =
    "\xfd"
    "7zXZ\0"sv;

// What other programs write. A file is one if it begins with `start`, in which ? is any byte, or if its name
// ends with `ending` in either case.
struct Compression {
  const char* program;
  std::string_view start;
  const char *ending, *cure;
};
constexpr Compression kNotRead[] = {
    {"gzip", "\x1f\x8b\x08", ".gz", "gzip -d"},      {"bzip2", "BZh?1AY&SY", ".bz2", "bzip2 -d"},
    {"zstd", "\x28\xb5\x2f\xfd", ".zst", "zstd -d"}, {"lz4", "\x04\x22\x4d\x18", ".lz4", "lz4 -d"},
    {"lzma", "\x5d\0\0"sv, ".lzma", "xz -d"},        {"zip", "PK\x03\x04", ".zip", "unzip"},
    {"7-zip", "7z\xbc\xaf\x27\x1c", ".7z", "7z x"},
};

bool BeginsWith(std::string_view bytes, std::string_view start) {
  return bytes.size() >= start.size() &&
         std::equal(start.begin(), start.end(), bytes.begin(),
                    [](char want, char byte) { return want == '?' || want == byte; });
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status Unreadable(const std::string& name, int error) {
  const std::string message = absl::StrCat(name, ": cannot be read: ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(message) : absl::UnavailableError(message);
}

absl::StatusOr<std::string> ReadAll(int fd, const std::string& name) {
  std::string text;
  std::vector<char> buffer(kChunk);
  while (true) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n == 0) return text;
    if (n > 0) {
      text.append(buffer.data(), static_cast<size_t>(n));
    } else if (errno == EAGAIN) {  // a pipe whose writer has written nothing yet: from here on wait for it
      if (::fcntl(fd, F_SETFL, 0) != 0) return Unreadable(name, errno);
    } else if (errno != EINTR) {
      return Unreadable(name, errno);
    }
  }
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  // Opening a pipe would wait for a writer, and a device may act on it.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat st {};
  if (file.get() < 0 || ::fstat(file.get(), &st) != 0) return Unreadable(path, errno);
  if (S_ISDIR(st.st_mode)) return absl::InvalidArgumentError(path + ": is a directory, not a text file");
  if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode) && ::isatty(file.get()) == 0)
    return absl::InvalidArgumentError(path + ": is a device, not a text file");
  absl::StatusOr<std::string> bytes = ReadAll(file.get(), path);
  if (bytes.ok() && bytes->empty() && S_ISFIFO(st.st_mode))
    return absl::InvalidArgumentError(path +
                                      ": is a pipe into which nothing is written; start the writer first");
  return bytes;
}

absl::StatusOr<std::string> Decompress(const std::string& packed, const std::string& name) {
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, UINT64_MAX, LZMA_CONCATENATED) != LZMA_OK) {
    return absl::ResourceExhaustedError(absl::StrCat(name, ": no memory to decompress it"));
  }
  struct End {
    lzma_stream& stream;
    ~End() { lzma_end(&stream); }
  } end{stream};
  std::string text;
  std::vector<uint8_t> buffer(kChunk);
  stream.next_in = reinterpret_cast<const uint8_t*>(packed.data());
  stream.avail_in = packed.size();
  while (true) {
    stream.next_out = buffer.data();
    stream.avail_out = buffer.size();
    const lzma_ret result = lzma_code(&stream, LZMA_FINISH);
    text.append(reinterpret_cast<const char*>(buffer.data()), buffer.size() - stream.avail_out);
    if (result == LZMA_STREAM_END) return text;
    if (result == LZMA_MEM_ERROR) return absl::ResourceExhaustedError(name + ": no memory to decompress it");
    if (result != LZMA_OK) {
      return absl::DataLossError(
          absl::StrCat(name, ": not a whole .xz file (after ", text.size(), " bytes of text)"));
    }
  }
}

absl::StatusOr<std::string> TextOf(absl::StatusOr<std::string> bytes, const std::string& name) {
  if (!bytes.ok()) return bytes;
  if (BeginsWith(*bytes, kXzStart) || absl::EndsWithIgnoreCase(name, ".xz")) return Decompress(*bytes, name);
  for (const Compression& kind : kNotRead) {
    if (BeginsWith(*bytes, kind.start)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": is compressed with ", kind.program,
                                                     ", which is not read; decompress it first (", kind.cure,
                                                     "), or compress it with xz"));
    }
    if (absl::EndsWithIgnoreCase(name, kind.ending)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": is named as ", kind.program,
                       " names its files, but is none; if it is plain text, rename it"));
    }
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::string> ReadText(const std::string& path) { return TextOf(ReadFile(path), path); }

absl::StatusOr<std::string> ReadStdinText() { return TextOf(ReadStdin(), kStdinName); }

absl::StatusOr<std::string> ReadStdin() { return ReadAll(STDIN_FILENO, kStdinName); }

}  // namespace omni
