#include "engine/around/adapt_report.h"

namespace omni {
namespace {

using Json = nlohmann::json;

Json PhasesJson(const AdaptReport& report) {
  Json list = Json::array();
  for (const AdaptPhase& phase : report.phases) {
    list.push_back({{"name", phase.name},
                    {"passes", phase.passes},
                    {"kept", phase.kept},
                    {"nats", phase.nats},
                    {"drift", phase.drift},
                    {"seconds", phase.seconds}});
  }
  return list;
}

}  // namespace

nlohmann::json AdaptSharesJson(const std::vector<AdaptShare>& shares, double nats, double nats_before) {
  Json list = Json::array();
  for (const AdaptShare& share : shares) {
    list.push_back({{"block", AdapterBlockName(share.block)},
                    {"values", share.values},
                    {"share", (share.nats_without - nats) / nats_before}});
  }
  return list;
}

nlohmann::json AdaptReportJson(const AdaptReport& report) {
  return {{"tokens", report.tokens},
          {"held_out_tokens", report.held_out_tokens},
          {"own_tokens", report.own_tokens},
          {"nats_before", report.nats_before},
          {"nats", report.nats},
          {"gain", 1 - report.nats / report.nats_before},
          {"drift", report.drift},
          {"kept", report.kept},
          {"out_of_time", report.out_of_time},
          {"phases", PhasesJson(report)},
          {"shares", AdaptSharesJson(report.shares, report.nats, report.nats_before)},
          {"adapter_bytes", report.adapter_bytes},
          {"extra_bytes", report.extra_bytes},
          {"batch_bytes", report.batch_bytes},
          {"seconds", report.seconds}};
}

}  // namespace omni
