// Texts as users have them: other line ends, empty, short, compressed otherwise, changed since.
#include "engine/train/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

#include "engine/train/data.h"
#include "tests/testing/temp_dir.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CorpusTest : public ::testing::Test {
 protected:
  CorpusTest() {
    settings_ = *PresetSettings("tiny");
    settings_.tokens = 16;
    settings_.data = {Write("text.txt", Text(400))};
  }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(temp_ / name, std::ios::binary) << bytes;
    return temp_ / name;
  }
  static std::string Text(int words) {
    std::string text;
    for (int i = 0; i < words; ++i) text += i % 3 == 0 ? "torus " : i % 7 == 0 ? "route.\n" : "expert ";
    return text;
  }
  std::string Problem(const std::optional<EarlierCorpus>& earlier = {}) const {
    return std::string(LoadCorpus(settings_, earlier).status().message());
  }

  testing::TempDir temp_;
  TrainSettings settings_;
};

TEST_F(CorpusTest, HasTheSameDocumentsWhateverEndsItsLines) {
  const auto tokenizer = Tokenizer::Train(Text(400), 300);
  ASSERT_TRUE(tokenizer.ok());
  const std::string line = "<|endoftext|>";
  const std::vector<int32_t> plain = EncodeCorpus(*tokenizer, "one\n" + line + "\ntwo\n" + line + "\nthree");
  EXPECT_EQ(std::count(plain.begin(), plain.end(), Tokenizer::kEndOfText.value), 3);
  EXPECT_EQ(EncodeCorpus(*tokenizer, "one\r\n" + line + "\r\ntwo\r\n" + line + "\r\nthree"), plain);
  EXPECT_EQ(EncodeCorpus(*tokenizer, "one\r\n" + line + "\r\ntwo\n" + line + "\nthree"), plain);
}

TEST_F(CorpusTest, RefusesTextsThatAreTooShortToTrainOnOrToBeValidatedOn) {
  settings_.data = {Write("short.txt", "abc")};
  EXPECT_THAT(Problem(), HasSubstr("fewer than one segment"));
  settings_.data = {Write("nothing.txt", "<|endoftext|>\n<|endoftext|>\n")};
  EXPECT_THAT(Problem(), HasSubstr("has 0 tokens"));
  settings_.data = {Write("text.txt", Text(400))};
  settings_.valid = {Write("valid.txt", "twenty-one bytes here")};
  settings_.tokens = 32;
  EXPECT_TRUE(LoadCorpus(settings_, {}).ok());  // it will not be looked at
  settings_.eval_every = 4;
  EXPECT_THAT(Problem(), HasSubstr("--valid: the validation text has"));
  settings_.valid.clear();
  settings_.tune = 0.001;
  EXPECT_THAT(Problem(), HasSubstr("--tune: the validation text has"));
}

TEST_F(CorpusTest, IsValidatedInAtLeastOneWholeSegment) {
  for (int64_t tokens = 0; tokens < 2000; ++tokens) {
    const ValidationShape shape = ShapeOfValidation(tokens, settings_);
    ASSERT_EQ(shape.segments > 0, tokens > settings_.tokens) << tokens;
    ASSERT_LE(shape.segments * shape.batch * settings_.tokens, std::max<int64_t>(0, tokens - 1));
  }
}

TEST_F(CorpusTest, IsTheTextThatTheRunWasStartedWith) {
  absl::StatusOr<Corpus> first = LoadCorpus(settings_, {});
  ASSERT_TRUE(first.ok()) << first.status();
  const EarlierCorpus earlier{first->tokenizer, first->data_hash};
  absl::StatusOr<Corpus> again = LoadCorpus(settings_, earlier);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->train, first->train);
  Write("text.txt", Text(400) + "!");
  EXPECT_THAT(Problem(earlier), HasSubstr("--data: this is not the text that the run was started with"));
  // The tokenizer of weights that are there is never learnt anew.
  again = LoadCorpus(settings_, EarlierCorpus{first->tokenizer, ""});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->tokenizer.Serialize(), first->tokenizer.Serialize());
}

