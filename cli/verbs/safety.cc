#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/polytope_file.h"
#include "cli/result_file.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/around/safety_build.h"
#include "engine/around/safety_measure.h"
#include "engine/base/json.h"
#include "engine/base/replace_file.h"
#include "engine/base/splitmix.h"
#include "engine/decode/eval.h"
#include "engine/text/prompt.h"
#include "engine/text/text_file.h"
#include "store/file/files.h"
#include "store/model/model.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

constexpr int64_t kCheckPoints = 1000;

struct SafetyArgs {
  std::string action, file, prompt, model, name, text, deny;
  int64_t half_spaces = PolytopeRecipe().half_spaces, most_tokens = PolytopeRecipe().most_tokens;
  int64_t tokens = 32, threads = 0;
  float epsilon = PolytopeRecipe().epsilon;
  StreamFlags stream;
  std::function<bool()> model_typed;
  GivenFlags of_build, of_explain, of_texts;
  bool json = false;
};

// The polytopes that a file has already; none if there is no file.
absl::StatusOr<PolytopeFile> ReadBefore(const std::string& path) {
  const absl::StatusOr<std::string> bytes = omni::ReadText(path, kMostPolytopeBytes);
  if (absl::IsNotFound(bytes.status())) return PolytopeFile{};
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<PolytopeFile> file = ReadPolytopes(*bytes);
  if (!file.ok())
    return absl::Status(file.status().code(), absl::StrCat(path, ": ", file.status().message()));
  return file;
}

absl::StatusOr<int> Build(const SafetyArgs& args) {
  if (args.text.empty())
    return UsageError("omni safety build wants --text, a text as the model may write it");
  absl::StatusOr<PolytopeFile> file = ReadBefore(args.file);
  if (!file.ok()) return file.status();
  if (absl::Status s = CheckResultFile(args.file); !s.ok()) return s;
  const absl::StatusOr<std::string> text = omni::ReadText(args.text);
  if (!text.ok()) return text.status();
  const absl::StatusOr<std::vector<std::string>> words = ReadWords(args.deny);
  if (!words.ok()) return words.status();
  absl::StatusOr<OpenedModel> opened = args.stream.Open(args.model);
  if (!opened.ok()) return opened.status();
  Model* model = &opened->model;
  if (!file->polytopes.empty() && file->model_hash != model->hash()) {
    return absl::FailedPreconditionError(absl::StrCat(args.file,
                                                      ": its polytopes were built for another model, ",
                                                      file->model_hash, "; name another file, or remove it"));
  }
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  std::vector<std::string> allowed;
  for (std::string_view document : SplitDocuments(*text)) allowed.emplace_back(document);
  PolytopeRecipe recipe;
  if (!args.name.empty()) recipe.name = args.name;
  recipe.half_spaces = args.half_spaces;
  recipe.most_tokens = args.most_tokens;
  recipe.epsilon = args.epsilon;
  StatusLine line(StderrCanErase());
  recipe.progress = ShowShare(line, absl::StrCat("building ", recipe.name));
  absl::StatusOr<BuiltPolytope> built =
      BuildPolytope(model->weights(), model->experts(), model->tokenizer(), pool, allowed, *words, recipe);
  line.Clear();
  if (!built.ok()) return built.status();
  // What nobody could load is not written.
  if (const auto usable = Projector::Make(built->polytope); !usable.ok()) return usable.status();
  file->model_hash = model->hash();
  const Json json = {{"polytope", built->polytope.name},
                     {"file", args.file},
                     {"model_hash", model->hash()},
                     {"half_spaces", built->polytope.half_spaces()},
                     {"anchors", built->anchors},
                     {"denied_tokens", built->denied},
                     {"words_not_denied", built->not_denied.size()},
                     {"allowed_tokens", built->allowed_tokens},
                     {"epsilon", built->polytope.epsilon}};
  const auto same = std::find_if(file->polytopes.begin(), file->polytopes.end(),
                                 [&](const Polytope& p) { return p.name == built->polytope.name; });
  if (same != file->polytopes.end()) {
    *same = std::move(built->polytope);
  } else {
    file->polytopes.push_back(std::move(built->polytope));
  }
  if (std::ssize(file->polytopes) > kMostPolytopes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(args.file, ": has ", kMostPolytopes, " polytopes already; name another file"));
  }
  if (absl::Status s = ReplaceFile(args.file, WritePolytopes(*file)); !s.ok()) return s;
  if (args.json) {
    PrintF("%s\n", JsonText(json));
  } else {
    PrintF("%s: %s has %d half-spaces: %d anchors from %d tokens of text, %d denied tokens\n", args.file,
           recipe.name, json["half_spaces"].get<int64_t>(), built->anchors, built->allowed_tokens,
           built->denied);
    if (!built->not_denied.empty()) {
      PrintF("%d of %d words are several tokens of this model, and are not denied\n",
             built->not_denied.size(), words->size());
    }
  }
  return kExitOk;
}

