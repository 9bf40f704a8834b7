#include "cluster/memory_request.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/http/openai_fields.h"

namespace omni {
namespace {

using openai::Bad;
using openai::Fields;
using openai::Json;

// A text that must be there, with something in it.
std::string Needed(Fields& fields, const char* name) {
  std::string text = fields.Text(name);
  if (fields.Find(name) == nullptr)
    fields.Fail(Bad(name, absl::StrCat("'", name, "' is missing"), "missing_required_parameter"));
  return text;
}

absl::StatusOr<std::vector<Association>> ReadAssociations(const Json& body, Fields& fields) {
  const Json* list = fields.Find("associations");
  if (list == nullptr) {
    std::vector<Association> one = {{Needed(fields, "key"), Needed(fields, "value")}};
    if (!fields.status().ok()) return fields.status();
    return one;
  }
  if (body.contains("key") || body.contains("value"))
    return Bad("associations", "'associations' stands in the place of 'key' and 'value'; leave those out");
  if (!list->is_array() || list->empty() || list->size() > kMostAssociations) {
    return Bad("associations",
               absl::StrCat("'associations' must be a list of 1 to ", kMostAssociations, " objects"));
  }
  std::vector<Association> all;
  for (const Json& one : *list) {
    const bool good = one.is_object() && one.contains("key") && one["key"].is_string() &&
                      one.contains("value") && one["value"].is_string();
    if (!good) {
      return Bad("associations",
                 absl::StrCat("'associations' must have objects of a 'key' and a 'value', and "
                              "number ",
                              all.size(), " is none"));
    }
    all.push_back({one["key"].get<std::string>(), one["value"].get<std::string>()});
  }
  return all;
}

}  // namespace

absl::StatusOr<MemoryAddition> ReadMemoryAddition(std::string_view text) {
  const absl::StatusOr<Json> body = openai::ReadBody(text);
  if (!body.ok()) return body.status();
  Fields fields(*body);
  MemoryAddition read{ScopeOrDefault(fields.Text("scope")), {}};
  absl::StatusOr<std::vector<Association>> all = ReadAssociations(*body, fields);
  if (!fields.status().ok()) return fields.status();
  if (!all.ok()) return all.status();
  read.associations = *std::move(all);
  return read;
}

absl::StatusOr<MemoryQuestion> ReadMemoryQuestion(std::string_view text) {
  const absl::StatusOr<Json> body = openai::ReadBody(text);
  if (!body.ok()) return body.status();
  Fields fields(*body);
  MemoryQuestion read{ScopeOrDefault(fields.Text("scope")), {}};
  read.key = Needed(fields, "key");
  if (!fields.status().ok()) return fields.status();
  return read;
}

absl::StatusOr<MemoryQuestion> ReadMemoryForgetting(std::string_view text) {
  const absl::StatusOr<Json> body = openai::ReadBody(text);
  if (!body.ok()) return body.status();
  Fields fields(*body);
  MemoryQuestion read{ScopeOrDefault(fields.Text("scope")), {}};
  const std::string key = fields.Text("key");
  const bool all = fields.Bool("all", false), one = fields.Find("key") != nullptr;
  if (all == one) fields.Fail(Bad("key", "'key' or 'all' says what is to be forgotten; give one of them"));
  if (!fields.status().ok()) return fields.status();
  if (one) read.key = key;
  return read;
}

}  // namespace omni
