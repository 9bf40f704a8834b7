// Records in the cluster's coordination store, so that another coordinator has them when this one is gone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "cluster/coordination.h"
#include "store/state/record_store.h"

namespace omni {

// Of the store's keys, those that begin with it are the records'.
inline constexpr char kRecordsPrefix[] = "tasks/";

// All records are held in memory too, where they are read: whoever leads is the only one that writes. `term`
// is the revision by which this process leads, and may be asked from any thread; once another leads, every
// write is refused (FailedPrecondition) and changes nothing. Reads the records first, waiting for the store
// no longer than `most` at a time; Unavailable: it gave no answer. Neither this nor Write or Recover may be
// called on the store's thread. The store outlives the records.
absl::StatusOr<std::unique_ptr<RecordStore>> MakeCoordinatedRecords(
    CoordinationStore& store, std::function<uint64_t()> term,
    std::chrono::milliseconds most = std::chrono::seconds(10));

}  // namespace omni
