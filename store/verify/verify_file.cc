#include "store/verify/verify_file.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "store/format/model_files.h"

namespace omni {

void AddDefect(const absl::Status& error, Defects* defects) {
  if (error.ok()) return;
  defects->lines.emplace_back(error.message());
  defects->refused += absl::IsPermissionDenied(error) || absl::IsResourceExhausted(error);
}

bool FilePass::Open(int64_t max_keep, FileStream::Cache cache) {
  absl::StatusOr<FileStream> stream = FileStream::Open(path_, max_keep, cache);
  if (!stream.ok()) {
    AddDefect(stream.status(), defects_);
    return false;
  }
  stream_.emplace(*std::move(stream));
  if (stream_->size() != want_.bytes) {
    AddDefect(WrongSize(path_, stream_->size(), want_.bytes), defects_);
    whole_ = false;
  }
  return true;
}

bool FilePass::Next(int64_t keep) {
  HashTo(end());
  if (stream_->at_end()) return false;
  const int64_t before = end();
  absl::Status status = state_->stop ? absl::CancelledError() : stream_->Next(keep);
  if (!status.ok()) {
    if (!absl::IsCancelled(status)) AddDefect(status, defects_);
    whole_ = false;
    return false;
  }
  state_->bytes += end() - before;
  return true;
}

void FilePass::HashTo(int64_t offset) {
  if (offset <= hashed_) return;
  hash_.Update(At(hashed_), static_cast<size_t>(offset - hashed_));
  hashed_ = offset;
}

void FilePass::Finish(bool explained) {
  if (!whole_ || explained || hash_.Digest() == want_.hash) return;
  AddDefect(absl::DataLossError(absl::StrCat(path_, ": fails its checksum", kDamagedCure)), defects_);
}

}  // namespace omni
