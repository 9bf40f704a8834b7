// The embedded store's contents on disk: docs/formats/coordination.md gives the bytes.
#pragma once

#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/store_state.h"
#include "store/state/database.h"

namespace omni {

// Problem: without a sync after every write a power cut may take the last ones, and revisions and leases that
// others have seen would be given a second time. Solution: numbers are reserved ahead, with a sync, and what
// is opened goes on behind the reserved ones.
//
// Used by one thread at a time.
class StoreDatabase : public StorePersistence {
 public:
  // Makes one in `dir` if there is none. DataLoss: its bytes are not what this program writes.
  static absl::StatusOr<std::unique_ptr<StoreDatabase>> Open(const std::string& dir, Durability durability);

  // What was there when it was opened.
  StoreContents TakeContents() { return std::move(contents_); }

  absl::Status Persist(const StoreEffect& effect) override;
  absl::StatusOr<bool> Persisted(const StoreEffect& effect) override;

 private:
  StoreDatabase(std::string dir, Durability durability, std::unique_ptr<Database> database)
      : dir_(std::move(dir)), durability_(durability), database_(std::move(database)) {}

  absl::Status Load();
  absl::Status Reserve(int64_t at_least);

  const std::string dir_;
  const Durability durability_;
  std::unique_ptr<Database> database_;
  StoreContents contents_;
  int64_t reserved_ = 0;  // no revision and no lease beyond it has been given
};

}  // namespace omni
