// Readers of tiles that do what a test says.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "store/format/tile_reader.h"
#include "tests/testing/faulty_reads.h"

namespace omni::testing {

// Reads happen when the test says so, on its thread. Not thread-safe.
class HeldTiles final : public TileReader {
 public:
  // Of a model's directory, with tiles of so many bytes.
  HeldTiles(std::string dir, int64_t payload) : dir_(std::move(dir)), payload_(payload) {}
  ~HeldTiles() override;  // the reads that are held are cancelled

  absl::Status Start(std::span<uint8_t> memory, Done done) override;
  void Read(std::span<const TileRead> reads, ReadUrgency urgency) override;
  void Promote(uint64_t tag) override { promoted_.push_back(tag); }
  std::string description() const override { return "held"; }
  Stats stats() const override { return stats_; }

  // Reads what waits now, what is asked for first.
  void LetGo();
  size_t urgent() const { return Of(ReadUrgency::kAsked).size(); }
  size_t other() const { return Of(ReadUrgency::kKnown).size() + Of(ReadUrgency::kGuessed).size(); }
  const std::deque<TileRead>& Of(ReadUrgency urgency) const { return reads_[static_cast<size_t>(urgency)]; }
  size_t promoted() const { return promoted_.size(); }

 private:
  std::string dir_;
  int64_t payload_;
  Done done_;
  std::array<std::deque<TileRead>, kReadUrgencies> reads_;
  std::vector<uint64_t> promoted_;
  Stats stats_;
};

// Asked once for every read, by the thread that begins it.
using TileFaultRule = std::function<Fault(const TileRead& read)>;

// Another reader's tiles of `payload` bytes, spoilt by a rule; kShorten and kFail are errors that name
// `path`.
class SpoiltTiles final : public TileReader {
 public:
  SpoiltTiles(std::unique_ptr<TileReader> inner, std::string path, int64_t payload, TileFaultRule rule)
      : path_(std::move(path)), payload_(payload), rule_(std::move(rule)), inner_(std::move(inner)) {}
  ~SpoiltTiles() override { inner_.reset(); }  // before what its threads use

  absl::Status Start(std::span<uint8_t> memory, Done done) override;
  void Read(std::span<const TileRead> reads, ReadUrgency urgency) override;
  void ForgetMemory() override { inner_->ForgetMemory(); }
  void Promote(uint64_t tag) override { inner_->Promote(tag); }
  std::string description() const override { return inner_->description() + ", with faults"; }
  Stats stats() const override { return inner_->stats(); }

 private:
  struct Spoilt {
    TileRead read;
    Fault fault;
  };
  absl::Status Spoil(const Spoilt& spoilt) const;

  const std::string path_;
  const int64_t payload_;
  const TileFaultRule rule_;
  Done done_;
  std::mutex mutex_;
  std::map<uint64_t, Spoilt> reads_;  // under way
  std::unique_ptr<TileReader> inner_;
};

}  // namespace omni::testing