// Points as far out as the bounds are, and ten times that: both methods on each.
absl::StatusOr<Json> Compare(const Projector& projector) {
  const Polytope& p = projector.polytope();
  double size = 1;
  for (float bound : p.bounds) size = std::max(size, std::abs(static_cast<double>(bound)));
  int64_t outside = 0, unfinished = 0;
  double residual = 0, apart = 0;
  std::vector<float> y(static_cast<size_t>(p.d)), exact, dykstra;
  for (int64_t i = 0; i < kCheckPoints; ++i) {
    for (int64_t k = 0; k < p.d; ++k) {
      y[static_cast<size_t>(k)] =
          static_cast<float>(CounterUniform(static_cast<uint64_t>(i), static_cast<uint64_t>(k)) * 2 - 1);
    }
    ScaleToUnit(y);
    for (float& x : y) x *= static_cast<float>(i % 2 == 0 ? 2 * size : 20 * size);
    exact = dykstra = y;
    const absl::StatusOr<Projection> one = projector.Project(exact);
    if (!one.ok()) return one.status();
    const absl::StatusOr<Projection> other =
        projector.Project(dykstra, kernels::ActiveOps(), ProjectionMethod::kDykstra);
    outside += !one->inside;
    if (one->inside) continue;
    const double length = std::sqrt(PreciseDot(y.data(), y.data(), p.d));
    residual = std::max(residual, one->residual / length);
    if (!other.ok()) {
      ++unfinished;
      continue;
    }
    double sum = 0;
    for (size_t k = 0; k < y.size(); ++k)
      sum += std::pow(static_cast<double>(exact[k]) - static_cast<double>(dykstra[k]), 2);
    apart = std::max(apart, std::sqrt(sum) / one->distance);
  }
  return Json{{"points", kCheckPoints},
              {"outside", outside},
              {"largest_residual", residual},
              {"largest_difference", apart},
              {"dykstra_unfinished", unfinished}};
}

Json EffectJson(const SafetyEffect& e, size_t asked) {
  const auto per = [](double sum, int64_t n) { return n > 0 ? sum / static_cast<double>(n) : 0.0; };
  const double ln2 = std::log(2.0);
  return {{"texts", e.texts},
          {"tokens", e.tokens},
          {"projected_share", per(static_cast<double>(e.projected), e.tokens)},
          {"mean_distance", per(e.distance, e.tokens)},
          {"largest_distance", e.largest_distance},
          {"bits_per_byte", per(e.nats / ln2, e.bytes)},
          {"bits_per_byte_projected", per(e.nats_projected / ln2, e.bytes)},
          {"other_likeliest_share", per(static_cast<double>(e.other_likeliest), e.tokens)},
          {"denied_tokens", asked},
          {"denied_mass", per(e.mass, e.tokens)},
          {"denied_mass_projected", per(e.mass_projected, e.tokens)},
          {"denied_likeliest", e.likeliest},
          {"denied_likeliest_projected", e.likeliest_projected}};
}

void PrintChecked(const std::string& name, const Json& json) {
  PrintF("%s: %d half-spaces of width %d, epsilon %g, not empty\n", name, json["half_spaces"].get<int64_t>(),
         json["d"].get<int64_t>(), json["epsilon"].get<double>());
  const Json& points = json["random_points"];
  PrintF(
      "  %d of %d random points outside; residual at most %.1e |y|, methods at most %.1e of the distance "
      "apart\n",
      points["outside"].get<int64_t>(), points["points"].get<int64_t>(),
      points["largest_residual"].get<double>(), points["largest_difference"].get<double>());
  if (!json.contains("text")) return;
  const Json& text = json["text"];
  const auto number = [&](const char* key) { return text[key].get<double>(); };
  PrintF("  text: %d tokens, %.2f %% projected, moved by %.3f on average, %.3f at most\n",
         text["tokens"].get<int64_t>(), 100 * number("projected_share"), number("mean_distance"),
         number("largest_distance"));
  PrintF("  bits per byte %.4f, projected %.4f; another likeliest token at %.2f %% of positions\n",
         number("bits_per_byte"), number("bits_per_byte_projected"), 100 * number("other_likeliest_share"));
  if (text["denied_tokens"].get<int64_t>() > 0) {
    PrintF(
        "  %d denied tokens: probability %.3e a position, projected %.3e; likeliest at %d positions, "
        "projected %d\n",
        text["denied_tokens"].get<int64_t>(), number("denied_mass"), number("denied_mass_projected"),
        text["denied_likeliest"].get<int64_t>(), text["denied_likeliest_projected"].get<int64_t>());
  }
}

