#include "engine/decode/eval.h"

#include <chrono>
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/text/text_file.h"
#include "store/model/find_model.h"
#include "store/model/model.h"

namespace omni::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct EvalArgs {
  std::string metric, model;
  std::vector<std::string> files;
  int64_t threads = 0;
  StreamFlags stream;
  bool carry = false, json = false;
};

absl::StatusOr<int> Eval(const EvalArgs& args) {
  std::vector<std::string> texts;  // first, so that a wrong name is said before a model is loaded
  for (const std::string& file : args.files) {
    absl::StatusOr<std::string> text = ReadText(file);
    if (!text.ok()) return text.status();
    texts.push_back(*std::move(text));
  }
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  absl::StatusOr<OpenOptions> open = args.stream.Options(*path);
  if (!open.ok()) return open.status();
  absl::StatusOr<Model> model = OpenModel(*path, *open);
  if (!model.ok()) return model.status();
  if (model->cache() != nullptr && StderrIsTerminal()) Note(DescribeStreaming(*model));
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  EvalOptions options;
  options.carry = args.carry;
  EvalResult sum;
  StatusLine status(StderrIsTerminal());
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string what =
        "evaluating " + args.files[i] + " (" + HumanBytes(static_cast<int64_t>(texts[i].size())) + ")";
    status.Show(what);
    if (status.enabled()) {
      options.progress = [&, started = Clock::now(), shown = Clock::now()](double share) mutable {
        const auto now = Clock::now();
        if (now - shown < std::chrono::milliseconds(200)) return;
        shown = now;
        const double seconds = std::chrono::duration<double>(now - started).count();
        status.Show(what + "  " + OneDecimal(100 * share) + " %, " + OneDecimal(seconds * (1 / share - 1)) +
                    " s left");
      };
    }
    absl::StatusOr<EvalResult> result =
        EvalText(model->weights(), model->experts(), model->tokenizer(), pool, texts[i], options);
    if (!result.ok()) {
      return absl::Status(result.status().code(),
                          args.files[i] + ": " + std::string(result.status().message()));
    }
    sum.nats += result->nats;
    sum.tokens += result->tokens;
    sum.bytes += result->bytes;
    sum.seconds += result->seconds;
  }
  status.Clear();
  if (args.json) {
    const nlohmann::json json = {{"nats_per_token", sum.nats_per_token()},
                                 {"bits_per_byte", sum.bits_per_byte()},
                                 {"tok_per_s", sum.tokens_per_second()},
                                 {"tokens", sum.tokens},
                                 {"bytes", sum.bytes},
                                 {"nats", sum.nats},
                                 {"seconds", sum.seconds},
                                 {"carry", args.carry},
                                 {"threads", pool.threads()},
                                 {"model_hash", model->hash()}};
    std::printf("%s\n", json.dump().c_str());
  } else {
    std::printf("%.4f nats/token  %.4f bits/byte  %lld tokens  %lld bytes  %.1f tok/s\n",
                sum.nats_per_token(), sum.bits_per_byte(), static_cast<long long>(sum.tokens),
                static_cast<long long>(sum.bytes), sum.tokens_per_second());
  }
  return kExitOk;
}

}  // namespace

void AddEval(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "eval", "Measure how well a model predicts texts",
            "  omni eval ppl valid.txt\n"
            "  omni eval ppl test.txt.xz --json | jq .bits_per_byte\n\n"
            "Documents are separated by lines <|endoftext|>; each starts afresh and its end is predicted "
            "too. Bits per\n"
            "byte count the documents' bytes, not the separators.");
  auto args = std::make_shared<EvalArgs>();
  verb.app()
      .add_option("METRIC", args->metric, "What to measure: ppl")
      ->required()
      ->type_name("")
      ->check(CLI::IsMember({"ppl"}));
  verb.app().add_option("FILE", args->files, "Text files, plain or .xz")->required()->type_name("");
  verb.Model(args->model);
  verb.Threads(args->threads);
  args->stream.Add(verb);
  verb.Bool("--carry", args->carry, "One continuous state over each file instead of one per document");
  verb.Json(args->json);
  verb.Body([args] { return Eval(*args); });
}

}  // namespace omni::cli
