#include "engine/decode/eval.h"

#include <algorithm>
#include <memory>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/adapter.h"
#include "cli/output.h"
#include "cli/perspective_flag.h"
#include "cli/polytope_file.h"
#include "cli/result_file.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/verbs/eval_ablate.h"
#include "cli/verbs/eval_calibration.h"
#include "cli/verbs/eval_gate.h"
#include "cli/verbs/eval_routes.h"
#include "engine/around/calibration.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/text/text_file.h"
#include "store/model/model.h"

namespace omni::cli {
namespace {

struct EvalArgs {
  std::string metric, model;
  std::vector<std::string> files;
  int64_t threads = 0;
  StreamFlags stream;
  bool carry = false, json = false;
  std::string adapter;
  CalibrationArgs calibration;
  std::string polytopes;
  std::function<bool()> carry_typed, tokens_typed, polytopes_typed, adapter_typed;
  GivenFlags of_calibration;
};

absl::StatusOr<std::vector<std::string>> ReadTexts(const std::vector<std::string>& files) {
  if (std::count(files.begin(), files.end(), "-") > 1)
    return UsageError("- is given twice, but standard input can be read only once");
  std::vector<std::string> texts;
  for (const std::string& file : files) {
    absl::StatusOr<std::string> text = file == "-" ? ReadStdinText() : ReadText(file);
    if (!text.ok()) return text.status();
    texts.push_back(*std::move(text));
  }
  return texts;
}

void PrintResult(const EvalResult& sum, const EvalArgs& args, int threads, const std::string& model_hash,
                 const std::vector<std::string>& skipped) {
  if (!args.json) {
    PrintF("%.4f nats/token  %.4f bits/byte  %d tokens  %d bytes  %.1f tok/s\n", sum.nats_per_token(),
           sum.bits_per_byte(), sum.tokens, sum.bytes, sum.tokens_per_second());
    return;
  }
  const nlohmann::json json = {{"nats_per_token", sum.nats_per_token()},
                               {"bits_per_byte", sum.bits_per_byte()},
                               {"tok_per_s", sum.tokens_per_second()},
                               {"tokens", sum.tokens},
                               {"bytes", sum.bytes},
                               {"nats", sum.nats},
                               {"seconds", sum.seconds},
                               {"carry", args.carry},
                               {"threads", threads},
                               {"model_hash", model_hash},
                               {"skipped", skipped}};
  PrintF("%s\n", JsonText(json));
}

absl::StatusOr<int> Gate(const EvalArgs& args) {
  std::vector<GateCheck> checks;
  for (const std::string& file : args.files) {
    absl::StatusOr<std::vector<GateCheck>> read = ReadGate(file);
    if (!read.ok()) return read.status();
    checks.insert(checks.end(), read->begin(), read->end());
  }
  absl::StatusOr<OpenedModel> opened = args.stream.Open(args.model);
  if (!opened.ok()) return opened.status();
  Model* model = &opened->model;
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  const absl::StatusOr<bool> passed = EvalGate(opened->path, *model, pool, checks, args.json);
  if (!passed.ok()) return passed.status();
  return *passed ? kExitOk : kExitFailure;
}

absl::StatusOr<int> Eval(const EvalArgs& args) {
  if (args.metric != "calibration" && !args.of_calibration.First().empty()) {
    return UsageError(absl::StrCat(args.of_calibration.First(), " does nothing for ", args.metric,
                                   "; it belongs to omni eval calibration"));
  }
  if (args.metric != "ppl" && args.metric != "routes" && args.carry_typed()) {
    return UsageError(
        absl::StrCat("--carry does nothing for ", args.metric, ", whose texts start afresh; leave it out"));
  }
  if (args.metric != "ablate" && args.polytopes_typed())
    return UsageError(absl::StrCat("--polytopes does nothing for ", args.metric, "; leave it out"));
  if (args.metric != "ppl" && args.metric != "ablate" && args.adapter_typed()) {
    return UsageError(
        absl::StrCat("--adapter does nothing for ", args.metric, "; it belongs to omni eval ppl and ablate"));
  }
  const bool takes_tokens = args.metric == "calibration" || args.metric == "ablate" || args.metric == "ppl";
  if (args.tokens_typed() && (!takes_tokens || args.carry)) {
    return UsageError(absl::StrCat("--first-tokens does nothing for ", args.metric,
                                   args.carry ? " with --carry" : "", "; leave it out"));
  }
  if (args.calibration.fit && !args.calibration.svg.empty())
    return UsageError("--svg draws what was measured, and --fit measures nothing; leave one of the two out");
  if (args.metric == "gate") return Gate(args);
  if (!args.calibration.svg.empty()) {
    if (absl::Status s = CheckResultFile(args.calibration.svg); !s.ok()) return s;
  }
  // First, so that a wrong name is said before a model is loaded.
  const absl::StatusOr<std::vector<std::string>> texts = ReadTexts(args.files);
  if (!texts.ok()) return texts.status();
  absl::StatusOr<OpenedModel> opened = args.stream.Open(args.model);
  if (!opened.ok()) return opened.status();
  Model* model = &opened->model;
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  if (args.calibration.fit) {
    const std::string file = absl::StrCat(opened->path, "/", std::string(kCalibrationFile));
    if (absl::Status s = CheckResultFile(file); !s.ok()) return s;
  }
  if (args.metric == "routes") {
    const absl::Status done =
        EvalRoutes(opened->path, *model, pool, args.files, *texts, args.carry, args.json);
    if (!done.ok()) return done;
    return kExitOk;
  }
  if (args.metric == "calibration") {
    const absl::Status done =
        EvalCalibration(opened->path, *model, pool, *texts, args.calibration, args.json);
    if (!done.ok()) return done;
    return kExitOk;
  }
  std::unique_ptr<ReadyAdapter> adapter;
  if (!args.adapter.empty() && (args.metric == "ppl" || args.metric == "ablate")) {
    absl::StatusOr<std::unique_ptr<ReadyAdapter>> loaded = LoadAdapter(args.adapter, *model);
    if (!loaded.ok()) return loaded.status();
    adapter = *std::move(loaded);
  }
  if (args.metric == "ablate") {
    std::shared_ptr<const PolytopeSet> set;
    if (!args.polytopes.empty()) {
      absl::StatusOr<std::shared_ptr<const PolytopeSet>> read = LoadPolytopes(args.polytopes);
      if (!read.ok()) return read.status();
      set = *std::move(read);
      if (absl::Status s = set->Fits(model->config().d, model->hash()); !s.ok()) return s;
    }
    const Projector* first = set == nullptr ? nullptr : set->Find(set->first());
    const absl::Status done =
        EvalAblate(*model, pool, *texts, args.calibration.tokens, first, adapter.get(), args.json);
    if (!done.ok()) return done;
    return kExitOk;
  }
  if (args.metric == "lambada") {
    const absl::Status done = EvalLambada(*model, pool, args.files, *texts, args.json);
    if (!done.ok()) return done;
    return kExitOk;
  }
  const Tokenizer& tokenizer = model->tokenizer();
  EvalOptions options;
  options.carry = args.carry;
  if (!args.carry) options.max_tokens = args.calibration.tokens;
  if (adapter != nullptr) {
    options.adapter = &adapter->rows();
    options.policy = adapter->policy();
  }
  EvalResult sum;
  std::vector<std::string> skipped;
  StatusLine status(StderrCanErase());
  for (size_t i = 0; i < texts->size(); ++i) {
    const std::string &file = args.files[i], &text = (*texts)[i];
    if (!AnythingToPredict(text, tokenizer, args.carry)) {
      skipped.push_back(file);
      continue;
    }
    options.progress = ShowShare(
        status, absl::StrCat("evaluating ", file, " (", HumanBytes(static_cast<int64_t>(text.size())), ")"));
    absl::StatusOr<EvalResult> result =
        EvalText(model->weights(), model->experts(), tokenizer, pool, text, options);
    if (!result.ok())
      return absl::Status(result.status().code(), absl::StrCat(file, ": ", result.status().message()));
    sum.nats += result->nats;
    sum.tokens += result->tokens;
    sum.bytes += result->bytes;
    sum.seconds += result->seconds;
  }
  status.Clear();
  if (skipped.size() == texts->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(skipped.front(), ": nothing to predict in ", texts->front().size(), " bytes of text"));
  }
  PrintResult(sum, args, pool.threads(), model->hash(), skipped);
  for (const std::string& file : skipped)
    LogError("text_skipped", "{path}: nothing to predict in it; the other texts were measured",
             {{"path", file}});
  return skipped.empty() ? kExitOk : kExitFailure;
}

}  // namespace

