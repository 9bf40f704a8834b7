#include "cluster/tasks/a2a_card.h"

#include <map>
#include <string>

#include <absl/strings/str_cat.h>

#include "cluster/loopback.h"
#include "cluster/tasks/a2a_messages.h"

namespace omni {
namespace {

// Where whoever reached `base` (http://HOST[:PORT]) finds what listens at `address` (HOST:PORT); empty:
// nowhere, since that is a name of this machine for itself alone.
std::string ReachedFrom(const std::string& base, const std::string& address) {
  std::string host = base.substr(base.find("://") + 3);
  const size_t port = host.rfind(':');
  if (port != std::string::npos && host.find(']', port) == std::string::npos) host.resize(port);
  const size_t colon = address.rfind(':');
  const std::string own = address.substr(0, colon);
  if (own == "0.0.0.0" || own == "[::]" || own.empty()) return absl::StrCat(host, address.substr(colon));
  return IsLoopback(address) && !IsLoopback(host) ? "" : address;
}

}  // namespace

a2a::AgentCard MakeA2aCard(const A2aOptions& options, const std::string& base) {
  a2a::AgentCard card;
  card.set_name(options.name);
  card.set_description(options.description);
  card.set_version(options.version);
  const auto add = [&](const char* binding, const std::string& url) {
    a2a::AgentInterface& there = *card.add_supported_interfaces();
    there.set_url(url);
    there.set_protocol_binding(binding);
    there.set_protocol_version("1.0");
  };
  for (const char* binding : {"JSONRPC", "HTTP+JSON"}) add(binding, absl::StrCat(base, "/a2a"));
  const std::string grpc = options.grpc != nullptr ? ReachedFrom(base, options.grpc()) : "";
  if (!grpc.empty()) add("GRPC", grpc);
  card.mutable_capabilities()->set_streaming(true);
  card.mutable_capabilities()->set_push_notifications(options.pusher != nullptr);
  card.mutable_capabilities()->set_extended_agent_card(false);
  a2a::AgentExtension& extension = *card.mutable_capabilities()->add_extensions();
  extension.set_uri(kA2aExtension);
  extension.set_description("Metadata says an event's sequence number, attempt and node.");
  card.add_default_input_modes("text/plain");
  card.add_default_input_modes("application/json");
  card.add_default_output_modes("text/plain");
  if (options.access != nullptr) {
    (*card.mutable_security_schemes())["key"].mutable_http_auth_security_scheme()->set_scheme("Bearer");
    (*card.add_security_requirements()->mutable_schemes())["key"];
  }
  std::map<std::string, std::string> skills;  // by id; several nodes may offer the same
  if (options.places != nullptr) {
    for (const TaskPlaces& place : options.places()) {
      if (place.executor != "model" && place.executor != "command" && place.executor != "agent") continue;
      const bool any = place.target.empty() || place.target == "*";
      if (any && place.executor != "model") continue;  // these want a name
      skills.emplace(any ? place.executor : absl::StrCat(place.executor, "/", place.target),
                     place.description);
    }
  }
  for (const auto& [id, description] : skills) {
    a2a::AgentSkill& skill = *card.add_skills();
    skill.set_id(id);
    skill.set_name(id);
    skill.set_description(description.empty() ? id : description);
    skill.add_tags(id.substr(0, id.find('/')));
  }
  return card;
}

}  // namespace omni
