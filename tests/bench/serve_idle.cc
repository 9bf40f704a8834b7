// Streams that wait for their turn beside others that do not.
#include <memory>
#include <vector>

#include "tests/bench/serve_measurements.h"
#include "tests/bench/serve_streams.h"

namespace omni::bench {
namespace {

constexpr int kPlaces = 16, kIdle = 2000, kRounds = 3;
constexpr std::chrono::seconds kWindow{4}, kLimit{60};
constexpr int64_t kForEver = 900'000;  // tokens

// Times between tokens of the busy streams that lie after `from`.
double P99After(const ServeStreams& busy, Clock::time_point from) {
  std::vector<double> between;
  for (size_t i = 0; i < busy.size(); ++i) {
    const StreamAnswer answer = busy.At(i);
    for (size_t t = 1; t < answer.shown.size(); ++t) {
      if (answer.shown[t - 1] > from) between.push_back(Millis(answer.shown[t] - answer.shown[t - 1]));
    }
  }
  if (between.size() < 100) Fail("the busy streams say nothing");
  return Quantile(between, 0.99);
}

}  // namespace

nlohmann::json MeasureIdle(const ServeBenchOptions& options) {
  const ServeProcess serve(options,
                           {"--parallel", std::to_string(kPlaces), "--queue", std::to_string(kIdle)});
  ServeStreams busy(serve.address());
  for (int i = 0; i < kPlaces; ++i) busy.Ask(ServeRequest(i, kForEver));
  if (!busy.ReadUntil([&] { return busy.begun() == kPlaces; }, kLimit)) Fail("the busy streams do not begin");
  busy.ReadFor(kWindow);  // what the busy ones take for themselves is no idle one's
  const int64_t before = serve.resident_bytes(), threads_before = serve.threads();
  std::vector<double> changes, p99s;
  int64_t threads = 0, resident = 0;
  for (int round = 0; round < kRounds; ++round) {
    Clock::time_point from = Clock::now();
    busy.ReadFor(kWindow);
    const double without = P99After(busy, from);
    ServeStreams idle(serve.address());
    for (int i = 0; i < kIdle; ++i) {
      idle.Ask(ServeRequest(i, kForEver));
      if (i % 50 == 0) busy.ReadFor(std::chrono::milliseconds(1));
    }
    // Each is told that it waits, and so is a stream.
    const Clock::time_point end = Clock::now() + kLimit;
    while (idle.begun() < kIdle) {
      if (Clock::now() > end) Fail("idle streams do not begin");
      busy.ReadFor(std::chrono::milliseconds(10));
      idle.ReadFor(std::chrono::milliseconds(1));
    }
    from = Clock::now();
    busy.ReadFor(kWindow);
    p99s.push_back(P99After(busy, from));
    changes.push_back(p99s.back() / without - 1);
    threads = std::max(threads, serve.threads());
    resident = std::max(resident, serve.resident_bytes());
  }
  return {{"idle_streams", kIdle},
          {"idle_threads", threads},
          {"idle_threads_more", threads - threads_before},
          {"idle_rss_mb", static_cast<double>(resident - before) / 1e6},
          {"idle_others_p99_ms", Median(p99s)},
          {"idle_others_p99_change", Median(changes)}};
}

}  // namespace omni::bench
