#include "store/cache/pack_reader.h"

#include <utility>

#include "engine/model/weights.h"

namespace omni {

PackReader::PackReader(const ModelFiles& files, const std::vector<PackHeader>& packs,
                       const ReadQueueOptions& options)
    : payload_(TileLayout(files.manifest.config.d).payload()), options_(options) {
  for (const PackHeader& pack : packs) {
    paths_.push_back(files.PathOf(PackName(static_cast<uint32_t>(strides_.size()))));
    strides_.push_back(pack.stride);
  }
}

absl::Status PackReader::Start(std::span<uint8_t> memory, Done done) {
  options_.memory = memory;
  absl::StatusOr<std::unique_ptr<ReadQueue>> queue = ReadQueue::Open(paths_, options_, std::move(done));
  if (!queue.ok()) return queue.status();
  queue_ = *std::move(queue);
  return absl::OkStatus();
}

void PackReader::Read(std::span<const TileRead> reads, ReadUrgency urgency) {
  std::vector<ReadRequest> requests;
  requests.reserve(reads.size());
  for (const TileRead& read : reads) {
    requests.push_back({static_cast<int32_t>(read.ref.pack), read.ref.offset, strides_[read.ref.pack],
                        payload_, read.to, read.tag});
  }
  queue_->Submit(requests, urgency);
}

TileReader::Stats PackReader::stats() const {
  const ReadQueue::Stats stats = queue_->stats();
  return {stats.reads, stats.bytes, stats.errors, stats.busy_ns};
}

}  // namespace omni
