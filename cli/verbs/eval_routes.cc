#include "cli/verbs/eval_routes.h"

#include <array>
#include <functional>
#include <memory>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/terminal.h"
#include "engine/base/json.h"
#include "engine/decode/eval.h"
#include "engine/decode/follow_routes.h"
#include "store/cache/route_statistics.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/tile_index.h"

namespace omni::cli {
namespace {

constexpr std::array<int64_t, 3> kCaches = {8, 16, 32};  // experts of each layer that are kept

// Where a model's tiles lie, whether they are in memory or not.
struct OpenIndex {
  ModelFiles files;
  std::vector<PackHeader> packs;
  std::unique_ptr<TileIndex> index;
  int64_t tile_bytes = 0;  // on disk
};

absl::StatusOr<std::unique_ptr<OpenIndex>> ReadIndex(const std::string& path) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path);
  if (!files.ok()) return files.status();
  auto open = std::make_unique<OpenIndex>(OpenIndex{*std::move(files), {}, nullptr});
  absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(open->files);
  if (!packs.ok()) return packs.status();
  open->packs = *std::move(packs);
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(open->files.PathOf(kDeltasFolder));
  if (!db.ok()) return db.status();
  absl::StatusOr<std::unique_ptr<TileIndex>> index = TileIndex::Read(open->files, *db, open->packs);
  if (!index.ok()) return index.status();
  open->index = *std::move(index);
  if (!open->packs.empty()) open->tile_bytes = open->packs.front().stride;
  return open;
}

struct Sums {
  int64_t asked = 0, known = 0;
};

std::vector<std::vector<TokenId>> Pieces(const Tokenizer& tokenizer, const std::string& text, bool carry) {
  std::vector<std::vector<TokenId>> pieces;
  if (carry) return {tokenizer.Encode(text)};
  for (std::string_view document : SplitDocuments(text)) {
    std::vector<TokenId> tokens = {Tokenizer::kEndOfText};
    for (TokenId token : tokenizer.Encode(document)) tokens.push_back(token);
    pieces.push_back(std::move(tokens));
  }
  return pieces;
}

nlohmann::json Figures(const RouteStatistics& statistics, const Sums& sums,
                       const std::vector<LruSimulation>& caches, int64_t tile_bytes) {
  nlohmann::json json = {
      {"tokens", statistics.tokens()},
      {"same_expert", statistics.same_expert()},
      {"same_region", statistics.same_region()},
      {"one_hop", statistics.one_hop()},
      {"entropy", statistics.entropy()},
      {"token_information", statistics.token_information()},
      {"known_ahead",
       sums.asked == 0 ? 0.0 : static_cast<double>(sums.known) / static_cast<double>(sums.asked)}};
  for (size_t i = 0; i < caches.size(); ++i) {
    const std::string experts = absl::StrCat(kCaches[i]);
    json["hit_" + experts] = caches[i].hit_share();
    json["disk_bytes_per_token_" + experts] =
        static_cast<double>(caches[i].misses() * tile_bytes) / static_cast<double>(statistics.tokens());
  }
  return json;
}

void Print(const nlohmann::json& figures) {
  const auto percent = [&](const char* key) { return 100 * figures.at(key).get<double>(); };
  PrintF("tokens             %d\n", figures.at("tokens").get<int64_t>());
  PrintF("same expert        %.1f %%\n", percent("same_expert"));
  PrintF("same region        %.1f %%\n", percent("same_region"));
  PrintF("one hop            %.1f %%\n", percent("one_hop"));
  PrintF("entropy            %.2f bits\n", figures.at("entropy").get<double>());
  PrintF("token information  %.1f %% of it\n", percent("token_information"));
  PrintF("known ahead        %.1f %%\n", percent("known_ahead"));
  for (const int64_t experts : kCaches) {
    const std::string n = absl::StrCat(experts);
    PrintF("cache of %2d        %.1f %% of the bytes hit, %s a token from disk\n", experts,
           percent(("hit_" + n).c_str()),
           HumanBytes(static_cast<int64_t>(figures.at("disk_bytes_per_token_" + n).get<double>())));
  }
}

}  // namespace

absl::Status EvalRoutes(const std::string& path, Model& model, WorkerPool& pool,
                        const std::vector<std::string>& files, const std::vector<std::string>& texts,
                        bool carry, bool json) {
  const ModelConfig& config = model.weights().config;
  const absl::StatusOr<std::unique_ptr<OpenIndex>> open = ReadIndex(path);
  if (!open.ok()) return open.status();
  RouteStatistics statistics(config);
  std::vector<LruSimulation> caches;
  for (const int64_t experts : kCaches) caches.emplace_back(*(*open)->index, experts);
  Sums sums;
  StatusLine status(StderrCanErase());
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::vector<std::vector<TokenId>> pieces = Pieces(model.tokenizer(), texts[i], carry);
    size_t all = 0, done = 0;
    for (const std::vector<TokenId>& tokens : pieces) all += tokens.size();
    if (all == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(files[i], ": there is nothing in it to follow; leave it out"));
    }
    const std::function<void(double)> show = ShowShare(status, "following " + files[i]);
    for (const std::vector<TokenId>& tokens : pieces) {
      const auto show_all = [&](double share) {
        show((static_cast<double>(done) + share * static_cast<double>(tokens.size())) /
             static_cast<double>(all));
      };
      const absl::StatusOr<FollowedRoutes> routes =
          FollowRoutes(model.weights(), model.experts(), pool, tokens,
                       show ? std::function<void(double)>(show_all) : nullptr);
      done += tokens.size();
      if (!routes.ok()) {
        return absl::Status(routes.status().code(), absl::StrCat(files[i], ": ", routes.status().message()));
      }
      statistics.Add(tokens, routes->experts);
      sums.asked += routes->asked;
      sums.known += routes->known;
      for (LruSimulation& cache : caches) {
        for (size_t t = 0; t < tokens.size(); ++t) {
          for (size_t place = 0; place < routes->layers.size(); ++place)
            cache.Use(LayerId(static_cast<int32_t>(routes->layers[place])), routes->Of(t)[place]);
        }
      }
    }
  }
  status.Clear();
  nlohmann::json figures = Figures(statistics, sums, caches, (*open)->tile_bytes);
  if (json) {
    figures["carry"] = carry;
    figures["model_hash"] = model.hash();
    PrintF("%s\n", JsonText(figures));
  } else {
    Print(figures);
  }
  return absl::OkStatus();
}

}  // namespace omni::cli
