#include "store/tile_pack_writer.h"

#include <algorithm>
#include <utility>

#include "store/manifest.h"

namespace omni {

TilePackWriter::TilePackWriter(std::string dir, int64_t payload, int64_t alignment, int64_t max_pack_bytes,
                               StepHook hook)
    : dir_(std::move(dir)),
      header_(PackHeader::For(payload, alignment)),
      tiles_per_pack_(std::max<int64_t>(1, (max_pack_bytes - header_.first_offset) / header_.stride)),
      hook_(std::move(hook)) {}

std::optional<TileRef> TilePackWriter::Find(const Hash128& hash) const {
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end()) return std::nullopt;
  return it->second;
}

absl::StatusOr<TileRef> TilePackWriter::Add(const uint8_t* tile, const Hash128& hash) {
  if (!file_) {
    absl::StatusOr<FileWriter> file = FileWriter::Create(dir_ + "/" + PackName(packs_));
    if (!file.ok()) return file.status();
    file_.emplace(*std::move(file));
    ++packs_;
    header_.count = 0;
    if (absl::Status s = file_->AppendZeros(header_.first_offset); !s.ok()) return s;
  }
  TileRef ref;
  ref.hash = hash;
  ref.pack = packs_ - 1;
  ref.offset = static_cast<uint64_t>(file_->size());
  ref.checksum = Checksum64(tile, static_cast<size_t>(header_.payload));
  if (absl::Status s = file_->Append(tile, header_.payload); !s.ok()) return s;
  if (absl::Status s = file_->AppendZeros(header_.stride - header_.payload); !s.ok()) return s;
  by_hash_.emplace(hash, ref);
  ++stored_;
  if (++header_.count == tiles_per_pack_) {
    if (absl::Status s = FinishFile(); !s.ok()) return s;
  }
  return ref;
}

absl::Status TilePackWriter::FinishFile() {
  const std::string head = header_.Encode();
  if (absl::Status s = file_->WriteAt(0, head.data(), static_cast<int64_t>(head.size())); !s.ok()) return s;
  if (absl::Status s = file_->Sync(hook_); !s.ok()) return s;
  file_.reset();
  return absl::OkStatus();
}

absl::Status TilePackWriter::Finish() {
  if (file_) {
    if (absl::Status s = FinishFile(); !s.ok()) return s;
  }
  return SyncDirectory(dir_ + "/" + kPacksFolder, hook_);
}

}  // namespace omni
