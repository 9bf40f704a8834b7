// The tokenizer's file (docs/formats/tokenizer.md).
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include <absl/strings/str_cat.h>
#include <xxhash.h>

#include "engine/base/open_file.h"
#include "engine/base/replace_file.h"
#include "engine/base/system_error.h"
#include "engine/text/tokenizer.h"

namespace omni {
namespace {

static_assert(std::endian::native == std::endian::little, "the file's integers are little endian");

constexpr std::string_view kMagic = "OMNI-TOK";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 20;  // magic, version, vocabulary, merges
constexpr size_t kMergeBytes = 8;
constexpr size_t kChecksumBytes = 8;
constexpr size_t kMaxFileBytes = kHeaderBytes + kChecksumBytes + (size_t{1} << 24) * kMergeBytes;

template <typename T>
void Append(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T ReadAt(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

absl::StatusOr<std::string> ReadWhole(int fd, const std::string& path) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return SystemError(path, "examine", errno);
  if (static_cast<size_t>(info.st_size) > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is not a tokenizer file: it is longer than ", kMaxFileBytes, " bytes"));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t n = read(fd, bytes.data() + at, bytes.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path, "read", errno);
    if (n == 0) bytes.resize(at);
    at += static_cast<size_t>(n);
  }
  return bytes;
}

}  // namespace

std::string Tokenizer::Serialize() const {
  std::string out(kMagic);
  Append(&out, kVersion);
  Append(&out, static_cast<uint32_t>(vocab_));
  Append(&out, static_cast<uint32_t>(merges_.size()));
  for (const Merge& merge : merges_) {
    Append(&out, static_cast<uint32_t>(merge.left));
    Append(&out, static_cast<uint32_t>(merge.right));
  }
  Append(&out, static_cast<uint64_t>(XXH3_64bits(out.data(), out.size())));
  return out;
}

absl::StatusOr<Tokenizer> Tokenizer::Parse(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes + kChecksumBytes) {
    return absl::DataLossError(
        absl::StrCat("tokenizer: ", bytes.size(), " bytes are too few; the file is cut"));
  }
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("tokenizer: these are not the bytes of a tokenizer file");
  }
  const auto version = ReadAt<uint32_t>(bytes, 8);
  if (version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: the file has version ", version,
                                                   "; this program reads ", kVersion,
                                                   ", so use the program that wrote it"));
  }
  const auto vocab = ReadAt<uint32_t>(bytes, 12), count = ReadAt<uint32_t>(bytes, 16);
  const size_t expected = kHeaderBytes + count * kMergeBytes + kChecksumBytes;
  if (bytes.size() != expected) {
    return absl::DataLossError(absl::StrCat("tokenizer: ", count, " merges take ", expected,
                                            " bytes, but there are ", bytes.size(),
                                            "; the file is cut or damaged"));
  }
  const size_t covered = bytes.size() - kChecksumBytes;
  if (ReadAt<uint64_t>(bytes, covered) != XXH3_64bits(bytes.data(), covered)) {
    return absl::DataLossError("tokenizer: the checksum does not match; the file is damaged");
  }
  std::vector<Merge> merges(count);
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t at = kHeaderBytes + i * kMergeBytes;
    merges[i] = {ReadAt<int32_t>(bytes, at), ReadAt<int32_t>(bytes, at + 4)};
  }
  return FromMerges(vocab, std::move(merges));
}

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  const absl::StatusOr<FileDescriptor> file = OpenRegular(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::string> bytes = ReadWhole(file->get(), path);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<Tokenizer> tokenizer = Parse(*bytes);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(), absl::StrCat(path, ": ", tokenizer.status().message()));
}

absl::Status Tokenizer::Save(const std::string& path) const { return ReplaceFile(path, Serialize()); }

}  // namespace omni
