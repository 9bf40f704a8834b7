#include "store/pack/tile_pack_writer.h"

#include <algorithm>
#include <utility>

#include "store/format/manifest.h"

namespace omni {

TilePackWriter::TilePackWriter(std::string dir, int64_t payload, int64_t alignment, int64_t max_pack_bytes)
    : dir_(std::move(dir)),
      header_(PackHeader::For(payload, alignment)),
      tiles_per_pack_(std::max<int64_t>(1, (max_pack_bytes - header_.first_offset) / header_.stride)) {
  PackHeader full = header_;
  full.count = tiles_per_pack_;
  full_head_ = full.Encode();
}

std::optional<TileRef> TilePackWriter::Find(const Hash128& hash) const {
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end()) return std::nullopt;
  return it->second;
}

absl::Status TilePackWriter::BeginFile() {
  const std::string path = dir_ + "/" + PackName(packs_++);
  PackHeader full = header_;
  full.count = tiles_per_pack_;
  header_.count = offset_ = 0;
  // A file gets its header when all of it is there.
  const absl::StatusOr<std::string> head = ReadStart(path, PackHeader::kBytes);
  if (head.ok() && *head == full_head_) {
    absl::StatusOr<FileDigest> digest = DigestFile(path);
    if (!digest.ok()) return digest.status();
    if (digest->bytes == full.file_bytes()) {
      kept_ = *digest;
      kept_hash_.emplace();
      kept_hash_->Update(full_head_);
      offset_ = PackHeader::kBytes;
      return Append(nullptr, header_.first_offset - offset_);
    }
  }
  if (head.ok()) {
    if (absl::Status s = RemoveFile(path); !s.ok()) return s;
  }
  absl::StatusOr<std::unique_ptr<StreamWriter>> file = StreamWriter::Create(path, full_head_, 0);
  if (!file.ok()) return file.status();
  file_ = *std::move(file);
  offset_ = file_->size();
  return Append(nullptr, header_.first_offset - offset_);
}

absl::Status TilePackWriter::Append(const uint8_t* data, int64_t bytes) {
  offset_ += bytes;
  if (file_) return data ? file_->Append(data, bytes) : file_->AppendZeros(bytes);
  static constexpr uint8_t kZeros[4096] = {};
  if (data) kept_hash_->Update(data, static_cast<size_t>(bytes));
  for (int64_t n; !data && bytes > 0; bytes -= n) {
    n = std::min<int64_t>(bytes, sizeof kZeros);
    kept_hash_->Update(kZeros, static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<TileRef> TilePackWriter::Add(const uint8_t* tile, const Hash128& hash) {
  if (!file_ && !kept_) {
    if (absl::Status s = BeginFile(); !s.ok()) return s;
  }
  TileRef ref;
  ref.hash = hash;
  ref.pack = packs_ - 1;
  ref.offset = static_cast<uint64_t>(offset_);
  ref.checksum = Checksum64(tile, static_cast<size_t>(header_.payload));
  if (absl::Status s = Append(tile, header_.payload); !s.ok()) return s;
  if (absl::Status s = Append(nullptr, header_.stride - header_.payload); !s.ok()) return s;
  by_hash_.emplace(hash, ref);
  ++stored_;
  if (++header_.count == tiles_per_pack_) {
    if (absl::Status s = FinishFile(); !s.ok()) return s;
  }
  return ref;
}

absl::Status TilePackWriter::FinishFile() {
  const std::string name = PackName(packs_ - 1);
  if (kept_) {
    if (header_.count != tiles_per_pack_ || kept_hash_->Digest() != kept_->hash) {
      return absl::DataLossError(
          dir_ + "/" + name +
          ": not what an earlier run of this command would have left; remove it and run again");
    }
    // Whoever wrote it may have been stopped before it was synced.
    if (absl::Status s = SyncFile(dir_ + "/" + name); !s.ok()) return s;
    digests_[name] = *kept_;
    ++kept_files_;
    kept_.reset();
    return SyncDirectory(dir_ + "/" + kPacksFolder);
  }
  absl::StatusOr<FileDigest> digest = file_->Finish(header_.Encode());
  if (!digest.ok()) return digest.status();
  digests_[name] = *digest;
  file_.reset();
  return SyncDirectory(dir_ + "/" + kPacksFolder);
}

absl::Status TilePackWriter::Finish() { return file_ || kept_ ? FinishFile() : absl::OkStatus(); }

}  // namespace omni
