#include "engine/train/data.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <system_error>
#include <thread>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <xxhash.h>

#include "engine/base/system_error.h"
#include "engine/decode/eval.h"
#include "engine/text/text_file.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;

// Endings of compressed files that are not .xz.
constexpr std::string_view kOtherwiseCompressed[] = {".gz",   ".bz2", ".zst", ".lz4",
                                                     ".lzma", ".zip", ".7z",  ".br"};

// The text files of a folder, by name.
absl::StatusOr<std::vector<fs::path>> FilesIn(const std::string& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const fs::path& path = entries->path();
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) continue;
    const std::string ending = absl::AsciiStrToLower(path.extension().string());
    if (std::find(std::begin(kOtherwiseCompressed), std::end(kOtherwiseCompressed), ending) !=
        std::end(kOtherwiseCompressed)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path.string(),
                       ": compressed in a way that is not read; unpack it or compress it with "
                       "xz, or take it out of the folder"));
    }
    if (ending == ".txt" || ending == ".xz") files.push_back(path);
  }
  if (error) return SystemError(folder, "read", error.value());
  if (files.empty()) return absl::NotFoundError(absl::StrCat(folder, ": no .txt or .xz file in this folder"));
  std::sort(files.begin(), files.end());
  return files;
}

// From the t-th token of a segment to the one that is read next.
int64_t Gap(Stride stride, int64_t t) {
  constexpr int64_t kGaps[] = {1, 1, 2, 3, 5, 8, 13};
  return stride == Stride::kPlain ? 1 : kGaps[t % static_cast<int64_t>(std::size(kGaps))];
}

}  // namespace

absl::StatusOr<std::string> ReadCorpus(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const std::string& p : paths) {
    std::error_code error;
    if (!fs::is_directory(p, error)) {
      files.emplace_back(p);
      continue;
    }
    const absl::StatusOr<std::vector<fs::path>> inside = FilesIn(p);
    if (!inside.ok()) return inside.status();
    files.insert(files.end(), inside->begin(), inside->end());
  }
  std::string text;
  for (const fs::path& path : files) {
    const absl::StatusOr<std::string> bytes = ReadText(path.string());
    if (!bytes.ok()) return bytes.status();
    if (bytes->empty())
      return absl::InvalidArgumentError(absl::StrCat(path.string(), ": empty; give a file with text"));
    if (const size_t at = bytes->find('\0'); at != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not text (a zero byte at offset ", at,
                                                     "); give plain text or .xz of it"));
    }
    text += *bytes;
  }
  if (text.empty())
    return absl::InvalidArgumentError("no training text: name at least one file or folder with --data");
  return text;
}

std::vector<int32_t> EncodeCorpus(const Tokenizer& tokenizer, const std::string& text, int threads) {
  const std::vector<std::string_view> documents = SplitDocuments(text);
  const bool separated = documents.size() != 1 || documents[0].size() != text.size();
  std::vector<std::vector<TokenId>> encoded(documents.size());
  std::atomic<size_t> next{0};
  const auto encode = [&] {
    for (size_t i = next++; i < documents.size(); i = next++) encoded[i] = tokenizer.Encode(documents[i]);
  };
  std::vector<std::jthread> others;
  for (int t = 1; t < threads && t < static_cast<int>(documents.size()); ++t) others.emplace_back(encode);
  encode();
  others.clear();
  std::vector<int32_t> ids;
  for (std::vector<TokenId>& document : encoded) {
    for (TokenId id : document) ids.push_back(id.value);
    if (separated) ids.push_back(Tokenizer::kEndOfText.value);
    document = {};
  }
  return ids;
}

std::string TextHash(std::string_view text) {
  return absl::StrCat(absl::Hex(XXH3_64bits(text.data(), text.size()), absl::kZeroPad16));
}

Streams::Streams(std::vector<int32_t> tokens, int64_t batch, Stride stride)
    : tokens_(std::move(tokens)), stride_(stride) {
  for (int64_t b = 0; b < batch; ++b) at_.push_back(size() / batch * b);
}

void Streams::Next(int64_t count, int32_t* inputs, int32_t* targets) {
  for (int64_t& at : at_) {
    for (int64_t t = 0; t < count; ++t) {
      *inputs++ = tokens_[static_cast<size_t>(at)];
      *targets++ = tokens_[static_cast<size_t>((at + 1) % size())];
      at = (at + Gap(stride_, t)) % size();
    }
  }
}

void Streams::Skip(int64_t segments, int64_t count) {
  int64_t segment = 0;
  for (int64_t t = 0; t < count; ++t) segment += Gap(stride_, t);
  for (int64_t& at : at_) at = (at + segments * segment) % size();
}

}  // namespace omni::train