TEST_F(CorpusTest, ReadsEveryTextOfAFolderOrSaysWhichItCannot) {
  const std::string folder = temp_ / "folder";
  fs::create_directories(folder + "/deeper.txt");
  settings_.data = {folder};
  EXPECT_THAT(Problem(), HasSubstr("no .txt or .xz file in this folder"));
  Write("folder/a.txt", Text(300));
  Write("folder/README.md", "not a text to train on");
  ASSERT_TRUE(LoadCorpus(settings_, {}).ok());
  const size_t tokens = LoadCorpus(settings_, {})->train.size();
  Write("folder/B.TXT", Text(300));
  EXPECT_GT(LoadCorpus(settings_, {})->train.size(), tokens);
  for (const std::string ending : {".gz", ".zst", ".BZ2"}) {
    const std::string other = Write("folder/c.txt" + ending, "bytes");
    EXPECT_THAT(Problem(), HasSubstr("c.txt" + ending));
    fs::remove(other);
  }
}

// Each kind of thing that a path may name and that is no text.
TEST_F(CorpusTest, RefusesWhatIsNoText) {
  ASSERT_EQ(mkfifo((temp_ / "pipe").c_str(), 0600), 0);
  ASSERT_EQ(mkfifo((temp_ / "pipe.xz").c_str(), 0600), 0);
  const std::vector<std::string> paths = {temp_ / "missing.txt",
                                          Write("empty.txt", ""),
                                          Write("binary.txt", std::string("text\0more", 9)),
                                          Write("cut.txt.xz",
                                                "\xfd"
                                                "7zXZ"),
                                          Write("packed.txt.gz", "\x1f\x8b\x08"),
                                          temp_ / "pipe",
                                          temp_ / "pipe.xz"};
  for (const std::string& path : paths) {
    for (const bool valid : {false, true}) {
      (valid ? settings_.valid : settings_.data) = {path};
      EXPECT_THAT(Problem(), HasSubstr(path)) << (valid ? "--valid" : "--data");
      settings_.data = {Write("text.txt", Text(400))};
      settings_.valid.clear();
    }
  }
}

TEST(Streams, ReadOnFromEvenlySpreadPlacesAndWrapRound) {
  Streams streams({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 2);
  std::vector<int32_t> inputs(8), targets(8);
  streams.Next(4, inputs.data(), targets.data());
  EXPECT_EQ(inputs, (std::vector<int32_t>{0, 1, 2, 3, 5, 6, 7, 8}));
  EXPECT_EQ(targets, (std::vector<int32_t>{1, 2, 3, 4, 6, 7, 8, 9}));
  streams.Next(4, inputs.data(), targets.data());
  EXPECT_EQ(inputs, (std::vector<int32_t>{4, 5, 6, 7, 9, 0, 1, 2}));
}

TEST(Streams, OfFibonacciStrideLeapOverTextButAreAskedForTheNextToken) {
  std::vector<int32_t> text(1000);
  std::iota(text.begin(), text.end(), 0);
  Streams streams(text, 2, Stride::kFibonacci), skipped(text, 2, Stride::kFibonacci);
  std::vector<int32_t> inputs(18), targets(18);
  streams.Next(9, inputs.data(), targets.data());
  EXPECT_EQ(inputs, (std::vector<int32_t>{0, 1, 2, 4, 7, 12, 20, 33, 34,  //
                                          500, 501, 502, 504, 507, 512, 520, 533, 534}));
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_EQ(targets[i], inputs[i] + 1);
  streams.Next(9, inputs.data(), targets.data());
  EXPECT_EQ(inputs[0], 35);  // gaps begin anew with every segment
  EXPECT_EQ(inputs[2], 37);
  skipped.Skip(2, 9);
  EXPECT_EQ(skipped.cursors(), streams.cursors());
}

}  // namespace
}  // namespace omni::train
