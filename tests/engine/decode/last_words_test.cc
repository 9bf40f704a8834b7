#include "engine/decode/last_words.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/decode/cpu_decoder.h"
#include "engine/decode/eval.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ReadPassagesTest, TakesTheTextOfEveryLine) {
  const auto passages = ReadPassages("{\"text\": \"a b\"}\n\n{\"text\": \"c\\nd e\", \"more\": 1}");
  ASSERT_TRUE(passages.ok()) << passages.status();
  EXPECT_THAT(*passages, ElementsAre("a b", "c\nd e"));
}

TEST(ReadPassagesTest, NamesTheLineThatIsNone) {
  for (const std::string bad : {"nonsense", "[]", "{\"txt\": \"a\"}", "{\"text\": 1}", "{\"text\": \"a\""}) {
    const auto passages = ReadPassages("{\"text\": \"a b\"}\n" + bad);
    ASSERT_FALSE(passages.ok()) << bad;
    EXPECT_THAT(passages.status().message(), HasSubstr("line 2")) << bad;
  }
  EXPECT_FALSE(ReadPassages("\n\n").ok());
}

class LastWordsTest : public ::testing::Test {
 protected:
  LastWordsTest()
      : model_(testing::TinyConfig(), 3), tokenizer_(*Tokenizer::Train("the cat sat on the hat", 300)) {}

  absl::StatusOr<LastWordsResult> Eval(const std::vector<std::string>& passages, int threads = 1) {
    WorkerPool pool(threads);
    return EvalLastWords(model_.weights(), model_, tokenizer_, pool, passages);
  }

  testing::RandomModel model_;
  Tokenizer tokenizer_;
};

TEST_F(LastWordsTest, CountsTheWordsTokensAndNothingElse) {
  const std::string text = "the cat sat on the tabernacle";
  WorkerPool pool(1);
  CpuDecoder decoder(model_.weights(), pool);
  SessionState state(model_.config());
  std::vector<TokenId> tokens = tokenizer_.Encode(text);
  tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
  const size_t word = tokenizer_.Encode(" tabernacle").size();
  ASSERT_GT(word, 1u);
  double nats = 0;
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const BatchRow row{&state, tokens[i], true};
    const auto logits = RunBatch(decoder, model_.config(), model_, pool, {&row, 1});
    ASSERT_TRUE(logits.ok());
    if (i + 1 + word >= tokens.size())
      nats += NegativeLogLikelihood(logits->data(), model_.config().vocab, tokens[i + 1]);
  }
  const auto result = Eval({text});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_DOUBLE_EQ(result->nats, nats);
  EXPECT_NEAR(result->perplexity(), std::exp(nats), 1e-9 * std::exp(nats));
  EXPECT_EQ(result->passages, 1);
  EXPECT_EQ(result->accuracy(), 0.0);
}

TEST_F(LastWordsTest, AWordIsRightIfEveryTokenIsTheLikeliest) {
  // What the model itself says after a text, as a letter of its own.
  WorkerPool pool(1);
  CpuDecoder decoder(model_.weights(), pool);
  int right = 0, tried = 0;
  for (const std::string start : {"the cat", "a hat", "on the", "cat", "hat on", "sat", "the the"}) {
    SessionState state(model_.config());
    std::vector<TokenId> tokens = tokenizer_.Encode(start);
    tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
    std::vector<BatchRow> rows;
    for (TokenId token : tokens) rows.push_back({&state, token, true});
    const auto logits = RunBatch(decoder, model_.config(), model_, pool, rows);
    ASSERT_TRUE(logits.ok());
    const std::span<const float> last = logits->last(static_cast<size_t>(model_.config().vocab));
    const auto likeliest = static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin());
    const std::string_view bytes = tokenizer_.Bytes(TokenId(likeliest));
    if (bytes.size() < 2 || bytes[0] != ' ' || bytes.find(' ', 1) != bytes.npos) continue;
    ++tried;
    const auto result = Eval({start + std::string(bytes), start + " q"});
    ASSERT_TRUE(result.ok());
    right += static_cast<int>(result->right);
  }
  EXPECT_EQ(right, tried);
}

TEST_F(LastWordsTest, ThreadsAndCompanyChangeNothing) {
  std::vector<std::string> passages;
  for (int i = 0; i < 40; ++i)
    passages.push_back("the cat sat on the hat " + std::string(static_cast<size_t>(i), 'a') + " end");
  const auto together = Eval(passages, 3);
  ASSERT_TRUE(together.ok());
  double nats = 0;
  for (const std::string& passage : passages) nats += Eval({passage})->nats;
  EXPECT_NEAR(together->nats, nats, 1e-9);
  EXPECT_EQ(together->passages, 40);
}

TEST_F(LastWordsTest, RefusesAPassageOfOneWord) {
  for (const std::string bad : {"", "word", " word", "a word "}) {
    const auto result = Eval({"the cat", bad});
    ASSERT_FALSE(result.ok()) << bad;
    EXPECT_THAT(result.status().message(), HasSubstr("passage 2"));
  }
}

}  // namespace
}  // namespace omni
