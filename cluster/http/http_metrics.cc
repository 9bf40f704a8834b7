#include "cluster/http/http_metrics.h"

#include <utility>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include "cluster/http/status_metrics.h"

namespace omni {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

const prometheus::Histogram::BucketBoundaries kSeconds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                          1,     2.5,  5,     10,   30,  60,   300};

const prometheus::Histogram::BucketBoundaries kTokenSeconds = {
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};

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
  prometheus::Histogram& between_tokens =
      BuildHistogram()
          .Name("omni_time_between_tokens_seconds")
          .Help("From one token of an answer to the next, as its door hands them on.")
          .Register(registry)
          .Add({}, kTokenSeconds);
  prometheus::Counter& prompt_tokens =
      Counter("omni_prompt_tokens_total", "Tokens of prompts taken from HTTP clients.");
  prometheus::Counter& tokens = Counter("omni_generated_tokens_total", "Tokens generated for HTTP clients.");
  prometheus::Counter& gone =
      Counter("omni_clients_gone_total", "Answers ended because their client went away.");
  prometheus::Gauge& connections = Gauge("omni_http_connections", "HTTP connections that are open.");
  prometheus::Gauge& places = Gauge("omni_sessions_places", "Sessions that may be stepped together.");
  prometheus::Gauge& watchers = Gauge("omni_status_watchers", "Who watches the status now.");
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
void HttpMetrics::OnNextToken(std::chrono::nanoseconds since) {
  impl_->between_tokens.Observe(Seconds(since));
}
void HttpMetrics::OnTokens(int64_t tokens) { impl_->tokens.Increment(static_cast<double>(tokens)); }
void HttpMetrics::OnClientGone() { impl_->gone.Increment(); }

std::string HttpMetrics::Text(const ProcessFacts& facts, const Now& now) {
  impl_->connections.Set(static_cast<double>(now.connections));
  impl_->places.Set(static_cast<double>(now.places));
  impl_->watchers.Set(static_cast<double>(now.watchers));
  impl_->ready.Set(now.ready ? 1 : 0);
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  for (prometheus::MetricFamily& family : StatusMetrics(facts, now.status, now.moments))
    families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace omni
