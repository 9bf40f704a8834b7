#include "engine/around/safety_build.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/around/safety_projection.h"
#include "engine/decode/cpu_decoder.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SafetyBuild : public ::testing::Test {
 protected:
  static std::string Text() {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "the sea was calm and the ship was late that day; ";
    return text;
  }
  absl::StatusOr<BuiltPolytope> Build(const std::vector<std::string>& denied, PolytopeRecipe recipe) {
    return BuildPolytope(model_.weights(), model_, tokenizer_, pool_, {Text()}, denied, recipe);
  }

  testing::RandomModel model_{testing::TinyConfig(), 5};
  Tokenizer tokenizer_ = *Tokenizer::Train(Text(), model_.config().vocab);
  WorkerPool pool_{2};
};

TEST_F(SafetyBuild, WhatAllowedTextSaysIsInside) {
  PolytopeRecipe recipe;
  recipe.half_spaces = 12;
  recipe.epsilon = 1e-3f;
  const absl::StatusOr<BuiltPolytope> built = Build({}, recipe);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(built->polytope.half_spaces(), built->anchors);
  EXPECT_GT(built->anchors, 3);
  ASSERT_TRUE(CheckPolytope(built->polytope).ok()) << CheckPolytope(built->polytope);
  const absl::StatusOr<Projector> projector = Projector::Make(built->polytope);
  ASSERT_TRUE(projector.ok()) << projector.status();

  // The same hidden states, stepped.
  CpuDecoder decoder(model_.weights(), pool_);
  SessionState state(model_.config());
  std::vector<TokenId> tokens = tokenizer_.Encode(Text());
  tokens.insert(tokens.begin(), Tokenizer::kEndOfText);
  double closest = -1e9;
  for (TokenId token : tokens) {
    BatchRow row{&state, token};
    row.want_hidden = true;
    ASSERT_TRUE(RunBatch(decoder, model_.config(), model_, pool_, {&row, 1}).ok());
    for (double s : projector->Violations(decoder.hidden(0))) {
      EXPECT_LE(s, 0);
      closest = std::max(closest, s);
    }
  }
  EXPECT_NEAR(closest, -1e-3, 1e-5);  // each bound is one that was reached
}

TEST_F(SafetyBuild, ADeniedTokenIsNoLikelierThanTheTokensBesideIt) {
  PolytopeRecipe recipe;
  recipe.half_spaces = 10;
  recipe.epsilon = 0;
  const absl::StatusOr<BuiltPolytope> built = Build({"sea", "no such single token"}, recipe);
  ASSERT_TRUE(built.ok()) << built.status();
  const std::vector<TokenId> denied = TokensOfWord(tokenizer_, "sea");
  ASSERT_FALSE(denied.empty());
  EXPECT_EQ(built->denied, std::ssize(denied));
  EXPECT_THAT(built->not_denied, ElementsAre("no such single token"));
  EXPECT_THAT(built->polytope.labels.back(), HasSubstr("sea"));
  const absl::StatusOr<Projector> projector = Projector::Make(built->polytope);
  ASSERT_TRUE(projector.ok()) << projector.status();

  // A hidden state that says the word and nothing else.
  const ModelWeights& weights = model_.weights();
  const auto logit = [&](TokenId token, const std::vector<float>& y) {
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      sum +=
          static_cast<double>(y[i]) *
          weights.embedding
              .base[static_cast<int64_t>(token.index()) * weights.embedding.stride + static_cast<int64_t>(i)];
    }
    return sum * static_cast<double>(weights.embedding_scale[token.index()]);
  };
  std::vector<float> y(static_cast<size_t>(weights.config.d));
  for (size_t i = 0; i < y.size(); ++i) {
    y[i] = weights.embedding.base[static_cast<int64_t>(denied[0].index()) * weights.embedding.stride +
                                  static_cast<int64_t>(i)];
  }
  const auto best = [&](const std::vector<float>& of) {
    double most = -1e30;
    for (int32_t t = 0; t < weights.config.vocab; ++t) most = std::max(most, logit(TokenId(t), of));
    return most;
  };
  EXPECT_EQ(best(y), logit(denied[0], y));
  const double before = logit(denied[0], y);
  const absl::StatusOr<Projection> done = projector->Project(y);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_FALSE(done->inside);
  double beside = -1e30;  // the likeliest of the others
  for (int32_t t = 0; t < weights.config.vocab; ++t) {
    if (TokenId(t) != denied[0]) beside = std::max(beside, logit(TokenId(t), y));
  }
  EXPECT_LE(logit(denied[0], y), beside + 1e-3);
  EXPECT_LT(logit(denied[0], y), 0.1 * before);
}

TEST_F(SafetyBuild, IsTheSameWhateverTheThreads) {
  PolytopeRecipe recipe;
  recipe.half_spaces = 8;
  const absl::StatusOr<BuiltPolytope> two = Build({}, recipe);
  WorkerPool one(1);
  const absl::StatusOr<BuiltPolytope> alone =
      BuildPolytope(model_.weights(), model_, tokenizer_, one, {Text()}, {}, recipe);
  ASSERT_TRUE(two.ok() && alone.ok());
  EXPECT_EQ(two->polytope.normals, alone->polytope.normals);
  EXPECT_EQ(two->polytope.bounds, alone->polytope.bounds);
}

TEST_F(SafetyBuild, RefusesWhatLeavesNoAnchorAndTextsWithoutTokens) {
  PolytopeRecipe recipe;
  recipe.half_spaces = 1;
  EXPECT_THAT(std::string(Build({"sea"}, recipe).status().message()), HasSubstr("leave no anchor of 1"));
  const absl::StatusOr<BuiltPolytope> none =
      BuildPolytope(model_.weights(), model_, tokenizer_, pool_, {""}, {}, {});
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("no token"));
}

}  // namespace
}  // namespace omni
