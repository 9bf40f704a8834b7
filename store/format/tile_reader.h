// Where the bytes of tiles come from: this machine's pack files, or whoever else has them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include <absl/status/status.h>

#include "store/format/tile.h"
#include "store/read/read_urgency.h"

namespace omni {

struct TileRead {
  TileRef ref;            // the content, by hash and checksum; and where the model's pack files have it
  uint8_t* to = nullptr;  // a stride of the pack files long, the reader's from Read until `done` is called
  uint64_t tag = 0;       // the caller's; no two reads under way share one
};

// Thread-safe, but for Start.
class TileReader {
 public:
  // Called once per read, from a thread of the reader and with no lock held, from several threads at once if
  // need be. It may read and promote, but must not wait for other reads, nor destroy the reader. OK: the
  // tile's payload is at `to`; whether it is what was asked for, the caller checks. Else the bytes at `to`
  // are undefined, and the message names the source and what went wrong.
  using Done = std::function<void(uint64_t tag, const absl::Status& status)>;

  // Waits for what is under way; what was not begun is done with Cancelled.
  virtual ~TileReader() = default;
  TileReader(const TileReader&) = delete;
  TileReader& operator=(const TileReader&) = delete;

  // Once, before all else. `memory`, where the reads will go, outlives the reader; it may become resident.
  virtual absl::Status Start(std::span<uint8_t> memory, Done done) = 0;
  // Never waits. What is begun first: read_urgency.h.
  virtual void Read(std::span<const TileRead> reads, ReadUrgency urgency) = 0;
  // What Start was told of memory holds no longer: something else may lie there when this returns. Reads go
  // on.
  virtual void ForgetMemory() {}
  // The read with that tag becomes one that is asked for, if it has not begun; else nothing happens.
  virtual void Promote(uint64_t tag) = 0;

  virtual std::string description() const = 0;  // what is really in use, for logs; after Start

  struct Stats {
    int64_t reads = 0;    // ended, well or not; without the cancelled ones
    int64_t bytes = 0;    // read
    int64_t errors = 0;   // of `reads`
    int64_t busy_ns = 0;  // wall time with at least one read under way
  };
  virtual Stats stats() const = 0;  // since Start

 protected:
  TileReader() = default;
};

}  // namespace omni
