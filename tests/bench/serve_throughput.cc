// Streams at once against one alone.
#include <map>
#include <string>
#include <vector>

#include "tests/bench/serve_measurements.h"
#include "tests/bench/serve_streams.h"

namespace omni::bench {
namespace {

constexpr std::chrono::minutes kLimit{2};

struct Round {
  double tok_per_s = 0;
  std::vector<double> between_ms;  // of all streams
  int different = 0;
};

// The clients first, first + 1, ..., from the first request to the last answer's end. `alone`: what each is
// answered alone; one that is not there is noted.
Round Run(const ServeProcess& serve, int first, int count, int64_t tokens,
          std::map<int, std::string>& alone) {
  ServeStreams streams(serve.address());
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < count; ++i) streams.Ask(ServeRequest(first + i, tokens));
  if (!streams.ReadToEnd(kLimit)) Fail("the answers take longer than two minutes");
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  Round round;
  int64_t all = 0;
  for (int i = 0; i < count; ++i) {
    const StreamAnswer answer = streams.At(static_cast<size_t>(i));
    if (!answer.whole || answer.tokens != tokens) Fail("an answer ended before its last token");
    all += answer.tokens;
    for (size_t t = 1; t < answer.shown.size(); ++t)
      round.between_ms.push_back(Millis(answer.shown[t] - answer.shown[t - 1]));
    round.different += alone.try_emplace(first + i, answer.text).first->second != answer.text;
  }
  round.tok_per_s = static_cast<double>(all) / seconds;
  return round;
}

}  // namespace

nlohmann::json MeasureStreams(const ServeBenchOptions& options) {
  const ServeProcess serve(options);
  std::map<int, std::string> alone;
  constexpr int kMost = 64;
  for (int client = 0; client < kMost; ++client) Run(serve, client, 1, options.tokens, alone);
  // In turns: how fast a shared machine is changes from second to second.
  std::map<int, std::vector<double>> rates, medians, p99s;
  int different = 0;
  for (int repetition = 0; repetition < options.repetitions; ++repetition) {
    for (int count : {1, 16, 64}) {
      std::vector<double> between, one_rates;
      // As long as the others, so that a moment's disturbance counts as much.
      const int runs = count == 1 ? 4 : 1;
      for (int run = 0; run < runs; ++run) {
        const Round round =
            Run(serve, count == 1 ? (4 * repetition + run) % kMost : 0, count, options.tokens, alone);
        one_rates.push_back(round.tok_per_s);
        between.insert(between.end(), round.between_ms.begin(), round.between_ms.end());
        different += round.different;
      }
      rates[count].push_back(Median(one_rates));
      medians[count].push_back(Median(between));
      p99s[count].push_back(Quantile(between, 0.99));
    }
  }
  std::map<int, std::vector<double>> speedups;
  std::vector<double> tail;
  for (size_t i = 0; i < rates[1].size(); ++i) {
    for (int count : {16, 64}) speedups[count].push_back(rates[count][i] / rates[1][i]);
    tail.push_back(p99s[16][i] / medians[16][i]);
  }
  return {{"stream1_tok_per_s", Median(rates[1])},
          {"stream16_tok_per_s", Median(rates[16])},
          {"stream64_tok_per_s", Median(rates[64])},
          {"stream16_speedup", Median(speedups[16])},
          {"stream64_speedup", Median(speedups[64])},
          {"stream16_p99_over_median", Median(tail)},
          {"stream1_median_ms", Median(medians[1])},
          {"stream1_p99_ms", Median(p99s[1])},
          {"stream16_median_ms", Median(medians[16])},
          {"stream16_p99_ms", Median(p99s[16])},
          {"stream64_median_ms", Median(medians[64])},
          {"stream64_p99_ms", Median(p99s[64])},
          {"different", different}};
}

}  // namespace omni::bench
