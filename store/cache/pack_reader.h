// Tiles from a model's pack files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/format/model_files.h"
#include "store/format/tile_reader.h"
#include "store/read/read_queue.h"

namespace omni {

class PackReader final : public TileReader {
 public:
  // `packs` are the headers of the model's pack files. The files are opened by Start, whose errors are
  // ReadQueue::Open's; so are those of reads. `options.memory` is filled in.
  PackReader(const ModelFiles& files, const std::vector<PackHeader>& packs, const ReadQueueOptions& options);

  absl::Status Start(std::span<uint8_t> memory, Done done) override;
  void Read(std::span<const TileRead> reads, ReadUrgency urgency) override;
  void ForgetMemory() override { queue_->ForgetMemory(); }
  void Promote(uint64_t tag) override { queue_->Promote(tag); }
  std::string description() const override { return queue_->description(); }
  Stats stats() const override;

 private:
  const int64_t payload_;
  std::vector<std::string> paths_;
  std::vector<int64_t> strides_;  // by pack
  ReadQueueOptions options_;
  std::unique_ptr<ReadQueue> queue_;
};

}  // namespace omni
