#include "cli/bench/bench_stream.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "engine/base/threads.h"
#include "engine/decode/route_policy.h"
#include "engine/model/session_state.h"
#include "engine/text/sampler.h"
#include "store/plan/disk_speed.h"
#include "store/plan/machine.h"
#include "store/plan/memory_plan.h"
#include "store/plan/memory_speed.h"

namespace omni::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kTokensPerLook =
    2;  // at the machine's limits: a disk shared with others changes within seconds

double Seconds(std::chrono::nanoseconds t) { return std::chrono::duration<double>(t).count(); }

// What a token moves to and from memory: every shared weight, an expert a layer, and the states, which are
// written too.
double MemoryBytes(const Model& model, int64_t positions) {
  const ModelConfig& c = model.weights().config;
  int64_t expert_layers = 0;
  for (int64_t l = 0; l < c.layers; ++l) expert_layers += !c.IsAttention(l);
  const int64_t expert = TilesPerExpert(c) * TileLayout(c.d).payload();
  const int64_t keys_and_values =
      (c.layers - expert_layers) * std::min(positions, c.window) * 2 * c.kv_heads * c.head_dim() * 2;
  return static_cast<double>(model.stats().shared_bytes + expert_layers * (expert + 2 * c.d * c.r * 4) +
                             keys_and_values);
}

// Bytes a second.
struct Limits {
  double memory = 0;
  double random = 0, sequential = 0;  // of the disk
};

absl::StatusOr<Limits> MeasureLimits(const std::string& path, const Model& model, int threads) {
  Limits limits;
  const std::span<const uint8_t> memory = model.cache()->filled_memory();
  limits.memory = ReadBandwidth(
      memory.data(), std::min<int64_t>(static_cast<int64_t>(memory.size()), int64_t{1} << 30), threads);
  DiskSpeedOptions options;
  options.block_bytes = model.plan()->tile_bytes;
  options.reads_in_flight = 32;
  options.limit = std::chrono::milliseconds(200);
  options.free_bytes = Machine().FreeMemory().value_or(INT64_MAX);
  absl::StatusOr<DiskSpeed> disk = MeasureDiskSpeed(path, options);
  if (!disk.ok()) return disk.status();
  limits.random = disk->random_bytes_per_s;
  limits.sequential = disk->sequential_bytes_per_s;
  return limits;
}

// The routes of the case, the moments at which tokens begin, and between tokens a look at the limits. On the
// swarm's thread.
class Driver : public RoutePolicy {
 public:
  Driver(Node& node, const StreamCaseOptions& options)
      : path_(node.path()),
        model_(node.model()),
        which_(options.which),
        threads_(options.threads),
        first_(static_cast<int64_t>(options.prompt.size()) - 1 + options.warmup),
        looks_(options.measure_limits && model_.cache() != nullptr) {
    const ModelConfig& config = model_.weights().config;
    const int64_t tokens = options.warmup + options.tokens + static_cast<int64_t>(options.prompt.size()) + 1;
    if (which_ != StreamCase::kOwn) trace_ = DrawTrace(config, tokens, options.seed);
    place_.assign(static_cast<size_t>(config.layers), -1);
    int64_t place = 0;
    for (int64_t l = 0; l < config.layers; ++l) {
      if (!config.IsAttention(l)) place_[static_cast<size_t>(l)] = place++;
    }
  }

  // The token begins before anything of it is announced.
  std::optional<ExpertId> KnownAtStart(LayerId layer, int64_t /*position*/) override {
    const int64_t place = place_[layer.index()];
    if (place == 0) BeginToken();
    if (which_ != StreamCase::kMixedKnown) return std::nullopt;
    return Decide(place);
  }
  std::optional<ExpertId> KnownNext(LayerId layer, int64_t /*position*/) override {
    if (which_ != StreamCase::kMixedKnown) return std::nullopt;
    return At(static_cast<int64_t>(tokens_.size()), place_[layer.index()]);
  }
  std::optional<ExpertId> KnownBefore(LayerId layer, int64_t /*position*/) override {
    if (which_ == StreamCase::kOwn || which_ == StreamCase::kMixedKnown) return std::nullopt;
    return Decide(place_[layer.index()]);
  }
  ExpertId Choose(const RouteChoice& choice) override {
    chosen_.push_back(choice.nearest);
    return which_ == StreamCase::kOwn ? choice.nearest : Decide(place_[choice.layer.index()]);
  }

