#include "store/state/record_store.h"

#include <cerrno>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/state/database.h"
#include "tests/testing/memory_records.h"
#include "tests/testing/power_cut.h"
#include "tests/testing/record_store_suite.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

class InDatabase : public RecordStoreUnderTest {
 public:
  InDatabase() { Restart(); }
  RecordStore& store() override { return *store_; }
  void Restart() override {
    store_.reset();
    database_.reset();
    database_ = Database::Open(dir_ / "db", {}).value();
    store_ = MakeDatabaseRecordStore(*database_);
  }

 private:
  TempDir dir_ = TempDir::InMemory();
  std::unique_ptr<Database> database_;
  std::unique_ptr<RecordStore> store_;
};

class InMemory : public RecordStoreUnderTest {
 public:
  RecordStore& store() override { return store_; }
  void Restart() override {}

 private:
  MemoryRecords store_;
};

INSTANTIATE_TEST_SUITE_P(
    Each, RecordStoreSuite,
    ::testing::Values(RecordStoreKind{"Database", [] { return std::make_unique<InDatabase>(); }},
                      RecordStoreKind{"Memory", [] { return std::make_unique<InMemory>(); }}),
    [](const auto& info) { return info.param.name; });

class FullDisk : public FileWatcher {
 public:
  std::atomic<bool> on = false;
  int Before(const FileCall& call) override { return on && call.kind == FileCall::Kind::kWrite ? ENOSPC : 0; }
};

TEST(DatabaseRecordStoreTest, AFullDiskIsSaidAndRecoveredFromWhenThereIsSpaceAgain) {
  FullDisk disk;
  const WatchFiles watch(disk);
  InDatabase tested;
  ASSERT_TRUE(tested.store().Write({{"before", "1"}}).ok());
  disk.on = true;
  EXPECT_EQ(tested.store().Write({{"a", "1"}, {"b", "1"}}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(tested.store().Recover().ok());
  disk.on = false;
  ASSERT_TRUE(tested.store().Recover().ok());
  EXPECT_EQ(*tested.store().Get("before"), "1");
  EXPECT_EQ(tested.store().Get("a")->has_value(), tested.store().Get("b")->has_value());
  ASSERT_TRUE(tested.store().Write({{"after", "1"}}).ok());
  tested.Restart();
  EXPECT_EQ(*tested.store().Get("after"), "1");
  EXPECT_EQ(*tested.store().Get("before"), "1");
}

}  // namespace
}  // namespace omni::testing
