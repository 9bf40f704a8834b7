#include <algorithm>
#include <memory>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/prompt.h"
#include "cli/stream_flags.h"
#include "cli/verb.h"
#include "cli/verbs/torus_svg.h"
#include "engine/base/json.h"
#include "engine/base/replace_file.h"
#include "engine/decode/follow_routes.h"
#include "engine/text/prompt.h"
#include "store/cache/routing_trace.h"
#include "store/model/model.h"

namespace omni::cli {
namespace {

struct TraceArgs {
  std::string prompt, model, plot, routes;
  int64_t threads = 0;
  StreamFlags stream;
  bool json = false;
};

// A token's bytes on one line: what is not printable ASCII is written as C escapes.
std::string Escaped(const Tokenizer& tokenizer, TokenId token) {
  if (token == Tokenizer::kEndOfText) return "<|endoftext|>";
  std::string text;
  for (unsigned char c : tokenizer.Bytes(token)) {
    if (c == '\n') {
      text += "\\n";
    } else if (c < 0x20 || c >= 0x7f || c == '\\') {
      absl::StrAppendFormat(&text, "\\x%02x", c);
    } else {
      text += static_cast<char>(c);
    }
  }
  return text;
}

void PrintTable(const Tokenizer& tokenizer, const std::vector<TokenId>& tokens,
                const FollowedRoutes& routes) {
  size_t width = 5;
  for (TokenId t : tokens) width = std::max(width, Escaped(tokenizer, t).size() + 2);
  std::string line = absl::StrFormat("%6s  %-*s", "#", static_cast<int>(width), "token");
  for (int64_t layer : routes.layers) absl::StrAppendFormat(&line, " %5s", absl::StrCat("L", layer));
  PrintF("%s\n", line.c_str());
  for (size_t t = 0; t < tokens.size(); ++t) {
    line =
        absl::StrFormat("%6d  %-*s", t, static_cast<int>(width), "'" + Escaped(tokenizer, tokens[t]) + "'");
    for (ExpertId e : routes.Of(t)) absl::StrAppendFormat(&line, " %5d", e.value);
    PrintF("%s\n", line.c_str());
  }
}

void PrintJson(const Tokenizer& tokenizer, const std::vector<TokenId>& tokens, const FollowedRoutes& routes) {
  nlohmann::json rows = nlohmann::json::array();
  for (size_t t = 0; t < tokens.size(); ++t) {
    std::vector<int32_t> experts;
    for (ExpertId e : routes.Of(t)) experts.push_back(e.value);
    rows.push_back({{"id", tokens[t].value}, {"text", Escaped(tokenizer, tokens[t])}, {"experts", experts}});
  }
  const nlohmann::json json = {{"layers", routes.layers}, {"tokens", rows}};
  PrintF("%s\n", JsonText(json));
}

absl::Status WritePlot(const std::string& path, const ModelConfig& config, const FollowedRoutes& routes) {
  std::vector<int64_t> visits(static_cast<size_t>(config.num_experts()));
  for (ExpertId e : routes.experts) ++visits[e.index()];
  Steps steps;
  for (size_t t = 1; t < static_cast<size_t>(routes.tokens()); ++t) {
    for (size_t i = 0; i < routes.layers.size(); ++i) ++steps[{routes.Of(t - 1)[i], routes.Of(t)[i]}];
  }
  return WriteOutput(path, TorusSvg(config, visits, steps));
}

absl::Status WriteRoutes(const std::string& path, const ModelConfig& config, const FollowedRoutes& routes) {
  RoutingTrace trace = EmptyTrace(config);
  for (ExpertId e : routes.experts) trace.experts.push_back(static_cast<uint16_t>(e.value));
  return SaveTrace(trace, path);
}

absl::StatusOr<int> Trace(const TraceArgs& args) {
  absl::StatusOr<std::string> prompt = ReadPrompt(args.prompt);
  if (!prompt.ok()) return prompt.status();
  absl::StatusOr<OpenedModel> opened = args.stream.Open(args.model);
  if (!opened.ok()) return opened.status();
  Model* model = &opened->model;
  const Tokenizer& tokenizer = model->tokenizer();
  const std::vector<TokenId> tokens = PromptTokens(tokenizer, *prompt);
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  absl::StatusOr<FollowedRoutes> routes = FollowRoutes(model->weights(), model->experts(), pool, tokens);
  if (!routes.ok()) return routes.status();
  if (!args.plot.empty()) {
    if (absl::Status s = WritePlot(args.plot, model->weights().config, *routes); !s.ok()) return s;
  }
  if (!args.routes.empty()) {
    if (absl::Status s = WriteRoutes(args.routes, model->weights().config, *routes); !s.ok()) return s;
  }
  if (args.json) {
    PrintJson(tokenizer, tokens, *routes);
  } else {
    PrintTable(tokenizer, tokens, *routes);
  }
  return kExitOk;
}

}  // namespace

void AddTrace(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "trace", "Show which expert of each layer every token of a prompt goes to",
            "  omni trace 'The sea was calm'\n"
            "  omni trace - --json < chapter.txt | jq '.tokens[0].experts'\n"
            "  omni trace 'The sea was calm' --plot torus.svg\n"
            "  omni trace - --routes chapter.routes < chapter.txt");
  auto args = std::make_shared<TraceArgs>();
  verb.Argument("PROMPT", args->prompt, "Text; - reads standard input")->required();
  verb.Model(args->model);
  verb.Threads(args->threads);
  args->stream.Add(verb);
  verb.Json(args->json);
  verb.Path("--plot", args->plot,
            "Also draw the torus in slices, with visit counts and steps, as an SVG file");
  verb.Path("--routes", args->routes, "Also write the routes alone, as a file that cache benchmarks read");
  verb.Body([args] { return Trace(*args); });
}

}  // namespace omni::cli