  const std::vector<ExpertId>& chosen() const { return chosen_; }
  const absl::Status& status() const { return status_; }
  void Count(StreamCaseResult* result) const;
  // Fills in the limits and the roofline; result->memory_bytes must be there.
  void CountLimits(StreamCaseResult* result) const;

 private:
  struct Token {
    Clock::time_point end_of_last, start;
    CacheStats stats;  // as it began
  };

  void BeginToken() {
    Token token;
    // What the disk does for the next token while its speed is measured would be in nobody's time.
    if (LooksNow()) WaitForForeseen();
    token.end_of_last = Clock::now();
    ExpertCache* const cache = model_.cache();
    if (which_ == StreamCase::kCold && cache != nullptr) cache->Forget();
    Look();
    if (cache != nullptr) token.stats = cache->stats();
    token.start = Clock::now();
    tokens_.push_back(token);
  }

  bool LooksNow() const {
    const int64_t counted = static_cast<int64_t>(tokens_.size()) - first_;
    return looks_ && counted >= 0 && counted % kTokensPerLook == 0 && status_.ok();
  }
  void WaitForForeseen() const {
    while (model_.cache()->stats().foreseen > 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  void Look() {
    if (!LooksNow()) return;
    absl::StatusOr<Limits> limits = MeasureLimits(path_, model_, threads_);
    if (limits.ok()) {
      limits_.push_back(*limits);
    } else {
      status_ = limits.status();
    }
  }
  ExpertId Decide(int64_t place) const {
    return At(which_ == StreamCase::kHot ? 0 : static_cast<int64_t>(tokens_.size()) - 1, place);
  }
  ExpertId At(int64_t token, int64_t place) const {
    return ExpertId(static_cast<int32_t>(trace_.At(std::min(token, trace_.tokens() - 1), place)));
  }
  double SecondsOf(size_t token) const {
    return Seconds(tokens_[token + 1].end_of_last - tokens_[token].start);
  }

  const std::string& path_;
  const Model& model_;
  StreamCase which_;
  int threads_;
  int64_t first_;  // counted token
  bool looks_;
  RoutingTrace trace_;
  std::vector<int64_t> place_;    // by layer: its number among expert layers; -1: attention
  std::vector<Token> tokens_;     // those of the prompt and the warm-up too
  std::vector<Limits> limits_;    // before every kTokensPerLook counted ones, and after the last
  std::vector<ExpertId> chosen_;  // by the routers
  absl::Status status_;           // of the looks
};

double Share(int64_t part, int64_t of) {
  return of > 0 ? static_cast<double>(part) / static_cast<double>(of) : 0;
}

void Driver::Count(StreamCaseResult* result) const {
  const auto first = static_cast<size_t>(first_);
  std::vector<double> times;
  for (size_t i = first; i + 1 < tokens_.size(); ++i) times.push_back(SecondsOf(i));
  if (times.empty()) return;
  result->tokens = static_cast<int64_t>(times.size());
  const double n = static_cast<double>(times.size());
  const CacheStats &from = tokens_[first].stats, &to = tokens_.back().stats;
  const double total = std::accumulate(times.begin(), times.end(), 0.0);
  result->seconds = total / n;
  std::sort(times.begin(), times.end());
  result->p50_seconds = times[times.size() / 2];
  result->p99_seconds = times[std::min(times.size() - 1, times.size() * 99 / 100)];
  result->disk_bytes = static_cast<double>(to.read_bytes - from.read_bytes) / n;
  const int64_t hits = to.hits - from.hits, joined = to.joined - from.joined,
                misses = to.misses - from.misses;
  const int64_t guessed = to.guessed - from.guessed;
  result->hit_share = Share(hits, hits + joined + misses);
  result->stall_share = Seconds(to.stall - from.stall) / total;
  result->guessed_share = Share(guessed, guessed + misses);
  result->guessed_used_share = Share(to.guessed_used, to.guessed);  // since the model was opened
  result->hand_overs = static_cast<double>(to.hand_overs - from.hand_overs) / n;
  result->handed_tiles = static_cast<double>(to.handed_tiles - from.handed_tiles) / n;
}

// Each token against the looks around it. Of the disk's two ways that counts which was faster over all
// tokens.
void Driver::CountLimits(StreamCaseResult* result) const {
  double memory_seconds = 0, disk_bytes = 0, random = 0, sequential = 0, overlapped[2] = {0, 0};
  for (int64_t i = 0; i < result->tokens; ++i) {
    const auto look = static_cast<size_t>(i / kTokensPerLook);
    if (look >= limits_.size()) return;
    const Limits &before = limits_[look], &after = limits_[std::min(look + 1, limits_.size() - 1)];
    const auto token = static_cast<size_t>(first_ + i);
    const auto bytes =
        static_cast<double>(tokens_[token + 1].stats.read_bytes - tokens_[token].stats.read_bytes);
    // Before the first tile has been read there is nothing to measure the memory with.
    const double memory =
        2 * result->memory_bytes / ((before.memory > 0 ? before.memory : after.memory) + after.memory);
    const double at_random = 2 * bytes / (before.random + after.random);
    const double in_sequence = 2 * bytes / (before.sequential + after.sequential);
    memory_seconds += memory;
    random += at_random;
    sequential += in_sequence;
    disk_bytes += bytes;
    overlapped[0] += std::max(memory, at_random);
    overlapped[1] += std::max(memory, in_sequence);
  }
  if (result->tokens == 0) return;
  const auto n = static_cast<double>(result->tokens);
  result->memory_bytes_per_s = n * result->memory_bytes / memory_seconds;
  const double disk_seconds = std::min(random, sequential);
  if (disk_bytes > 0) result->disk_bytes_per_s = disk_bytes / disk_seconds;
  const bool before = which_ == StreamCase::kOwn || which_ == StreamCase::kMixedKnown;
  const double seconds = before ? std::min(overlapped[0], overlapped[1]) : memory_seconds + disk_seconds;
  result->roofline_seconds = seconds / n;
}

}  // namespace

const char* StreamCaseName(StreamCase which) {
  switch (which) {
    case StreamCase::kHot:
      return "hot";
    case StreamCase::kMixed:
      return "mixed";
    case StreamCase::kMixedKnown:
      return "mixed_known";
    case StreamCase::kCold:
      return "cold";
    case StreamCase::kOwn:
      return "own";
  }
  return "?";
}

std::vector<StreamCase> AllStreamCases() {
  return {StreamCase::kHot, StreamCase::kMixed, StreamCase::kMixedKnown, StreamCase::kCold, StreamCase::kOwn};
}

absl::StatusOr<StreamCaseResult> RunStreamCase(Node& node, const StreamCaseOptions& options,
                                               absl::FunctionRef<bool(int64_t token)> on_token) {
  StreamCaseResult result;
  result.which = options.which;
  StreamCaseOptions with_threads = options;
  if (with_threads.threads == 0) with_threads.threads = DefaultThreads();
  Driver driver(node, with_threads);
  SwarmOptions swarm_options;
  swarm_options.threads = with_threads.threads;
  swarm_options.device = options.device;
  const bool guess = options.which == StreamCase::kOwn && options.prefetch;
  swarm_options.coordinator.predict_ahead = guess ? 2 : 0;
  swarm_options.coordinator.max_rows = 1, swarm_options.coordinator.max_active = 1;
  if (absl::Status s = node.Restart(swarm_options); !s.ok()) return s;
  const Model& model = node.model();
  GenerateRequest request;
  request.prompt = options.prompt;
  request.route_policy = &driver;
  request.max_tokens = options.warmup + options.tokens + 1;
  request.sampler.temperature = 1;
  request.sampler.top_k = 0;
  request.sampler.top_p = 1;
  request.sampler.seed = options.seed;
  if (!options.repeats) request.sampler.repetition_penalty = kRepetitionPenalties.high;
  request.stop_at_end_of_text = false;
  int64_t done = 0;
  absl::StatusOr<GenerateResult> generated = node.swarm().Generate(request, [&](const GenerateEvent& event) {
    if (!event.is_token) return true;
    result.probabilities.push_back(event.probability);
    return on_token(++done);
  });
  if (!generated.ok()) return generated.status();
  if (!driver.status().ok()) return driver.status();
  result.output = generated->tokens;
  result.chosen = driver.chosen();
  const SwarmStats stats = node.swarm().Stats();
  result.device = stats.device;
  for (size_t ahead = 0; ahead < 2; ++ahead) {
    if (stats.predicted[ahead] > 0)
      result.predicted_right[ahead] = Share(stats.predicted_right[ahead], stats.predicted[ahead]);
  }
  driver.Count(&result);
  const int64_t positions = static_cast<int64_t>(options.prompt.size()) + options.warmup + options.tokens / 2;
  result.memory_bytes = MemoryBytes(model, positions);
  driver.CountLimits(&result);
  return result;
}

std::string StreamSvg(const std::vector<StreamCaseResult>& results) {
  constexpr int kLeft = 80, kTop = 40, kBar = 60, kGap = 40, kHeight = 260;
  double most = 0;
  for (const StreamCaseResult& r : results) most = std::max(most, r.seconds);
  const int width = kLeft + static_cast<int>(results.size()) * (kBar + kGap) + 180;
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
      "<text x=\"%d\" y=\"20\">Time of a token, milliseconds</text>\n",
      width, kTop + kHeight + 50, kLeft);
  const auto y = [&](double seconds) { return kTop + kHeight - kHeight * seconds / std::max(most, 1e-9); };
  for (int i = 0; i <= 4; ++i) {
    const double at = most * i / 4;
    absl::StrAppendFormat(&svg,
                          "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/>\n"
                          "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.0f</text>\n",
                          kLeft, y(at), width - 170, y(at), kLeft - 8, y(at) + 4, at * 1e3);
  }
  const char* const colors[3] = {"#4477aa", "#ee7733", "#bbbbbb"};
  const char* const names[3] = {"reading memory", "reading the disk", "everything else"};
  for (size_t i = 0; i < results.size(); ++i) {
    const StreamCaseResult& r = results[i];
    const double memory = r.memory_bytes_per_s > 0 ? r.memory_bytes / r.memory_bytes_per_s : 0;
    const double disk = r.disk_bytes_per_s > 0 ? r.disk_bytes / r.disk_bytes_per_s : 0;
    const double tiers[3] = {std::min(memory, r.seconds), std::min(disk, std::max(0.0, r.seconds - memory)),
                             std::max(0.0, r.seconds - memory - disk)};
    const int x = kLeft + 20 + static_cast<int>(i) * (kBar + kGap);
    double from = 0;
    for (int tier = 0; tier < 3; ++tier) {
      absl::StrAppendFormat(&svg, "<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"%s\"/>\n", x,
                            y(from + tiers[tier]), kBar, y(from) - y(from + tiers[tier]), colors[tier]);
      from += tiers[tier];
    }
    absl::StrAppendFormat(&svg,
                          "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n"
                          "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%.2f tok/s</text>\n",
                          x + kBar / 2, kTop + kHeight + 18, StreamCaseName(r.which), x + kBar / 2,
                          kTop + kHeight + 34, r.tok_per_s());
  }
  for (int tier = 0; tier < 3; ++tier) {
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/>\n"
                          "<text x=\"%d\" y=\"%d\">%s</text>\n",
                          width - 150, kTop + 20 * tier, colors[tier], width - 132, kTop + 10 + 20 * tier,
                          names[tier]);
  }
  return svg + "</svg>\n";
}

}  // namespace omni::cli
