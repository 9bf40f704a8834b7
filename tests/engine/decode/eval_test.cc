#include "engine/decode/eval.h"

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/decode/cpu_decoder.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class EvalTest : public ::testing::Test {
 protected:
  EvalTest()
      : model_(testing::TinyConfig(), 3), tokenizer_(*Tokenizer::Train("aaa bbb the cat the hat", 300)) {}

  EvalResult Eval(std::string_view text, const EvalOptions& options = {}, int threads = 1) {
    WorkerPool pool(threads);
    const auto result = EvalText(model_.weights(), model_, tokenizer_, pool, text, options);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : EvalResult();
  }

  // The same by single steps.
  double Stepped(const std::vector<TokenId>& tokens) {
    WorkerPool pool(1);
    CpuDecoder decoder(model_.weights(), pool);
    SessionState state(model_.config());
    double nats = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const BatchRow row{&state, tokens[i], true};
      const auto logits = RunBatch(decoder, model_.config(), model_, pool, {&row, 1});
      double sum = 0;
      for (float logit : *logits) sum += std::exp(static_cast<double>(logit));
      nats += std::log(sum) - (*logits)[tokens[i + 1].index()];
    }
    return nats;
  }

  std::vector<TokenId> Framed(std::string_view document) {
    std::vector<TokenId> tokens = tokenizer_.Encode(document);
    tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
    tokens.push_back(Tokenizer::kEndOfText);
    return tokens;
  }

  testing::RandomModel model_;
  Tokenizer tokenizer_;
};

TEST_F(EvalTest, FewerTokensAreEachDocumentsFirstOnes) {
  const std::string text = "the cat\n<|endoftext|>\nthe hat and the cat\n<|endoftext|>\naaa bbb aaa bbb";
  EvalOptions options;
  options.max_tokens = 6;
  const EvalResult result = Eval(text, options);
  EXPECT_EQ(result.tokens, 6);
  double nats = 0;
  int64_t bytes = 0;
  for (const std::string_view document : SplitDocuments(text)) {
    std::vector<TokenId> tokens = Framed(document);
    tokens.resize(3);
    nats += Stepped(tokens);
    for (size_t i = 1; i < 3; ++i) bytes += static_cast<int64_t>(tokenizer_.Bytes(tokens[i]).size());
  }
  EXPECT_NEAR(result.nats, nats, 1e-4);
  EXPECT_EQ(result.bytes, bytes);
  options.max_tokens = 1000;  // more than there are
  EXPECT_EQ(Eval(text, options).nats, Eval(text).nats);
  EXPECT_EQ(Eval(text, options).bytes, Eval(text).bytes);
}

TEST_F(EvalTest, APolicyRoutesInTheRoutersPlace) {
  class Fixed : public RoutePolicy {
   public:
    ExpertId Choose(const RouteChoice& choice) override {
      ++asked;
      return keep ? choice.nearest : ExpertId(0);
    }
    bool keep = true;
    int asked = 0;
  } policy;
  EvalOptions options;
  options.policy = &policy;
  EXPECT_EQ(Eval("the cat and the hat", options).nats, Eval("the cat and the hat").nats);
  EXPECT_GT(policy.asked, 0);
  policy.keep = false;
  EXPECT_NE(Eval("the cat and the hat", options).nats, Eval("the cat and the hat").nats);
}

TEST(SplitDocumentsTest, TheSeparatorOwnsTheNewlinesAroundIt) {
  EXPECT_THAT(SplitDocuments("one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n"),
              ElementsAre("one\ntwo", "three"));
  EXPECT_THAT(SplitDocuments("one\n<|endoftext|>\nthe rest\n"), ElementsAre("one", "the rest\n"));
  EXPECT_THAT(SplitDocuments("one\n\n<|endoftext|>\n\ntwo"), ElementsAre("one\n", "\ntwo"));
  EXPECT_THAT(SplitDocuments("<|endoftext|>\n<|endoftext|>\na\n<|endoftext|>"), ElementsAre("a"));
  EXPECT_THAT(SplitDocuments("not a line: <|endoftext|>\n x"), ElementsAre("not a line: <|endoftext|>\n x"));
  EXPECT_THAT(SplitDocuments(""), ElementsAre());
}

TEST(SplitDocumentsTest, SeparatorsMayEndWithCarriageReturnAndLineFeed) {
  EXPECT_THAT(SplitDocuments("one\r\ntwo\r\n<|endoftext|>\r\nthree\r\n<|endoftext|>\r\n"),
              ElementsAre("one\r\ntwo", "three"));
  EXPECT_THAT(SplitDocuments("\r\n<|endoftext|>\r\n\r\n<|endoftext|>\r\na"), ElementsAre("a"));
  // Of other separators a CR is text.
  EXPECT_THAT(SplitDocuments("one\r\n<|endoftext|>\ntwo"), ElementsAre("one\r", "two"));
  EXPECT_THAT(SplitDocuments("one\n<|endoftext|>\r\ntwo"), ElementsAre("one", "two"));
  EXPECT_THAT(SplitDocuments("<|endoftext|>\r"), ElementsAre("<|endoftext|>\r"));
  EXPECT_THAT(SplitDocuments("<|endoftext|>\r\r\n"), ElementsAre("<|endoftext|>\r\r\n"));
}