void AddEval(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "eval", "Measure how well a model predicts texts, or how it routes them",
      "  omni eval ppl valid.txt\n"
      "  omni eval ppl test.txt.xz --json | jq .bits_per_byte\n"
      "  zcat test.txt.gz | omni eval ppl -\n"
      "  omni eval routes test.txt --json | jq .same_region\n"
      "  omni eval calibration valid.txt.xz --fit     # keeps the maps beside the model\n"
      "  omni eval calibration test.txt.xz --svg reliability.svg\n"
      "  omni eval lambada lambada_test.jsonl\n"
      "  omni eval gate limits.json                   # exit code 1 if anything falls short\n\n"
      "Documents are separated by lines that are <|endoftext|> and nothing else, not even a space; a "
      "CR before\n"
      "the line feed is allowed. The line feed before a separator belongs to it and not to the "
      "document, and\n"
      "so does the one after it; empty documents are skipped. Each document starts afresh, after an\n"
      "<|endoftext|>, and its end is predicted too. Bits per byte count the documents' bytes, not the\n"
      "separators.\n"
      "With --carry nothing is split or added: separators are text like any other, the state is "
      "carried from\n"
      "the first byte to the last, and the first token is not predicted, nor are its bytes counted.\n"
      "A text without anything to predict is left out and named, and the exit code is 1.\n\n"
      "routes: means over the expert layers of the tokens' shares that went where the token before them "
      "went\n"
      "(same expert, same region, one hop on the lattice or the same), of the experts' entropy, and of "
      "the\n"
      "share of it that the token's id tells; the share of experts known before their token starts; and, "
      "for\n"
      "caches that keep as many tiles of each layer as 8, 16 and 32 experts have and give up what was used\n"
      "longest ago, the share of the bytes that they hold and the bytes a token then reads from disk.\n\n"
      "calibration: how true probabilities and confidences are, of the plain softmax, of one with a "
      "temperature,\n"
      "and of four perspectives at every token: expected calibration error of the likeliest token (ECE) and "
      "of the\n"
      "whole vocabulary (Full-ECE), Brier score, and the area under the risk-coverage curve (AURC).\n\n"
      "ablate: the model's loss beside that of other routes for every token, and of the average of four "
      "perspectives;\n"
      "and with everything around the token step (full: a polytope, the average of four far perspectives, a "
      "memory of\n"
      "contexts), and without each part of it: loss, calibration, speed, memory of a session.\n"
      "lambada: how often the last word of a passage is the likeliest, and its perplexity; a file has a JSON "
      "object\n"
      "with the passage in \"text\" on every line. gate: a file of measures and their limits "
      "(docs/formats/gate.md),\n"
      "each printed with what was measured.");
  auto args = std::make_shared<EvalArgs>();
  verb.Argument("METRIC", args->metric, "What to measure: ppl, routes, calibration, ablate, lambada or gate")
      ->required()
      ->check(CLI::IsMember({"ppl", "routes", "calibration", "ablate", "lambada", "gate"}));
  verb.Files("FILE", args->files, "Text files, plain or .xz; - reads standard input")->required();
  verb.Model(args->model);
  verb.Threads(args->threads);
  args->stream.Add(verb);
  args->carry_typed = Verb::OnCommandLine(
      verb.Bool("--carry", args->carry, "One continuous state over each file instead of one per document"));
  args->of_calibration.Add(
      verb.Bool("--fit", args->calibration.fit,
                "calibration: fit the maps to the texts and keep them beside the model"));
  args->tokens_typed = Verb::OnCommandLine(
      verb.Number("--first-tokens", args->calibration.tokens, {1, int64_t{1} << 40},
                  "Of ppl, calibration and ablate: so many tokens in all, each document's first ones"));
  args->of_calibration.Add(AddPerspectives(verb, args->calibration.perspectives));
  args->of_calibration.Add(
      verb.Path("--svg", args->calibration.svg, "calibration: draw the reliability into this file"));
  args->polytopes_typed = Verb::OnCommandLine(
      verb.Path("--polytopes", args->polytopes,
                "ablate: the file whose first polytope is one of the parts (default: none)"));
  args->adapter_typed = Verb::OnCommandLine(
      verb.Text("--adapter", args->adapter, "Of ppl and ablate: with the adapter of this name (omni adapt)"));
  verb.Json(args->json);
  verb.Body([args] { return Eval(*args); });
}

}  // namespace omni::cli
