#include "cluster/http/model_pages.h"

#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cluster/http/json_answer.h"
#include "cluster/http/openai_answer.h"
#include "cluster/http/openai_fields.h"
#include "engine/base/json.h"

namespace omni {
namespace {

using Json = nlohmann::json;

Json ModelJson(const ModelPages& pages) {
  return {{"id", pages.model->name}, {"object", "model"}, {"created", pages.created}, {"owned_by", "omni"}};
}

Json ListJson(const ModelPages& pages) {
  const std::string& name = pages.model->name;
  return {{"object", "list"},
          {"data", Json::array({ModelJson(pages)})},
          {"models", Json::array({{{"name", name}, {"model", name}}})}};
}

Json PropsJson(const ModelPages& pages) {
  const ServedModel& model = *pages.model;
  return {{"default_generation_settings",
           {{"n_ctx", model.max_context}, {"temperature", 1}, {"top_p", 1}, {"top_k", 0}, {"min_p", 0}}},
          {"total_slots", pages.slots},
          {"model_alias", model.name},
          {"model_hash", pages.model_hash},
          {"chat_template", model.chat.Describe()},
          {"chat_template_from_model", model.chat.from_file()}};
}

HttpAnswer AdaptersAnswer(InferenceBackend& backend) {
  const absl::StatusOr<std::vector<OfferedAdapter>> adapters = backend.Adapters();
  if (!adapters.ok()) return ErrorAnswer(adapters.status());
  Json data = Json::array();
  for (const OfferedAdapter& one : *adapters) {
    data.push_back({{"id", one.name},
                    {"object", "adapter"},
                    {"hash", one.hash},
                    {"model_hash", one.model_hash},
                    {"tokens", one.tokens},
                    {"held_out_tokens", one.held_out_tokens},
                    {"values", one.values},
                    {"gain", one.gain}});
  }
  return JsonAnswer({{"object", "list"}, {"data", std::move(data)}});
}

}  // namespace

void AddModelPages(const ModelPages& pages, HttpRoutes& routes) {
  routes.Page("GET", "/v1/models", [pages](const RoutedRequest&) { return JsonAnswer(ListJson(pages)); });
  routes.Page("GET", "/v1/models/*", [pages](const RoutedRequest& request) {
    if (request.argument == pages.model->name) return JsonAnswer(ModelJson(pages));
    return ErrorAnswer(openai::NotThere("model",
                                        absl::StrCat("the model ", Quoted(request.argument),
                                                     " is not served here; '", pages.model->name, "' is"),
                                        "model_not_found"));
  });
  routes.Page("GET", "/v1/adapters",
              [pages](const RoutedRequest&) { return AdaptersAnswer(*pages.backend); });
  routes.Page("GET", "/props", [pages](const RoutedRequest&) { return JsonAnswer(PropsJson(pages)); });
}

}  // namespace omni