absl::StatusOr<int> Check(const SafetyArgs& args) {
  if (args.text.empty()) {
    if (const std::string idle = args.of_texts.First(); !idle.empty())
      return UsageError(absl::StrCat(idle, " does nothing without --text; give both, or leave it out"));
    const std::string idle_stream = args.stream.given().First();
    if (!args.model_typed() && !idle_stream.empty())
      return UsageError(absl::StrCat(idle_stream, " does nothing where no model is opened; leave it out"));
  }
  const absl::StatusOr<std::shared_ptr<const PolytopeSet>> set = LoadPolytopes(args.file);
  if (!set.ok()) return set.status();
  if (!args.name.empty()) {
    if (absl::Status s = (*set)->Has(args.name); !s.ok()) return s;
  }
  std::optional<Model> model;
  std::string text;
  std::vector<TokenId> asked;
  if (!args.text.empty() || args.model_typed()) {
    if (!args.text.empty()) {
      absl::StatusOr<std::string> read = omni::ReadText(args.text);
      if (!read.ok()) return read.status();
      if (SplitDocuments(*read).empty())
        return absl::InvalidArgumentError(absl::StrCat(args.text, ": has no text to read"));
      text = *std::move(read);
    }
    const absl::StatusOr<std::vector<std::string>> words = ReadWords(args.deny);
    if (!words.ok()) return words.status();
    absl::StatusOr<OpenedModel> opened = args.stream.Open(args.model);
    if (!opened.ok()) return opened.status();
    model.emplace(std::move(opened->model));
    if (absl::Status s = (*set)->Fits(model->weights().config.d, model->hash()); !s.ok()) return s;
    for (const std::string& word : *words) {
      for (TokenId token : TokensOfWord(model->tokenizer(), word)) asked.push_back(token);
    }
    std::sort(asked.begin(), asked.end());
    asked.erase(std::unique(asked.begin(), asked.end()), asked.end());
  }
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  Json json = Json::object();
  for (const auto& [name, projector] : (*set)->projectors()) {
    if (!args.name.empty() && name != args.name) continue;
    const Polytope& p = projector.polytope();
    absl::StatusOr<Json> points = Compare(projector);
    if (!points.ok()) return points.status();
    Json one = {
        {"half_spaces", p.half_spaces()}, {"d", p.d}, {"epsilon", p.epsilon}, {"random_points", *points}};
    if (!text.empty()) {
      const absl::StatusOr<SafetyEffect> effect =
          MeasureSafety(model->weights(), model->experts(), model->tokenizer(), pool, SplitDocuments(text),
                        projector, asked, args.most_tokens);
      if (!effect.ok()) return effect.status();
      one["text"] = EffectJson(*effect, asked.size());
    }
    if (!args.json) PrintChecked(name, one);
    json[name] = std::move(one);
  }
  if (args.json)
    PrintF("%s\n",
           JsonText(Json{{"file", args.file}, {"model_hash", (*set)->model_hash()}, {"polytopes", json}}));
  return kExitOk;
}

absl::StatusOr<int> Explain(const SafetyArgs& args) {
  if (args.prompt.empty())
    return UsageError("omni safety explain wants a prompt: omni safety explain FILE PROMPT");
  const absl::StatusOr<std::shared_ptr<const PolytopeSet>> set = LoadPolytopes(args.file);
  if (!set.ok()) return set.status();
  const std::string name = args.name.empty() ? (*set)->first() : args.name;
  if (absl::Status s = (*set)->Has(name); !s.ok()) return s;
  absl::StatusOr<OpenedModel> opened = args.stream.Open(args.model);
  if (!opened.ok()) return opened.status();
  Model* model = &opened->model;
  if (absl::Status s = (*set)->Fits(model->weights().config.d, model->hash()); !s.ok()) return s;
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  const Tokenizer& tokenizer = model->tokenizer();
  const Projector& projector = *(*set)->Find(name);
  const absl::StatusOr<std::vector<ExplainedToken>> explained = ExplainSafety(
      model->weights(), model->experts(), pool, PromptTokens(tokenizer, args.prompt), projector, args.tokens);
  if (!explained.ok()) return explained.status();
  const auto shown = [&](TokenId token) {
    const std::string_view bytes = tokenizer.Bytes(token);
    return absl::CHexEscape({bytes.data(), bytes.size()});
  };
  Json list = Json::array();
  for (const ExplainedToken& t : *explained) {
    Json violated = Json::array();
    for (int32_t j : t.violated) violated.push_back(projector.polytope().labels[static_cast<size_t>(j)]);
    if (!args.json) {
      PrintF("%8.3f  '%s' (%.3f, without %.3f)", t.projection.distance, shown(t.token), t.probability,
             t.probability_without);
      if (!(t.without == t.token)) PrintF(", not '%s'", shown(t.without));
      for (int32_t j : t.violated) PrintF("; %s", projector.polytope().labels[static_cast<size_t>(j)]);
      Print("\n");
    }
    list.push_back({{"token", t.token.value},
                    {"text", shown(t.token)},
                    {"without", shown(t.without)},
                    {"probability", t.probability},
                    {"probability_without", t.probability_without},
                    {"distance", t.projection.distance},
                    {"active", t.projection.active.size()},
                    {"violated", std::move(violated)}});
  }
  if (args.json) PrintF("%s\n", JsonText(Json{{"polytope", name}, {"tokens", std::move(list)}}));
  return kExitOk;
}

