// A swarm of a random tiny model, and what its sessions say: tokens, and what each tells of itself.
#pragma once

#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "actors/swarm.h"
#include "tests/actors/actors_environment.h"
#include "tests/actors/on_device.h"
#include "tests/actors/testing.h"

namespace omni::testing {

struct Told {
  TokenId token;
  TokenNotes notes;
  std::optional<TokenConfidence> confidence;
};

class SwarmFixture : public ::testing::Test {
 protected:
  void Start(SwarmOptions options) {
    swarm_ = nullptr;
    options.threads = 2;
    auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny_.model.weights(), tiny_.model,
                              tiny_.tokenizer, OnDevice(options));
    ASSERT_TRUE(swarm.ok()) << swarm.status();
    swarm_ = *std::move(swarm);
  }

  // So hot that what little a part changes is seen in the tokens.
  GenerateRequest HotRequest(int64_t prompt, int64_t tokens, uint64_t seed) const {
    GenerateRequest request = MakeRequest(tiny_, prompt, tokens, seed);
    request.sampler.temperature = 2;
    request.sampler.top_k = 0;
    request.sampler.top_p = 1;
    return request;
  }

  std::vector<Told> Say(const GenerateRequest& request, SnapshotPtr from = nullptr) {
    std::vector<Told> told;
    result_ = Generate(request, told, std::move(from));
    EXPECT_TRUE(result_.ok()) << result_.status();
    return told;
  }
  std::vector<std::vector<Told>> SayBesideEachOther(const std::vector<GenerateRequest>& requests) {
    std::vector<std::vector<Told>> told(requests.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < requests.size(); ++i) {
      threads.emplace_back([&, i] {
        const auto result = Generate(requests[i], told[i]);
        EXPECT_TRUE(result.ok()) << result.status();
      });
    }
    for (std::thread& thread : threads) thread.join();
    return told;
  }

  // To the bit, but for confidences.
  static void ExpectSame(const std::vector<Told>& a, const std::vector<Told>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(a[i].token, b[i].token);
      const TokenNotes &of_a = a[i].notes, &of_b = b[i].notes;
      ASSERT_EQ(of_a.safety.has_value(), of_b.safety.has_value());
      ASSERT_EQ(of_a.contexts.has_value(), of_b.contexts.has_value());
      ASSERT_EQ(of_a.recall.has_value(), of_b.recall.has_value());
      if (of_a.safety.has_value()) {
        EXPECT_EQ(of_a.safety->distance, of_b.safety->distance);
        EXPECT_EQ(of_a.safety->half_spaces, of_b.safety->half_spaces);
      }
      if (of_a.contexts.has_value()) {
        EXPECT_EQ(of_a.contexts->weight, of_b.contexts->weight);
        EXPECT_EQ(of_a.contexts->order, of_b.contexts->order);
      }
      if (of_a.recall.has_value()) {
        EXPECT_EQ(of_a.recall->found, of_b.recall->found);
        EXPECT_EQ(of_a.recall->words, of_b.recall->words);
        EXPECT_EQ(of_a.recall->votes, of_b.recall->votes);
      }
    }
  }
  static std::vector<TokenId> Tokens(const std::vector<Told>& told) {
    std::vector<TokenId> tokens;
    for (const Told& t : told) tokens.push_back(t.token);
    return tokens;
  }
  static std::vector<Told> Join(std::vector<Told> a, const std::vector<Told>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  TinyModel tiny_;
  std::unique_ptr<Swarm> swarm_;
  absl::StatusOr<GenerateResult> result_ = absl::UnknownError("none yet");  // of Say

 private:
  absl::StatusOr<GenerateResult> Generate(const GenerateRequest& request, std::vector<Told>& told,
                                          SnapshotPtr from = nullptr) {
    return swarm_->Generate(
        request,
        [&told](const GenerateEvent& event) {
          if (event.is_token) told.push_back({event.token, event.notes, event.confidence});
          return true;
        },
        std::move(from));
  }
};

}  // namespace omni::testing
