#include "tests/testing/tile_readers.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/file/files.h"

namespace omni::testing {
namespace {

constexpr int kGarbage = 0xdb;

}  // namespace

HeldTiles::~HeldTiles() {
  for (size_t kind = kReadUrgencies; kind-- > 0;) {  // what one frees, others may ask for
    while (!reads_[kind].empty()) {
      const TileRead read = reads_[kind].front();
      reads_[kind].pop_front();
      done_(read.tag, absl::CancelledError("the test is over"));
    }
  }
}

absl::Status HeldTiles::Start(std::span<uint8_t>, Done done) {
  done_ = std::move(done);
  return absl::OkStatus();
}

void HeldTiles::Read(std::span<const TileRead> reads, ReadUrgency urgency) {
  std::deque<TileRead>& to = reads_[static_cast<size_t>(urgency)];
  to.insert(to.end(), reads.begin(), reads.end());
}

void HeldTiles::LetGo() {
  std::deque<TileRead> all;
  for (std::deque<TileRead>& reads : reads_) {
    all.insert(all.end(), reads.begin(), reads.end());
    reads.clear();
  }
  for (const TileRead& read : all) {
    std::ifstream file(dir_ + "/" + PackName(read.ref.pack), std::ios::binary);
    file.seekg(static_cast<std::streamoff>(read.ref.offset));
    file.read(reinterpret_cast<char*>(read.to), payload_);
    ++stats_.reads;
    stats_.bytes += payload_;
    done_(read.tag, file ? absl::OkStatus() : absl::DataLossError(absl::StrCat(dir_, ": cannot be read")));
  }
}

absl::Status SpoiltTiles::Start(std::span<uint8_t> memory, Done done) {
  done_ = std::move(done);
  return inner_->Start(memory, [this](uint64_t tag, const absl::Status& status) {
    Spoilt spoilt;
    {
      const std::lock_guard lock(mutex_);
      const auto at = reads_.find(tag);
      spoilt = at->second;
      reads_.erase(at);
    }
    done_(tag, status.ok() ? Spoil(spoilt) : status);
  });
}

void SpoiltTiles::Read(std::span<const TileRead> reads, ReadUrgency urgency) {
  for (const TileRead& read : reads) {
    const Fault fault = rule_(read);
    const std::lock_guard lock(mutex_);
    reads_[read.tag] = {read, fault};
  }
  inner_->Read(reads, urgency);
}

absl::Status SpoiltTiles::Spoil(const Spoilt& spoilt) const {
  const auto& [read, fault] = spoilt;
  switch (fault.kind) {
    case Fault::Kind::kNone:
      return absl::OkStatus();
    case Fault::Kind::kFlipBit:
      read.to[fault.at / 8] ^= static_cast<uint8_t>(1u << (fault.at % 8));
      return absl::OkStatus();
    case Fault::Kind::kShorten: {
      const int64_t got = std::min(fault.at, payload_);
      std::memset(read.to + got, kGarbage, static_cast<size_t>(payload_ - got));
      return absl::DataLossError(absl::StrCat(path_, ": ends after ", got, " bytes of a tile"));
    }
    case Fault::Kind::kFail:
      std::memset(read.to, kGarbage, static_cast<size_t>(payload_));
      return SystemError(path_, "read", EIO);
  }
  return absl::OkStatus();
}

}  // namespace omni::testing
