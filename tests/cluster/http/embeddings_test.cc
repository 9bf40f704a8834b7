#include "cluster/http/embeddings.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/escaping.h>
#include <nlohmann/json.hpp>

#include "engine/text/prompt.h"
#include "tests/cluster/http/request_fixture.h"

namespace omni {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

class EmbeddingsTest : public testing::RequestTest {
 protected:
  absl::StatusOr<EmbeddingsRequest> Read(const std::string& body) { return ReadEmbeddings(body, model_); }
};

TEST_F(EmbeddingsTest, TextsAndTokensAreRead) {
  const auto one = Read(R"({"model": "mini", "input": "the sea", "user": "u"})");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_FALSE(one->base64);
  ASSERT_EQ(one->texts.size(), 1u);
  EXPECT_TRUE(one->texts[0].embed);
  EXPECT_EQ(one->texts[0].prompt, PromptTokens(tokenizer_, "the sea"));
  const auto several = Read(R"({"input": ["a", "b"], "encoding_format": "base64"})");
  ASSERT_TRUE(several.ok()) << several.status();
  EXPECT_TRUE(several->base64);
  EXPECT_EQ(several->texts.size(), 2u);
  EXPECT_EQ(several->prompt_tokens, 4);
  EXPECT_THAT(Read(R"({"input": [97, 98]})")->texts[0].prompt, ElementsAre(TokenId(97), TokenId(98)));
  EXPECT_EQ(Read(R"({"input": [[97, 98], [99]], "encoding_format": "float"})")->texts.size(), 2u);
}

TEST_F(EmbeddingsTest, WhatIsWrongIsNamed) {
  for (const auto& [body, param] : std::vector<std::pair<std::string, std::string>>{
           {"{}", "input"},
           {R"({"input": ""})", "input"},
           {R"({"input": ["a", ""]})", "input"},
           {R"({"input": []})", "input"},
           {R"({"input": {}})", "input"},
           {R"({"input": [1, "a"]})", "input"},
           {R"({"input": [260]})", "input"},
           {R"({"input": "a", "encoding_format": "int8"})", "encoding_format"},
           {R"({"input": "a", "encoding_format": 3})", "encoding_format"},
           {R"({"input": "a", "adapter": "me"})", "adapter"},
           {R"({"input": "a", "context_memory": true})", "context_memory"},
           {R"({"input": "a", "dimensions": 8})", "dimensions"}}) {
    ExpectBad(Read(body).status(), param, "'");
  }
  ExpectBad(Read("[").status(), "", "the body");
  EXPECT_TRUE(absl::IsNotFound(Read(R"({"model": "other", "input": "a"})").status()));
  EXPECT_EQ(ErrorCode(Read(R"({"input": ")" + std::string(100, 'q') + "\"}").status()),
            "context_length_exceeded");
}

TEST_F(EmbeddingsTest, MoreThanOneRequestMayHoldIsRefused) {
  json many = json::array();
  for (size_t i = 0; i <= kMostEmbeddings; ++i) many.push_back("a");
  ExpectBad(Read(json{{"input", many}}.dump()).status(), "input", "2048");
  model_.max_context = 1 << 20;
  const std::string half(kMostEmbeddedTokens / 2, 'q');
  ExpectBad(Read(json{{"input", {half, half}}}.dump()).status(), "input", "300000");
}

TEST_F(EmbeddingsTest, NumbersAreAListOrTheirBytes) {
  std::vector<AnswerChoice> choices(2);
  choices[0].embedding = {1.5f, -2};
  choices[1].embedding = {0, 0.25f};
  const json list = json::parse(EmbeddingsAnswer("mini", false).Whole(choices, {7, 0}));
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["model"], "mini");
  EXPECT_EQ(list["usage"], json({{"prompt_tokens", 7}, {"total_tokens", 7}}));
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][1]["object"], "embedding");
  EXPECT_EQ(list["data"][1]["index"], 1);
  EXPECT_EQ(list["data"][0]["embedding"], json({1.5, -2.0}));
  const json coded = json::parse(EmbeddingsAnswer("mini", true).Whole(choices, {7, 0}));
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(coded["data"][0]["embedding"].get<std::string>(), &bytes));
  float values[2];
  ASSERT_EQ(bytes.size(), sizeof values);
  std::memcpy(values, bytes.data(), sizeof values);
  EXPECT_THAT(values, ElementsAre(1.5f, -2.0f));
}

}  // namespace
}  // namespace omni