absl::StatusOr<int> RunSafety(const SafetyArgs& args) {
  if (args.action != "build" && args.action != "check" && args.action != "explain")
    return UsageError(absl::StrCat("omni safety knows build, check and explain, not '", args.action, "'"));
  const auto refuse = [&](const GivenFlags& flags) {
    const std::string idle = flags.First();
    return idle.empty() ? absl::OkStatus()
                        : UsageError(absl::StrCat(idle, " does nothing for omni safety ", args.action,
                                                  "; leave it out"));
  };
  if (args.action != "build") {
    if (absl::Status s = refuse(args.of_build); !s.ok()) return s;
  }
  if (args.action != "explain") {
    if (absl::Status s = refuse(args.of_explain); !s.ok()) return s;
    if (!args.prompt.empty())
      return UsageError(absl::StrCat("omni safety ", args.action, " takes no prompt; leave it out"));
  } else if (absl::Status s = refuse(args.of_texts); !s.ok() || !args.text.empty()) {
    return !s.ok() ? s : UsageError("--text does nothing for omni safety explain; leave it out");
  }
  if (args.action == "build") return Build(args);
  return args.action == "check" ? Check(args) : Explain(args);
}

}  // namespace

void AddSafety(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "safety", "Build, check and explain polytopes that hidden states are projected onto",
      "  omni safety build polytopes.omni --text allowed.txt --deny words.txt\n"
      "  omni safety build polytopes.omni --text stories.txt --safety creative --epsilon 0.1\n"
      "  omni safety check polytopes.omni --text test.txt --deny words.txt\n"
      "  omni safety explain polytopes.omni 'It was a dark night'\n"
      "\n"
      "A polytope bounds how far the vector that the logits are computed from goes in each of some "
      "directions.\nWhat one does is what check measures; it is no protection against somebody who tries.");
  auto args = std::make_shared<SafetyArgs>();
  verb.Require(verb.Argument("ACTION", args->action, "build, check or explain"));
  verb.Require(verb.Argument("FILE", args->file, "The file of polytopes; build adds to it"));
  verb.Argument("PROMPT", args->prompt, "Of explain: what the model goes on from");
  args->model_typed = Verb::OnCommandLine(verb.Model(args->model));
  verb.Text("--safety", args->name,
            "The polytope (default: build makes 'general', check takes all, explain the first)");
  verb.Path("--text", args->text,
            "Text to learn from what is allowed (build), or to read with and without (check); plain or .xz");
  const CLI::Option* deny = verb.Path("--deny", args->deny,
                                      "File of words, one a line, to be made less likely (build), or to be "
                                      "looked for (check)");
  args->of_texts.Add(deny);
  args->of_build.Add(verb.Number("--half-spaces", args->half_spaces, {1, kMostHalfSpaces},
                                 "At most so many, those of denied tokens included (default 500)"));
  args->of_build.Add(verb.Real("--epsilon", args->epsilon, {0, 1e6f},
                               "How far beyond its bound each half-space reaches (default 0.01)"));
  const CLI::Option* most =
      verb.Number("--most-tokens", args->most_tokens, {1, int64_t{1} << 40},
                  "Tokens of --text to read: in all (build), or of each document (check) "
                  "(default 20000)");
  args->of_texts.Add(most);
  args->of_explain.Add(verb.Number("-n,--tokens", args->tokens, {1, 1'000'000},
                                   "Of explain: tokens to go on for (default 32)"));
  verb.Threads(args->threads);
  args->stream.Add(verb);
  verb.Json(args->json);
  verb.Body([args] { return RunSafety(*args); });
}

}  // namespace omni::cli
