// A memory of contexts: what followed, in this text, where the last tokens were these and the hidden state
// was like this one.
//
// For each order n = 1 .. kContextOrders, the key of a place is the sign projection of its hidden state bound
// with a vector of its last n tokens, and its value is the token that came next. Of a place to predict, the
// bundle at the address of its last n tokens is bound with its key; the tokens stored there are ranked by how
// much nearer their vectors are to that than chance would have them. Places with other tokens are noise,
// places with the same tokens count as their hidden states are alike: a kernel estimate whose sum is the
// superposition.
//
//     p_0 = model,   p_n = (1 - w) p_{n-1} + w m_n          w by order, by how clear the best recall is, and
//                                                           by how sure the distribution before it is
//
// The weights calibrate themselves: after each token that becomes known, w moves towards the share of its
// probability that m_n had. Nothing is trained beforehand, and nothing outlives the session.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/around/memory_vector.h"
#include "engine/base/ids.h"

namespace omni {

inline constexpr int kContextOrders = 3;

// The bits of a hidden state: signs of 10 000 random projections, by Hadamard transforms of the state with
// random signs, padded to a power of two. Angles between states become distances between bits.
class SignProjection {
 public:
  explicit SignProjection(int64_t d);
  HyperVector operator()(std::span<const float> hidden) const;  // thread-safe

 private:
  int64_t d_, padded_;
  std::vector<uint64_t> signs_;  // of every round, a bit an element
};

// The vectors of the tokens, and the projection: shared by all sessions of a model, read only.
struct ContextCode {
  ContextCode(int64_t d, int64_t vocab);
  SignProjection project;
  std::vector<HyperVector> tokens;
};

// A weight for each kind of moment, which follows what would have been right.
class MixtureWeights {
 public:
  static constexpr int kClarities = 6, kCertainties = 5;
  MixtureWeights();
  // The kind: which source, how clear it is (0 ..), and the largest probability before it.
  static int Kind(int order, int clarity, float largest);
  float weight(int kind) const { return weights_[static_cast<size_t>(kind)].value; }
  // The token that came had these probabilities, before the source and in it.
  void Learn(int kind, double before, double source);

 private:
  struct Weight {
    float value = 0.05f;
    int32_t seen = 0;
  };
  std::vector<Weight> weights_;
};

// What a source says of the next token: some tokens, with probabilities that add up to 1.
struct ContextGuess {
  int order = 0;  // 0: nothing
  int clarity = 0;
  std::vector<std::pair<TokenId, float>> tokens;
};

// A distribution and the guesses mixed into it.
struct MixedGuesses {
  float weight = 0;  // of all sources together
  int order = 0;     // the highest that had a say
};

// Mixes guesses into `probabilities`, [V], lowest order first, and keeps what Learn needs.
class GuessMixer {
 public:
  MixedGuesses Mix(std::span<const ContextGuess> guesses, std::span<float> probabilities);
  // After Mix: the token that came. `probabilities` as Mix got them is not needed any more.
  void Learn(TokenId came);

 private:
  struct Source {
    int kind;
    std::vector<std::pair<TokenId, float>> tokens;
    std::vector<float> before;  // of those tokens
    float weight;
  };
  MixtureWeights weights_;
  std::vector<Source> sources_;
};

// Not thread-safe. At most kBanks bundles an order are made, as they are needed: 20 KiB each. A copy goes its
// own way.
class ContextMemory {
 public:
  static constexpr int64_t kBanks = 2000;

  explicit ContextMemory(std::shared_ptr<const ContextCode> code);
  ContextMemory(const ContextMemory& other);
  ContextMemory& operator=(const ContextMemory&) = delete;

  int64_t bytes() const;
  // What one that has read so many tokens takes at most.
  static int64_t MostBytes(int64_t tokens);

  // The place after `history`, whose last token's hidden state this is: guesses by order, lowest first; those
  // of orders without any are left out.
  std::vector<ContextGuess> Ask(std::span<const TokenId> history, std::span<const float> hidden);
  // What came at the place that Ask was asked about last.
  void Learn(TokenId came);

 private:
  struct Bank {
    Bundle bundle;
    std::vector<TokenId> values;  // distinct
    int64_t items = 0;
  };
  struct Place {
    size_t order = 0, bank = 0;  // banks_[order][bank]
    HyperVector key;
  };
  Bank& At(const Place& place) { return *banks_[place.order][place.bank]; }
  Place PlaceOf(int order, std::span<const TokenId> history, const HyperVector& projected);

  std::shared_ptr<const ContextCode> code_;
  std::array<std::vector<std::unique_ptr<Bank>>, kContextOrders> banks_;
  std::vector<Place> asked_;
};

// The same with exact counts in the place of bundles and hidden states, to compare with.
class NgramCache {
 public:
  NgramCache();
  ~NgramCache();
  std::vector<ContextGuess> Ask(std::span<const TokenId> history);
  void Learn(TokenId came);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
