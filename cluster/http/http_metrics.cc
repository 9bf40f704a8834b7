#include "cluster/http/http_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace omni {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

const prometheus::Histogram::BucketBoundaries kSeconds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                          1,     2.5,  5,     10,   30,  60,   300};

double Seconds(std::chrono::nanoseconds t) { return std::chrono::duration<double>(t).count(); }

}  // namespace

struct HttpMetrics::Impl {
  prometheus::Gauge& Gauge(const char* name, const char* help) {
    return BuildGauge().Name(name).Help(help).Register(registry).Add({});
  }
  prometheus::Counter& Counter(const char* name, const char* help) {
    return BuildCounter().Name(name).Help(help).Register(registry).Add({});
  }

  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& requests =
      BuildCounter()
          .Name("omni_http_requests_total")
          .Help("Requests answered, by route and status; status 0: the client went away first.")
          .Register(registry);
  prometheus::Family<prometheus::Histogram>& seconds = BuildHistogram()
                                                           .Name("omni_http_request_duration_seconds")
                                                           .Help("From a request to the end of its answer.")
                                                           .Register(registry);
  prometheus::Histogram& first_token = BuildHistogram()
                                           .Name("omni_time_to_first_token_seconds")
                                           .Help("From a request to the first token of its answer.")
                                           .Register(registry)
                                           .Add({}, kSeconds);
  prometheus::Counter& prompt_tokens = Counter("omni_prompt_tokens_total", "Tokens of prompts taken.");
  prometheus::Counter& tokens = Counter("omni_generated_tokens_total", "Tokens generated for HTTP clients.");
  prometheus::Counter& gone =
      Counter("omni_clients_gone_total", "Answers ended because their client went away.");
  prometheus::Counter& sessions = Counter("omni_sessions_total", "Sessions that the swarm has begun.");
  prometheus::Counter& steps = Counter("omni_steps_total", "Steps of the swarm, of any number of sessions.");
  prometheus::Counter& rows = Counter("omni_rows_total", "Rows computed: tokens of prompts and of answers.");
  prometheus::Gauge& active = Gauge("omni_sessions_active", "Sessions in the present step.");
  prometheus::Gauge& queued = Gauge("omni_sessions_queued", "Sessions that wait for their first step.");
  prometheus::Gauge& connections = Gauge("omni_http_connections", "HTTP connections that are open.");
  prometheus::Gauge& ready = Gauge("omni_ready", "1 if new requests are taken.");
};

HttpMetrics::HttpMetrics() : impl_(std::make_unique<Impl>()) {}
HttpMetrics::~HttpMetrics() = default;

void HttpMetrics::OnRequest(const std::string& route, int status, std::chrono::nanoseconds took) {
  impl_->requests.Add({{"route", route}, {"status", std::to_string(status)}}).Increment();
  impl_->seconds.Add({{"route", route}}, kSeconds).Observe(Seconds(took));
}

void HttpMetrics::OnPrompt(int64_t tokens) { impl_->prompt_tokens.Increment(static_cast<double>(tokens)); }
void HttpMetrics::OnFirstToken(std::chrono::nanoseconds since) { impl_->first_token.Observe(Seconds(since)); }
void HttpMetrics::OnTokens(int64_t tokens) { impl_->tokens.Increment(static_cast<double>(tokens)); }
void HttpMetrics::OnClientGone() { impl_->gone.Increment(); }

std::string HttpMetrics::Text(const Now& now) {
  // The swarm's own counters only grow.
  const auto set = [](prometheus::Counter& counter, int64_t value) {
    counter.Increment(static_cast<double>(value) - counter.Value());
  };
  set(impl_->sessions, now.swarm.sessions);
  set(impl_->steps, now.swarm.decode.steps + now.swarm.mixed.steps);
  set(impl_->rows, now.swarm.decode.rows + now.swarm.mixed.rows);
  impl_->active.Set(static_cast<double>(now.swarm.active));
  impl_->queued.Set(static_cast<double>(now.swarm.queued));
  impl_->connections.Set(static_cast<double>(now.connections));
  impl_->ready.Set(now.ready ? 1 : 0);
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace omni
