#include "engine/around/safety_build.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <span>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "engine/base/splitmix.h"
#include "engine/decode/cpu_decoder.h"

namespace omni {
namespace {

constexpr int64_t kRowsPerBatch = 64;

std::vector<float> Embedding(const ModelWeights& weights, TokenId token) {
  const int64_t d = weights.config.d;
  std::vector<float> row(static_cast<size_t>(d));
  const int8_t* q = weights.embedding.base + static_cast<int64_t>(token.index()) * weights.embedding.stride;
  const float scale = weights.embedding_scale[token.index()];
  for (int64_t i = 0; i < d; ++i) row[static_cast<size_t>(i)] = static_cast<float>(q[i]) * scale;
  return row;
}

// Spherical k-means. points: [n, d] of length 1. The centres, [k, d] of length 1, k at most `most`, and of
// every point its centre.
struct Clusters {
  std::vector<float> centres;
  std::vector<int32_t> of;
  int64_t count = 0;
};

Clusters Cluster(const std::vector<float>& points, int64_t d, int64_t most, int64_t rounds, uint64_t seed,
                 WorkerPool& pool) {
  const kernels::Ops& ops = kernels::ActiveOps();
  const int64_t n = static_cast<int64_t>(points.size()) / d;
  Clusters clusters;
  clusters.count = std::min(most, n);
  clusters.of.assign(static_cast<size_t>(n), 0);
  // Start at points drawn without repetition.
  std::vector<std::pair<uint64_t, int64_t>> drawn;
  for (int64_t i = 0; i < n; ++i) drawn.emplace_back(CounterRandom(seed, static_cast<uint64_t>(i)), i);
  std::sort(drawn.begin(), drawn.end());
  for (int64_t c = 0; c < clusters.count; ++c) {
    const float* point = points.data() + drawn[static_cast<size_t>(c)].second * d;
    clusters.centres.insert(clusters.centres.end(), point, point + d);
  }
  const auto assign = [&] {
    pool.Run(n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float best = -2;
        for (int64_t c = 0; c < clusters.count; ++c) {
          const float cosine = ops.dot(points.data() + i * d, clusters.centres.data() + c * d, d);
          if (cosine <= best) continue;
          best = cosine;
          clusters.of[static_cast<size_t>(i)] = static_cast<int32_t>(c);
        }
      }
    });
  };
  assign();
  std::vector<double> sums;
  std::vector<float> centre(static_cast<size_t>(d));
  for (int64_t round = 0; round < rounds; ++round) {
    sums.assign(static_cast<size_t>(clusters.count * d), 0);
    for (int64_t i = 0; i < n; ++i) {
      double* sum = sums.data() + clusters.of[static_cast<size_t>(i)] * d;
      for (int64_t j = 0; j < d; ++j) sum[j] += static_cast<double>(points[static_cast<size_t>(i * d + j)]);
    }
    for (int64_t c = 0; c < clusters.count; ++c) {
      for (int64_t j = 0; j < d; ++j)
        centre[static_cast<size_t>(j)] = static_cast<float>(sums[static_cast<size_t>(c * d + j)]);
      // A cluster that has lost its points, or whose points cancel, stays where it was.
      if (ScaleToUnit(centre)) std::copy(centre.begin(), centre.end(), clusters.centres.begin() + c * d);
    }
    const std::vector<int32_t> before = clusters.of;
    assign();
    if (clusters.of == before) break;
  }
  return clusters;
}

// The hidden states of one text, batch by batch.
absl::Status ForHidden(const ModelWeights& weights, ExpertSource& source, WorkerPool& pool,
                       std::span<const TokenId> tokens,
                       const std::function<void(Decoder& decoder, int64_t rows)>& take) {
  CpuDecoder decoder(weights, pool);
  SessionState state(weights.config);
  std::vector<BatchRow> rows;
  for (size_t begin = 0; begin < tokens.size(); begin += kRowsPerBatch) {
    rows.clear();
    for (size_t i = begin; i < std::min(tokens.size(), begin + kRowsPerBatch); ++i) {
      BatchRow row;
      row.state = &state;
      row.token = tokens[i];
      row.want_hidden = true;
      rows.push_back(row);
    }
    absl::StatusOr<std::span<const float>> done = RunBatch(decoder, weights.config, source, pool, rows);
    if (!done.ok()) return done.status();
    take(decoder, static_cast<int64_t>(rows.size()));
  }
  return absl::OkStatus();
}

std::string Shown(const Tokenizer& tokenizer, TokenId token) {
  const std::string_view bytes = tokenizer.Bytes(token);
  return absl::CHexEscape({bytes.data(), bytes.size()});
}

std::string Short(std::string label) {
  if (label.size() > 255) label.resize(255);
  return label;
}

}  // namespace

std::vector<TokenId> TokensOfWord(const Tokenizer& tokenizer, std::string_view word) {
  std::set<int32_t> found;
  std::string capital(word);
  if (!capital.empty()) capital[0] = absl::ascii_toupper(static_cast<unsigned char>(capital[0]));
  for (const std::string& text :
       {std::string(word), absl::StrCat(" ", std::string(word)), capital, absl::StrCat(" ", capital)}) {
    const std::vector<TokenId> tokens = tokenizer.Encode(text);
    if (tokens.size() == 1) found.insert(tokens[0].value);
  }
  std::vector<TokenId> tokens;
  for (int32_t token : found) tokens.push_back(TokenId(token));
  return tokens;
}

