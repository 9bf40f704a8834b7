#include "engine/decode/eval.h"

#include <algorithm>
#include <memory>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/verbs/eval_routes.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/text/text_file.h"
#include "store/model/find_model.h"
#include "store/model/model.h"

namespace omni::cli {
namespace {

struct EvalArgs {
  std::string metric, model;
  std::vector<std::string> files;
  int64_t threads = 0;
  StreamFlags stream;
  bool carry = false, json = false;
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

absl::StatusOr<int> Eval(const EvalArgs& args) {
  // First, so that a wrong name is said before a model is loaded.
  const absl::StatusOr<std::vector<std::string>> texts = ReadTexts(args.files);
  if (!texts.ok()) return texts.status();
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  absl::StatusOr<OpenOptions> open = args.stream.Options(*path);
  if (!open.ok()) return open.status();
  absl::StatusOr<Model> model = OpenModel(*path, *open);
  if (!model.ok()) return model.status();
  if (model->cache() != nullptr && StderrIsTerminal()) Note(DescribeStreaming(*model));
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  if (args.metric == "routes") {
    const absl::Status done = EvalRoutes(*path, *model, pool, args.files, *texts, args.carry, args.json);
    if (!done.ok()) return done;
    return kExitOk;
  }
  const Tokenizer& tokenizer = model->tokenizer();
  EvalOptions options;
  options.carry = args.carry;
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
      "  omni eval routes test.txt --json | jq .same_region\n\n"
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
      "longest ago, the share of the bytes that they hold and the bytes a token then reads from disk.");
  auto args = std::make_shared<EvalArgs>();
  verb.Argument("METRIC", args->metric, "What to measure: ppl or routes")
      ->required()
      ->check(CLI::IsMember({"ppl", "routes"}));
  verb.Files("FILE", args->files, "Text files, plain or .xz; - reads standard input")->required();
  verb.Model(args->model);
  verb.Threads(args->threads);
  args->stream.Add(verb);
  verb.Bool("--carry", args->carry, "One continuous state over each file instead of one per document");
  verb.Json(args->json);
  verb.Body([args] { return Eval(*args); });
}

}  // namespace omni::cli
