#include "store/state/record_store.h"

namespace omni {
namespace {

// A key that is never read: writing it opens a database again whose last write failed.
constexpr char kProbeKey[] = "probe";

class DatabaseRecordStore : public RecordStore {
 public:
  explicit DatabaseRecordStore(Database& database) : database_(database) {}

  absl::Status Write(const RecordWrites& writes) override {
    DatabaseBatch batch;
    for (const auto& [key, value] : writes) {
      if (value.has_value()) {
        batch.Put(key, *value);
      } else {
        batch.Delete(key);
      }
    }
    return database_.Write(batch);
  }

  absl::Status Recover() override { return database_.Put(kProbeKey, ""); }

  size_t max_changes() const override { return 20'000; }

  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override {
    return database_.Get(key);
  }

  absl::Status Scan(std::string_view prefix, std::string_view from,
                    const RecordVisitor& visit) const override {
    bool enough = false;
    absl::Status s = database_.ForEachFrom(prefix, from, [&](std::string_view key, std::string_view value) {
      enough = !visit(key, value);
      return enough ? absl::CancelledError("") : absl::OkStatus();
    });
    return enough ? absl::OkStatus() : s;
  }

 private:
  Database& database_;
};

}  // namespace

std::unique_ptr<RecordStore> MakeDatabaseRecordStore(Database& database) {
  return std::make_unique<DatabaseRecordStore>(database);
}

}  // namespace omni