absl::StatusOr<BuiltPolytope> BuildPolytope(const ModelWeights& weights, ExpertSource& source,
                                            const Tokenizer& tokenizer, WorkerPool& pool,
                                            const std::vector<std::string>& allowed,
                                            const std::vector<std::string>& denied,
                                            const PolytopeRecipe& recipe) {
  const int64_t d = weights.config.d;
  BuiltPolytope built;
  Polytope& polytope = built.polytope;
  polytope.name = recipe.name;
  polytope.epsilon = recipe.epsilon;
  polytope.d = d;

  std::set<int32_t> denied_tokens;
  for (const std::string& word : denied) {
    const std::vector<TokenId> tokens = TokensOfWord(tokenizer, word);
    if (tokens.empty()) built.not_denied.push_back(word);
    for (TokenId token : tokens) denied_tokens.insert(token.value);
  }
  built.denied = static_cast<int64_t>(denied_tokens.size());
  built.anchors = recipe.half_spaces - built.denied;
  if (built.anchors < 1) {
    return absl::InvalidArgumentError(absl::StrCat("polytope '", recipe.name, "': ", built.denied,
                                                   " denied tokens leave no anchor of ", recipe.half_spaces,
                                                   " half-spaces; ask for more, or deny fewer words"));
  }

  std::vector<std::vector<TokenId>> texts;
  std::set<int32_t> vocabulary;
  for (const std::string& text : allowed) {
    std::vector<TokenId> tokens = {Tokenizer::kEndOfText};
    for (TokenId token : tokenizer.Encode(text)) {
      if (built.allowed_tokens == recipe.most_tokens) break;
      ++built.allowed_tokens;
      tokens.push_back(token);
      if (denied_tokens.count(token.value) == 0) vocabulary.insert(token.value);
    }
    if (tokens.size() > 1) texts.push_back(std::move(tokens));
  }
  // Their directions; a row of zeros has none.
  std::vector<float> points;
  std::vector<TokenId> members;
  for (int32_t id : vocabulary) {
    std::vector<float> direction = Embedding(weights, TokenId(id));
    if (!ScaleToUnit(direction)) continue;
    points.insert(points.end(), direction.begin(), direction.end());
    members.push_back(TokenId(id));
  }
  if (members.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("polytope '", recipe.name, "': the allowed texts have no token; give some text"));
  }

  const Clusters clusters = Cluster(points, d, built.anchors, recipe.rounds, recipe.seed, pool);
  built.anchors = clusters.count;
  std::vector<double> means(static_cast<size_t>(clusters.count * d));
  std::vector<int64_t> sizes(static_cast<size_t>(clusters.count));
  for (size_t i = 0; i < members.size(); ++i) {
    const auto c = static_cast<size_t>(clusters.of[i]);
    const std::vector<float> row = Embedding(weights, members[i]);
    for (size_t j = 0; j < row.size(); ++j) means[c * row.size() + j] += static_cast<double>(row[j]);
    ++sizes[c];
  }
  for (int64_t c = 0; c < clusters.count; ++c) {
    const auto at = static_cast<size_t>(c);
    std::string label = absl::StrCat("anchor ", c, " of ", sizes[at], " tokens:");
    int shown = 0;
    for (size_t i = 0; i < members.size() && shown < 6; ++i) {
      if (clusters.of[i] != c) continue;
      absl::StrAppend(&label, " '", Shown(tokenizer, members[i]), "'");
      ++shown;
    }
    polytope.labels.push_back(Short(std::move(label)));
    for (int64_t j = 0; j < d; ++j)
      means[static_cast<size_t>(c * d + j)] /= static_cast<double>(std::max<int64_t>(1, sizes[at]));
  }
  polytope.normals = clusters.centres;
  polytope.bounds.assign(static_cast<size_t>(clusters.count), -INFINITY);

  // How far the allowed texts go along the centres.
  const kernels::Ops& ops = kernels::ActiveOps();
  int64_t read = 0;
  for (const std::vector<TokenId>& text : texts) {
    absl::Status done = ForHidden(weights, source, pool, text, [&](Decoder& decoder, int64_t rows) {
      pool.Run(clusters.count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
          float& bound = polytope.bounds[static_cast<size_t>(c)];
          for (int64_t i = 0; i < rows; ++i)
            bound = std::max(bound, ops.dot(polytope.normal(c).data(), decoder.hidden(i).data(), d));
        }
      });
      read += rows;
      if (recipe.progress) {
        recipe.progress(std::min(1.0, static_cast<double>(read) / static_cast<double>(built.allowed_tokens)));
      }
    });
    if (!done.ok()) return done;
  }

  for (int32_t id : denied_tokens) {
    std::vector<float> row = Embedding(weights, TokenId(id)), direction = row;
    if (!ScaleToUnit(direction)) continue;
    float best = -2;
    int64_t nearest = 0;
    for (int64_t c = 0; c < clusters.count; ++c) {
      const float cosine = ops.dot(direction.data(), clusters.centres.data() + c * d, d);
      if (cosine <= best || sizes[static_cast<size_t>(c)] == 0) continue;
      best = cosine;
      nearest = c;
    }
    for (int64_t j = 0; j < d; ++j) {
      const auto at = static_cast<size_t>(j);
      row[at] =
          static_cast<float>(static_cast<double>(row[at]) - means[static_cast<size_t>(nearest * d + j)]);
    }
    if (!ScaleToUnit(row)) continue;
    polytope.normals.insert(polytope.normals.end(), row.begin(), row.end());
    polytope.bounds.push_back(0);
    polytope.labels.push_back(
        Short(absl::StrCat("denied '", Shown(tokenizer, TokenId(id)), "', beside anchor ", nearest)));
  }
  return built;
}

}  // namespace omni
