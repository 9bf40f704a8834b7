#include "cluster/cluster_records.h"

#include <cmath>
#include <optional>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json.h"

namespace omni {
namespace {

using nlohmann::json;

absl::Status Bad(std::string_view kind, std::string_view text) {
  return absl::DataLossError(absl::StrCat("the coordination store's record of a ", std::string(kind),
                                          " cannot be read: ", std::string(text.substr(0, 200))));
}

// The object, if it has the member of the type that every record of its kind has.
std::optional<json> Parse(std::string_view text, const char* member, json::value_t type) {
  json value = json::parse(text, nullptr, false);
  if (!value.is_object()) return std::nullopt;
  const auto found = value.find(member);
  if (found == value.end() || found->type() != type) return std::nullopt;
  return value;
}

std::string Text(const json& value, const char* member) {
  const auto found = value.find(member);
  return found != value.end() && found->is_string() ? found->get<std::string>() : std::string();
}

uint64_t Number(const json& value, const char* member) {
  const auto found = value.find(member);
  return found != value.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

}  // namespace

std::string NodeKey(const NodeId& node) { return kNodePrefix + node.value; }
std::string RegionKey(RegionId region) { return absl::StrFormat("%s%04d", kRegionPrefix, region.value); }

absl::StatusOr<RegionId> RegionOfKey(std::string_view key) {
  int32_t region = -1;
  const std::string_view prefix(kRegionPrefix);
  if (!key.starts_with(prefix) || !absl::SimpleAtoi(std::string(key.substr(prefix.size())), &region) ||
      region < 0)
    return Bad("region", key);
  return RegionId(region);
}

std::string ToJson(const ClusterRecord& r) {
  return JsonText(json{{"name", r.name},
                       {"model_hash", r.model_hash},
                       {"regions", r.regions},
                       {"protocol", r.protocol},
                       {"id", r.id}});
}
std::string ToJson(const LeaderRecord& r) {
  json value{{"node", r.node.value}, {"address", r.address}};
  if (!r.token.empty()) value["token"] = r.token;
  return JsonText(value);
}
std::string ToJson(const NodeRecord& r) {
  return JsonText(json{{"address", r.address}, {"offered_bytes", r.offered_bytes}, {"draining", r.draining}});
}
std::string ToJson(const RegionRecord& r) {
  json value{{"owner", r.owner.value}};
  if (!r.shadow.value.empty()) value["shadow"] = r.shadow.value;
  if (!r.target.value.empty()) value["target"] = r.target.value;
  if (!r.pinned.value.empty()) value["pinned"] = r.pinned.value;
  return JsonText(value);
}

std::string ToJson(const LoadsRecord& r) {
  json shares = json::array();
  for (double share : r) shares.push_back(std::round(share * 1e5) / 1e5);
  return JsonText(json{{"shares", shares}});
}

absl::StatusOr<ClusterRecord> ParseClusterRecord(std::string_view text) {
  const std::optional<json> value = Parse(text, "model_hash", json::value_t::string);
  if (!value.has_value()) return Bad("cluster", text);
  return ClusterRecord{Text(*value, "name"), Text(*value, "model_hash"),
                       static_cast<int32_t>(Number(*value, "regions")),
                       static_cast<uint32_t>(Number(*value, "protocol")), Text(*value, "id")};
}
absl::StatusOr<LeaderRecord> ParseLeaderRecord(std::string_view text) {
  const std::optional<json> value = Parse(text, "node", json::value_t::string);
  if (!value.has_value()) return Bad("leader", text);
  return LeaderRecord{{Text(*value, "node")}, Text(*value, "address"), Text(*value, "token")};
}
absl::StatusOr<NodeRecord> ParseNodeRecord(std::string_view text) {
  const std::optional<json> value = Parse(text, "address", json::value_t::string);
  if (!value.has_value()) return Bad("node", text);
  const auto draining = value->find("draining");
  return NodeRecord{Text(*value, "address"), Number(*value, "offered_bytes"),
                    draining != value->end() && draining->is_boolean() && draining->get<bool>()};
}
absl::StatusOr<RegionRecord> ParseRegionRecord(std::string_view text) {
  const std::optional<json> value = Parse(text, "owner", json::value_t::string);
  if (!value.has_value()) return Bad("region", text);
  return RegionRecord{
      {Text(*value, "owner")}, {Text(*value, "shadow")}, {Text(*value, "target")}, {Text(*value, "pinned")}};
}

absl::StatusOr<LoadsRecord> ParseLoadsRecord(std::string_view text) {
  const std::optional<json> value = Parse(text, "shares", json::value_t::array);
  if (!value.has_value()) return Bad("cluster's loads", text);
  LoadsRecord loads;
  for (const json& share : value->at("shares")) {
    if (!share.is_number() || !(share.get<double>() >= 0 && share.get<double>() <= 1))
      return Bad("cluster's loads", text);
    loads.push_back(share.get<double>());
  }
  return loads;
}

}  // namespace omni
