#include "engine/text/text_file.h"

#include <lzma.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>
#include <system_error>
#include <vector>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr size_t kChunk = 1 << 16;

absl::StatusOr<std::string> ReadAll(std::FILE* file, const std::string& name) {
  std::string text;
  std::vector<char> buffer(kChunk);
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), file)) text.append(buffer.data(), n);
  if (std::ferror(file) != 0) return absl::UnavailableError(absl::StrCat(name, ": cannot be read"));
  return text;
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
    if (result != LZMA_OK) {
      return absl::DataLossError(
          absl::StrCat(name, ": not a whole .xz file (after ", text.size(), " bytes of text)"));
    }
  }
}

}  // namespace

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(path + ": is a directory, not a text file");
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (file == nullptr) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  absl::StatusOr<std::string> bytes = ReadAll(file.get(), path);
  if (!bytes.ok() || !std::string_view(path).ends_with(".xz")) return bytes;
  return Decompress(*bytes, path);
}

absl::StatusOr<std::string> ReadStdin() { return ReadAll(stdin, "standard input"); }

}  // namespace omni