TEST(NegativeLogLikelihoodTest, IsTheLogOfTheSoftmaxAndSurvivesLargeLogits) {
  const float logits[] = {1.0f, 2.0f, 3.0f};
  EXPECT_NEAR(NegativeLogLikelihood(logits, 3, TokenId(1)), std::log(std::exp(-1.0) + 1 + std::exp(1.0)),
              1e-14);
  const float large[] = {1000.0f, 1000.0f};
  EXPECT_NEAR(NegativeLogLikelihood(large, 2, TokenId(0)), std::log(2.0), 1e-12);
}

TEST_F(EvalTest, PredictsEveryTokenAndTheEndOfEveryDocument) {
  const std::string a = "the cat sat on the hat", b = "bbb", c = "aaa the cat\nand more of it, much more";
  const EvalResult result = Eval(a + "\n<|endoftext|>\n" + b + "\n<|endoftext|>\n" + c);
  const double want = Stepped(Framed(a)) + Stepped(Framed(b)) + Stepped(Framed(c));
  EXPECT_NEAR(result.nats, want, 1e-9 * want);
  EXPECT_EQ(result.bytes, static_cast<int64_t>(a.size() + b.size() + c.size()));
  EXPECT_EQ(result.tokens, static_cast<int64_t>(Framed(a).size() + Framed(b).size() + Framed(c).size()) - 3);
  EXPECT_NEAR(result.bits_per_byte(), want / std::log(2.0) / static_cast<double>(result.bytes), 1e-9);
  EXPECT_GT(result.seconds, 0);
}

TEST_F(EvalTest, BatchingAndThreadsChangeNoBit) {
  std::string text;
  for (int i = 0; i < 12; ++i)
    text +=
        std::string(static_cast<size_t>(7 * i + 1), static_cast<char>('a' + i)) + " the cat\n<|endoftext|>\n";
  const double nats = Eval(text).nats;
  EXPECT_EQ(Eval(text, {.rows_per_batch = 1, .parallel_documents = 1}).nats, nats);
  EXPECT_EQ(Eval(text, {.rows_per_batch = 7, .parallel_documents = 3}).nats, nats);
  EXPECT_EQ(Eval(text, {.rows_per_batch = 4, .parallel_documents = 100}, 3).nats, nats);
}

TEST_F(EvalTest, ProgressGrowsToTheWholeText) {
  std::vector<double> shares;
  Eval("aaa\n<|endoftext|>\nthe cat sat on the hat\n<|endoftext|>\nbbb",
       {.rows_per_batch = 2, .parallel_documents = 2, .progress = [&](double s) { shares.push_back(s); }});
  ASSERT_GT(shares.size(), 3u);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_GT(shares.front(), 0);
  EXPECT_NEAR(shares.back(), 1, 1e-6);
}

TEST_F(EvalTest, CarryIsOneStreamThatPredictsAllButItsFirstToken) {
  const std::string text = "cat bbb\n<|endoftext|>\nhat";
  const EvalResult result = Eval(text, {.carry = true, .rows_per_batch = 5});
  const std::vector<TokenId> tokens = tokenizer_.Encode(text);
  const double want = Stepped(tokens);
  EXPECT_NEAR(result.nats, want, 1e-9 * want);
  EXPECT_EQ(result.tokens, static_cast<int64_t>(tokens.size()) - 1);
  EXPECT_EQ(result.bytes, static_cast<int64_t>(text.size() - tokenizer_.Bytes(tokens[0]).size()));
}

TEST_F(EvalTest, RejectsWhatItCannotEvaluate) {
  WorkerPool pool(1);
  const auto message = [&](std::string_view text, const EvalOptions& options, const Tokenizer& tokenizer) {
    return std::string(EvalText(model_.weights(), model_, tokenizer, pool, text, options).status().message());
  };
  EXPECT_THAT(message("", {}, tokenizer_), HasSubstr("nothing to predict"));
  EXPECT_THAT(message("x", {.carry = true}, tokenizer_), HasSubstr("nothing to predict"));
  EXPECT_THAT(message("x", {.rows_per_batch = 0}, tokenizer_), HasSubstr("at least 1"));
  EXPECT_THAT(message("x", {.parallel_documents = 0}, tokenizer_), HasSubstr("at least 1"));
  EXPECT_THAT(message("x", {}, *Tokenizer::Train("abc", 301)),
              HasSubstr("the tokenizer has 301 tokens, the model 300"));
}

TEST_F(EvalTest, TakesATokenizerOfFewerTokensThanTheModelHasRows) {
  tokenizer_ = *Tokenizer::Train("the cat the hat", 258);
  const std::string_view text = "the cat sat";
  const double want = Stepped(Framed(text));
  EXPECT_NEAR(Eval(text).nats, want, 1e-9 * want);
}

TEST_F(EvalTest, KnowsBeforehandWhetherThereIsAnythingToPredict) {
  WorkerPool pool(1);
  for (const bool carry : {false, true}) {
    for (const std::string& text : {std::string(), std::string("<|endoftext|>\n"), std::string("x"),
                                    std::string("xy"), std::string("cat"), std::string("cat hat\n"),
                                    std::string(64, 'a'), std::string(65, 'a'), std::string(66, 'b')}) {
      const auto result = EvalText(model_.weights(), model_, tokenizer_, pool, text, {.carry = carry});
      EXPECT_EQ(AnythingToPredict(text, tokenizer_, carry), result.ok()) << text << ", carry " << carry;
    }
  }
}

}  // namespace
}  // namespace omni
