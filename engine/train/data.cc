#include "engine/train/data.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include <absl/strings/str_cat.h>

#include "engine/decode/eval.h"
#include "engine/text/text_file.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;

}  // namespace

absl::StatusOr<std::string> ReadCorpus(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const std::string& p : paths) {
    std::error_code error;
    if (fs::is_directory(p, error)) {
      std::vector<fs::path> inside;
      for (const auto& entry : fs::directory_iterator(p, error)) {
        const auto extension = entry.path().extension();
        if (entry.is_regular_file() && (extension == ".txt" || extension == ".xz"))
          inside.push_back(entry.path());
      }
      if (inside.empty()) return absl::NotFoundError(absl::StrCat(p, ": no .txt or .xz file in this folder"));
      std::sort(inside.begin(), inside.end());
      files.insert(files.end(), inside.begin(), inside.end());
    } else {
      files.emplace_back(p);
    }
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

std::vector<int32_t> EncodeCorpus(const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<std::string_view> documents = SplitDocuments(text);
  const bool separated = documents.size() != 1 || documents[0].size() != text.size();
  std::vector<int32_t> ids;
  for (std::string_view document : documents) {
    for (TokenId id : tokenizer.Encode(document)) ids.push_back(id.value);
    if (separated) ids.push_back(Tokenizer::kEndOfText.value);
  }
  return ids;
}

uint64_t TextHash(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ULL;
  return h;
}

Streams::Streams(std::vector<int32_t> tokens, int64_t batch) : tokens_(std::move(tokens)) {
  for (int64_t b = 0; b < batch; ++b) at_.push_back(size() / batch * b);
}

void Streams::Next(int64_t count, int32_t* inputs, int32_t* targets) {
  for (size_t b = 0; b < at_.size(); ++b) {
    for (int64_t t = 0; t < count; ++t) {
      *inputs++ = tokens_[static_cast<size_t>(at_[b])];
      at_[b] = (at_[b] + 1) % size();
      *targets++ = tokens_[static_cast<size_t>(at_[b])];
    }
  }
}

void Streams::Skip(int64_t count) {
  for (int64_t& at : at_) at = (at + count) % size();
}

}  // namespace omni::train
