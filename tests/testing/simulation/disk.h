// Disks that lose what was not synced, and fail. The product's databases (store/state/database.h) are opened
// on them by the name of their folder: the simulator has Database's functions in place of RocksDB's.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>

#include "tests/testing/simulation/world.h"

namespace omni::simulation {

using DiskBatch = std::vector<std::pair<std::string, std::optional<std::string>>>;

class Disk {
 public:
  explicit Disk(World& world) : world_(world) {}

  std::map<std::string, std::string, std::less<>> files;  // what a reader sees
  double failing = 0;                                     // share of the writes

  absl::Status Write(const DiskBatch& batch, bool synced);
  void Reopen();    // what a failed write left is there, or is not
  void PowerCut();  // of what was not synced, the last writes are lost
  void Sync() { unsynced_.clear(); }
  void Erase();

 private:
  void Apply(const DiskBatch& batch);

  World& world_;
  std::optional<DiskBatch> doubtful_;
  // How to undo the writes since the last sync, the oldest first.
  std::deque<DiskBatch> unsynced_;
};

// By folder, of the simulation under way on this thread.
class Disks {
 public:
  explicit Disks(World& world);
  ~Disks();
  static Disk& Of(const std::string& folder);

 private:
  World& world_;
  std::map<std::string, Disk> disks_;
  static thread_local Disks* present_;
};

}  // namespace omni::simulation
