// The folder of adapters while files in it are replaced.
#include "cluster/model_adapters.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/adapters.h"
#include "tests/testing/malloc_count.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using omni::testing::RandomAdapter;
using omni::testing::TempDir;
using ::testing::HasSubstr;

constexpr char kModel[] = "0123456789abcdef0123456789abcdef";

class ModelAdaptersTest : public ::testing::Test {
 protected:
  Adapter Make(uint64_t seed, const std::string& model = kModel) {
    return RandomAdapter(config_, model, 0.1f, seed);
  }
  void Save(const std::string& name, const Adapter& adapter) {
    ASSERT_TRUE(AdapterFiles(dir_ / "adapters").Save(name, adapter.Write()).ok());
  }
  static std::string Message(const absl::Status& s) { return std::string(s.message()); }

  TempDir dir_;
  const ModelConfig config_ = testing::TinyConfig();
  ModelAdapters adapters_{config_, kModel, dir_ / "adapters"};
};

TEST_F(ModelAdaptersTest, ThoseInTheFolderAreThereFromWhenTheirFilesAre) {
  const auto none = adapters_.Take({"me", ""});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(none.status()), HasSubstr("there is no adapter 'me'; there is none at all"));
  EXPECT_TRUE(adapters_.List()->empty());
  Save("me", Make(1));
  const auto held = adapters_.Take({"me", ""});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ((*held)->hash(), Make(1).Hash());
  EXPECT_EQ(*adapters_.Take({"me", ""}), *held);  // it is not read again
  EXPECT_EQ(*adapters_.Hash({"me", ""}), (*held)->hash());
  EXPECT_THAT(Message(adapters_.Take({"you", ""}).status()), HasSubstr("there are me"));
}

// What is planned for one that is asked for, counted at malloc.
TEST_F(ModelAdaptersTest, TakesWhatIsSaidToBeTheMost) {
  if (!testing::kCountsMalloc) GTEST_SKIP() << "malloc is the sanitizer's";
  ModelConfig config = testing::TinyConfig();
  config.vocab = 20'000;
  config.d = 256;
  int number = 0;
  for (const AdapterParts& parts : {AdapterParts{true, true, 255, AdaptLayers::kCores, false},
                                    AdapterParts{false, false, 0, AdaptLayers::kLora, true},
                                    AdapterParts{true, false, 256, AdaptLayers::kNone, false}}) {
    const std::string name = "parts" + std::to_string(++number);
    Save(name, Adapter(config, parts, kModel));
    ModelAdapters adapters(config, kModel, dir_ / "adapters");
    std::shared_ptr<const ReadyAdapter> taken;
    const int64_t most = testing::MostBytesOf([&] { taken = *adapters.Take({name, ""}); });
    const int64_t said = *MostAdapterBytes(AdapterFiles(dir_ / "adapters"), name, config.d);
    EXPECT_LE(most, said + said / 100 + 4096) << name;
    EXPECT_GE(most, said - said / 10) << name;
  }
  EXPECT_FALSE(MostAdapterBytes(AdapterFiles(dir_ / "adapters"), "none", config.d).ok());
}

TEST_F(ModelAdaptersTest, OneThatIsReplacedIsReadAgainAndWhoHasTheOldOneKeepsIt) {
  Save("me", Make(1));
  const auto before = *adapters_.Take({"me", ""});
  const std::string bytes = before->adapter().Write();
  Save("me", Make(2));
  const auto after = *adapters_.Take({"me", ""});
  EXPECT_EQ(after->hash(), Make(2).Hash());
  EXPECT_EQ(before->adapter().Write(), bytes);
  const auto mixed = adapters_.Take({"me", before->hash()});
  EXPECT_EQ(mixed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(mixed.status()), HasSubstr("'me' of hash " + before->hash()));
  Save("me", Make(1));
  EXPECT_TRUE(adapters_.Take({"me", before->hash()}).ok());
  std::filesystem::remove(dir_ / "adapters/me.adapter");
  EXPECT_EQ(adapters_.Take({"me", ""}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(adapters_.Take({"me", before->hash()}).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ModelAdaptersTest, WhatCannotBeUsedIsRefusedByItsFilesName) {
  Save("other", Make(1, "another model"));
  EXPECT_THAT(Message(adapters_.Take({"other", ""}).status()), HasSubstr("other.adapter: the adapter was"));
  std::ofstream(dir_ / "adapters/bad.adapter") << "nothing";
  EXPECT_THAT(Message(adapters_.Take({"bad", ""}).status()), HasSubstr("bad.adapter: adapter: these bytes"));
  EXPECT_THAT(Message(adapters_.Take({"../bad", ""}).status()), HasSubstr("letters, digits"));
}

TEST_F(ModelAdaptersTest, ThoseOfTheModelAreListed) {
  Save("b", Make(2));
  Save("a", Make(1));
  Save("other", Make(1, "another model"));
  std::ofstream(dir_ / "adapters/bad.adapter") << "nothing";
  const auto list = adapters_.List();
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 2u);
  const OfferedAdapter& a = list->front();
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.hash, Make(1).Hash());
  EXPECT_EQ(a.model_hash, kModel);
  EXPECT_EQ(a.tokens, 1000);
  EXPECT_EQ(a.held_out_tokens, 100);
  EXPECT_EQ(a.values, Make(1).size());
  EXPECT_NEAR(a.gain, 1 - 3.25 / 3.5, 1e-6);
}

TEST_F(ModelAdaptersTest, HowEverManyThereAreEachIsThere) {
  for (uint64_t i = 0; i < 40; ++i) Save(std::to_string(i), Make(i));
  for (int round = 0; round < 2; ++round) {
    for (uint64_t i = 0; i < 40; ++i) EXPECT_EQ(*adapters_.Hash({std::to_string(i), ""}), Make(i).Hash());
  }
}

}  // namespace
}  // namespace omni
