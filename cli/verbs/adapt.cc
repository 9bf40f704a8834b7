#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "cli/adapter_list.h"
#include "cli/cluster_flags.h"
#include "cli/output.h"
#include "cli/place.h"
#include "cli/server_flags.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/verbs/adapt_there.h"
#include "engine/around/adapt_measure.h"
#include "engine/around/adapt_report.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/decode/eval.h"
#include "engine/model/session_state.h"
#include "engine/text/text_file.h"
#include "store/format/model_files.h"
#include "store/model/find_model.h"
#include "store/model/model.h"
#include "store/state/adapter_files.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

struct AdaptArgs {
  std::string action, name, model, layers = "cores", other;
  std::vector<std::string> words;
  std::chrono::milliseconds budget{60'000};
  int64_t threads = 0, passes = 4, head_rank = 256, first_bytes = 20'000, most_tokens = int64_t{1} << 40;
  int64_t own_tokens = 2048, other_tokens = 16'000;
  float drift = 0.4f;
  bool positions = false, no_head = false, more = false, json = false;
  StreamFlags stream;
  ClusterFlags cluster;
  ServerFlags server;
  GivenFlags of_learning, of_budget, of_drift, of_name, of_more, of_measure, of_model;
};

// Of AdaptReportJson, from here or from a server.
void PrintReport(const Json& report) {
  for (const Json& phase : report.value("phases", Json::array())) {
    PrintF("%-9s  %d of %d passes kept, held out %.4f nats a token, drift %.2f %%, %.1f s\n",
           phase.value("name", ""), phase.value("kept", int64_t{0}), phase.value("passes", int64_t{0}),
           phase.value("nats", 0.0), 100 * phase.value("drift", 0.0), phase.value("seconds", 0.0));
  }
  for (const Json& share : report.value("shares", Json::array())) {
    PrintF("%-11s  %7d values  %+.2f %% of the held-out loss\n", share.value("block", ""),
           share.value("values", int64_t{0}), -100 * share.value("share", 0.0));
  }
  PrintF("%d tokens learned from, %d held out: %.4f nats a token before, %.4f after (%.2f %% less), %.1f s\n",
         report.value("tokens", int64_t{0}), report.value("held_out_tokens", int64_t{0}),
         report.value("nats_before", 0.0), report.value("nats", 0.0), 100 * report.value("gain", 0.0),
         report.value("seconds", 0.0));
}

// Whether the time was over before one pass had been made.
bool WithoutPass(const Json& report) {
  const Json phases = report.value("phases", Json::array());
  return report.value("out_of_time", false) && std::ranges::all_of(phases, [](const Json& phase) {
           return phase.value("passes", int64_t{0}) == 0;
         });
}

// What came of it, and why not more.
std::string Outcome(const Json& report) {
  const std::string name = report.value("name", "");
  const bool out_of_time = report.value("out_of_time", false);
  if (report.value("saved", false)) {
    return absl::StrCat(
        "saved as ", name,
        out_of_time ? "; the time was over before it had learned all: --budget gives more" : "");
  }
  if (InterruptGuard::Requested())
    return absl::StrCat("interrupted before anything was better on what was held out: ", name,
                        " is as it was");
  if (WithoutPass(report)) {
    return absl::StrCat("the time was over before a pass could be made: ", name,
                        " is as it was; --budget gives more");
  }
  return absl::StrCat("nothing was better on what was held out",
                      out_of_time ? " when the time was over (--budget gives more): " : ": ", name,
                      " is as it was");
}

// `report`: with the adapter's name, and whether it was saved.
int ShowLearned(const AdaptArgs& args, const Json& report) {
  const bool saved = report.value("saved", false);
  if (args.json) {
    PrintF("%s\n", JsonText(report));
  } else {
    PrintReport(report);
    PrintF("%s\n", Outcome(report));
  }
  return saved ? kExitOk : kExitFailure;
}

absl::StatusOr<int> LearnThereWith(const AdaptArgs& args, const std::string& text) {
  const absl::StatusOr<ClusterClientOptions> server = args.cluster.ClientOptions();
  if (!server.ok()) return server.status();
  StatusLine line(StderrCanErase());
  const absl::StatusOr<Json> report =
      LearnOnServer({*server, args.name, text, args.budget, args.more, args.drift / 100,
                     [&](const std::string& told) { line.Show(told); }});
  line.Clear();
  if (absl::IsCancelled(report.status())) {
    Note(std::string(report.status().message()));
    return kExitInterrupted;
  }
  if (!report.ok()) return report.status();
  return ShowLearned(args, *report);
}

AdapterParts PartsOf(const AdaptArgs& args) {
  AdapterParts parts;
  if (args.no_head) parts.bias = parts.gain = false;
  parts.head_rank = args.no_head ? 0 : args.head_rank;
  parts.layers = args.layers == "none"   ? AdaptLayers::kNone
                 : args.layers == "lora" ? AdaptLayers::kLora
                                         : AdaptLayers::kCores;
  parts.positions = args.positions;
  return parts;
}

AdaptSettings SettingsOf(const AdaptArgs& args, const std::function<void(double)>& show) {
  AdaptSettings settings;
  settings.budget = args.budget;
  settings.passes = args.passes;
  settings.most_drift = args.drift / 100;
  settings.own_tokens = args.own_tokens;
  settings.progress = [show](double share) {
    if (show) show(share);
    return InterruptGuard::Requested();
  };
  return settings;
}

absl::StatusOr<std::string> TextOf(const std::string& file) {
  return file == "-" ? ReadStdinText() : omni::ReadText(file);
}

// The model, with memory planned for learning from texts of up to so many bytes, where memory is planned.
absl::StatusOr<OpenedModel> OpenToLearn(const AdaptArgs& args, int64_t text_bytes) {
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  absl::StatusOr<OpenOptions> open = args.stream.Options(*path);
  if (!open.ok()) return open.status();
  if (open->residency == Residency::kStreamed) {
    const absl::StatusOr<ModelFiles> files = ReadModelFiles(*path, {.tiles = false, .shared = false});
    if (!files.ok()) return files.status();
    const ModelConfig& config = files->manifest.config;
    const int64_t state = SessionState::BytesFor(config),
                  bytes = MostLearningBytes(config, PartsOf(args), SettingsOf(args, nullptr), text_bytes,
                                            ThreadsOrDefault(args.threads));
    open->sessions = (bytes + text_bytes + state - 1) / state;
  }
  absl::StatusOr<Model> model = OpenModel(*path, *open);
  if (!model.ok()) return model.status();
  if (model->cache() != nullptr && StderrIsTerminal()) Note(DescribeStreaming(*model));
  return OpenedModel{*std::move(path), *std::move(model)};
}

absl::StatusOr<int> Learn(const AdaptArgs& args) {
  if (args.name.empty())
    return UsageError("omni adapt FILE wants a name for what it learns: omni adapt FILE --name NAME");
  if (absl::Status s = CheckAdapterName(args.name); !s.ok()) return UsageError(std::string(s.message()));
  const absl::StatusOr<std::string> text = TextOf(args.action);
  if (!text.ok()) return text.status();
  if (!args.cluster.cluster.empty()) return LearnThereWith(args, *text);
  const absl::StatusOr<AdapterFiles> files = OpenAdapterFiles();
  if (!files.ok()) return files.status();
  absl::StatusOr<OpenedModel> opened = OpenToLearn(args, std::ssize(*text));
  if (!opened.ok()) return opened.status();
  const Model& model = opened->model;
  Adapter adapter(model.config(), PartsOf(args), model.hash());
  if (args.more) {
    const absl::StatusOr<std::string> bytes = files->Load(args.name);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<Adapter> old = Adapter::Read(*bytes);
    if (!old.ok()) return old.status();
    if (absl::Status s = old->Fits(model.config(), model.hash()); !s.ok()) return s;
    adapter = *std::move(old);
  }
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  const InterruptGuard interrupt;
  StatusLine line(StderrCanErase());
  const absl::StatusOr<AdaptReport> report =
      LearnAdapter(model.weights(), model.experts(), model.tokenizer(), pool, *text,
                   SettingsOf(args, ShowShare(line, absl::StrCat("learning ", args.action))), adapter);
  line.Clear();
  if (!report.ok())
    return absl::Status(report.status().code(), absl::StrCat(args.action, ": ", report.status().message()));
  if (report->kept) {
    if (absl::Status s = files->Save(args.name, adapter.Write()); !s.ok()) return s;
  }
  Json json = AdaptReportJson(*report);
  json["name"] = args.name;
  json["saved"] = report->kept;
  json["model_hash"] = model.hash();
  if (report->kept) json["hash"] = adapter.Hash();
  const int code = ShowLearned(args, json);
  return InterruptGuard::Requested() ? kExitInterrupted : code;
}

absl::StatusOr<std::vector<ListedAdapter>> Listed(const AdaptArgs& args) {
  if (!args.cluster.cluster.empty()) {
    const absl::StatusOr<std::unique_ptr<ClusterClient>> client = args.cluster.Connect();
    if (!client.ok()) return client.status();
    return AdaptersOf(**client);
  }
  if (!args.server.server.empty()) {
    const absl::StatusOr<std::unique_ptr<OpenAiClient>> client =
        args.server.Connect("", args.cluster.allow_plain);
    if (!client.ok()) return client.status();
    return AdaptersOf(**client);
  }
  const absl::StatusOr<AdapterFiles> files = OpenAdapterFiles();
  if (!files.ok()) return files.status();
  return AdaptersOf(*files);
}

absl::StatusOr<int> List(const AdaptArgs& args) {
  if (!args.words.empty()) return UsageError("omni adapt list takes no further word");
  const absl::StatusOr<std::vector<ListedAdapter>> listed = Listed(args);
  if (!listed.ok()) return listed.status();
  Json list = Json::array();
  if (!args.json) {
    PrintF("%-24s %10s %9s %9s %8s  %-32s  %s\n", "name", "bytes", "tokens", "held out", "gain", "hash",
           "model");
  }
  int damaged = 0;
  for (const ListedAdapter& one : *listed) {
    const OfferedAdapter& adapter = one.adapter;
    damaged += !one.error.empty();
    if (args.json) {
      Json json = {{"name", adapter.name}};
      if (!one.error.empty()) {
        json["error"] = one.error;
      } else {
        json.update({{"values", adapter.values},
                     {"tokens", adapter.tokens},
                     {"held_out_tokens", adapter.held_out_tokens},
                     {"gain", adapter.gain},
                     {"hash", adapter.hash},
                     {"model_hash", adapter.model_hash}});
        if (one.bytes.has_value()) json["bytes"] = *one.bytes;
      }
      list.push_back(std::move(json));
    } else if (!one.error.empty()) {
      PrintF("%-24s %s\n", adapter.name, one.error);
    } else {
      PrintF("%-24s %10s %9d %9d %7.2f%%  %s  %s\n", adapter.name,
             one.bytes.has_value() ? absl::StrCat(*one.bytes) : "-", adapter.tokens, adapter.held_out_tokens,
             100 * adapter.gain, adapter.hash, adapter.model_hash);
    }
  }
  if (args.json) PrintF("%s\n", JsonText(Json({{"adapters", std::move(list)}})));
  return damaged == 0 ? kExitOk : kExitFailure;
}

absl::StatusOr<int> Remove(const AdaptArgs& args) {
  if (args.words.size() != 1) return UsageError("omni adapt remove wants one name: omni adapt remove NAME");
  const absl::StatusOr<AdapterFiles> files = OpenAdapterFiles();
  if (!files.ok()) return files.status();
  if (absl::Status s = files->Remove(args.words[0]); !s.ok()) return s;
  if (args.json) PrintF("%s\n", JsonText(Json({{"removed", args.words[0]}})));
  return kExitOk;
}

// The loss of another text, by the model and with an adapter.
absl::StatusOr<double> OtherLoss(const Model& model, WorkerPool& pool, const std::string& text,
                                 int64_t tokens, const Adapter* adapter) {
  EvalOptions options;
  options.max_tokens = tokens;
  RowAdapter view;
  std::unique_ptr<AdaptedPositions> policy;
  if (adapter != nullptr) {
    view = adapter->View();
    options.adapter = &view;
    if (adapter->parts().positions) {
      policy = std::make_unique<AdaptedPositions>(model.config(), *adapter);
      options.policy = policy.get();
    }
  }
  const absl::StatusOr<EvalResult> result =
      EvalText(model.weights(), model.experts(), model.tokenizer(), pool, text, options);
  if (!result.ok()) return result.status();
  return result->nats_per_token();
}

absl::StatusOr<int> Measure(const AdaptArgs& args) {
  if (args.words.empty()) return UsageError("omni adapt measure wants texts: omni adapt measure FILE...");
  std::string other;
  if (!args.other.empty()) {
    absl::StatusOr<std::string> text = TextOf(args.other);
    if (!text.ok()) return text.status();
    other = *std::move(text);
    if (SplitDocuments(other).empty())
      return absl::InvalidArgumentError(absl::StrCat(args.other, ": nothing to predict in it"));
  }
  absl::StatusOr<OpenedModel> opened = OpenToLearn(args, args.first_bytes);
  if (!opened.ok()) return opened.status();
  const Model& model = opened->model;
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  double other_before = 0;
  if (!other.empty()) {
    const absl::StatusOr<double> nats = OtherLoss(model, pool, other, args.other_tokens, nullptr);
    if (!nats.ok()) return nats.status();
    other_before = *nats;
  }
  const InterruptGuard interrupt;
  StatusLine line(StderrCanErase());
  Json list = Json::array();
  double gains = 0, worst_gain = 1, other_losses = 0, worst_other = -1, ngrams = 0, reading = 0, seconds = 0;
  for (const std::string& file : args.words) {
    const absl::StatusOr<std::string> text = TextOf(file);
    if (!text.ok()) return text.status();
    for (std::string_view document : SplitDocuments(*text)) {
      Adapter adapter(model.config(), PartsOf(args), model.hash());
      const absl::StatusOr<AdaptWorth> worth = MeasureAdapter(
          model.weights(), model.experts(), model.tokenizer(), pool, document, args.first_bytes,
          args.most_tokens, SettingsOf(args, ShowShare(line, "learning")), adapter);
      line.Clear();
      if (!worth.ok())
        return absl::Status(worth.status().code(), absl::StrCat(file, ": ", worth.status().message()));
      if (worth->tokens == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": a document of ", document.size(), " bytes has no rest to measure"));
      }
      if (InterruptGuard::Requested()) return kExitInterrupted;
      const double gain = 1 - worth->nats_adapted / worth->nats;
      double other_loss = 0;
      if (!other.empty()) {
        const absl::StatusOr<double> nats = OtherLoss(model, pool, other, args.other_tokens, &adapter);
        if (!nats.ok()) return nats.status();
        other_loss = *nats / other_before - 1;
      }
      gains += gain;
      worst_gain = std::min(worst_gain, gain);
      other_losses += other_loss;
      worst_other = std::max(worst_other, other_loss);
      ngrams += 1 - worth->nats_ngrams / worth->nats;
      reading += 1 - worth->nats_ngrams_reading / worth->nats;
      seconds = std::max(seconds, worth->learned.seconds);
      if (!args.json) {
        PrintF(
            "document %d: rest of %d tokens %.2f %% fewer nats, other text %+.2f %%, %.1f s; n-gram counts "
            "%.2f %%, %.2f %% when they go on reading\n",
            list.size() + 1, worth->tokens, 100 * gain, 100 * other_loss, worth->learned.seconds,
            100 * (1 - worth->nats_ngrams / worth->nats),
            100 * (1 - worth->nats_ngrams_reading / worth->nats));
        if (WithoutPass(AdaptReportJson(worth->learned)))
          PrintF("  the time was over before a pass could be made; --budget gives more\n");
        for (const AdaptShare& share : worth->shares) {
          PrintF("  %-11s %+.2f %%\n", AdapterBlockName(share.block),
                 100 * (worth->nats_adapted - share.nats_without) / worth->nats);
        }
        FlushOutput();
      }
      list.push_back({{"tokens", worth->tokens},
                      {"bytes", worth->bytes},
                      {"nats_per_token", worth->nats / static_cast<double>(worth->tokens)},
                      {"gain", gain},
                      {"other_loss", other_loss},
                      {"ngram_gain", 1 - worth->nats_ngrams / worth->nats},
                      {"ngram_reading_gain", 1 - worth->nats_ngrams_reading / worth->nats},
                      {"shares", AdaptSharesJson(worth->shares, worth->nats_adapted, worth->nats)},
                      {"learned", AdaptReportJson(worth->learned)}});
    }
  }
  if (list.empty()) return absl::InvalidArgumentError(absl::StrCat(args.words[0], ": nothing to learn from"));
  const auto count = static_cast<double>(list.size());
  if (args.json) {
    const Json json = {{"documents", list},
                       {"gain", gains / count},
                       {"least_gain", worst_gain},
                       {"other_loss", other_losses / count},
                       {"most_other_loss", worst_other},
                       {"ngram_gain", ngrams / count},
                       {"ngram_reading_gain", reading / count},
                       {"most_seconds", seconds},
                       {"model_hash", model.hash()}};
    PrintF("%s\n", JsonText(json));
  } else {
    PrintF(
        "mean of %d documents: %.2f %% fewer nats, other text %+.2f %%; n-gram counts %.2f %%, reading %.2f "
        "%%\n",
        list.size(), 100 * gains / count, 100 * other_losses / count, 100 * ngrams / count,
        100 * reading / count);
  }
  return kExitOk;
}

// Whose adapters are listed.
absl::Status CheckWhere(const AdaptArgs& args) {
  const bool cluster = !args.cluster.cluster.empty(), server = !args.server.server.empty();
  if (cluster && server)
    return UsageError("--cluster and --server both say whose adapters are listed; leave one out");
  if (!server) {
    if (absl::Status s =
            RefuseGiven({&args.server.given_beside()}, " does nothing without --server; leave it out");
        !s.ok())
      return s;
  } else if (absl::Status s =
                 RefuseGiven({&args.cluster.given_of_nodes()}, " does nothing beside --server; leave it out");
             !s.ok()) {
    return s;
  }
  if (cluster || server) return absl::OkStatus();
  return RefuseGiven({&args.cluster.given_beside()}, " does nothing without --cluster; leave it out");
}

absl::StatusOr<int> RunAdapt(const AdaptArgs& args) {
  const auto refuse = [&](std::initializer_list<const GivenFlags*> flags) -> absl::Status {
    for (const GivenFlags* given : flags) {
      if (const std::string name = given->First(); !name.empty())
        return UsageError(absl::StrCat(name, " does nothing for omni adapt ", args.action, "; leave it out"));
    }
    return absl::OkStatus();
  };
  if (args.action == "list" || args.action == "remove") {
    absl::Status s = refuse({&args.of_learning, &args.of_budget, &args.of_drift, &args.of_name, &args.of_more,
                             &args.of_measure, &args.of_model, &args.stream.given()});
    if (!s.ok()) return s;
    if (args.action == "list") {
      s = CheckWhere(args);
      return s.ok() ? List(args) : s;
    }
    s = refuse({&args.cluster.given(), &args.server.given(), &args.server.given_beside()});
    return s.ok() ? Remove(args) : s;
  }
  if (args.action == "measure") {
    const absl::Status s = refuse({&args.of_name, &args.of_more, &args.cluster.given(), &args.server.given(),
                                   &args.server.given_beside()});
    return s.ok() ? Measure(args) : s;
  }
  if (!args.words.empty()) {
    return UsageError(absl::StrCat("omni adapt learns from one file; leave '", args.words[0], "' out"));
  }
  if (absl::Status s = refuse({&args.of_measure}); !s.ok()) return s;
  if (absl::Status s = RefuseGiven({&args.server.given(), &args.server.given_beside()},
                                   " belongs to omni adapt list; a server learns by --cluster");
      !s.ok())
    return s;
  const absl::Status s =
      args.cluster.cluster.empty()
          ? RefuseGiven({&args.cluster.given_beside()}, " does nothing without --cluster; leave it out")
          : RefuseGiven({&args.of_learning, &args.of_model, &args.stream.given()},
                        " does nothing beside --cluster: the server learns as it does; leave it out");
  if (!s.ok()) return s;
  return Learn(args);
}

}  // namespace

void AddAdapt(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "adapt", "Learn an adapter from a text, and keep adapters",
      "  omni adapt letters.txt --name me            # within a minute; omni run --adapter me uses it\n"
      "  omni adapt letters.txt --name me --cluster 127.0.0.1:8081  # by a server, while it answers nobody\n"
      "  omni adapt list\n"
      "  omni adapt list --server http://127.0.0.1:8080  # those that a server offers; or --cluster\n"
      "  omni adapt remove me\n"
      "  omni adapt measure novel.txt --other valid.txt.xz  # learns the beginning, measures the rest\n\n"
      "The end of the text is held out and decides what is kept: if nothing is better there, nothing is\n"
      "saved, and the exit code is 1. Of the model's own texts none becomes less likely than allowed.");
  auto args = std::make_shared<AdaptArgs>();
  verb.Require(verb.Argument("ACTION", args->action,
                             "A text file, plain or .xz, - for standard input; or "
                             "list, remove or measure"));
  verb.Files("WORDS", args->words, "Of remove: a name; of measure: text files");
  args->of_name.Add(
      verb.Text("--name", args->name, "What the adapter is called; one of that name is replaced"));
  args->of_more.Add(verb.Bool("--more", args->more, "Go on from the adapter of that name"));
  args->of_budget.Add(verb.Duration("--budget", args->budget, "Time to learn in (default 1m)"));
  args->of_learning.Add(verb.Number("--passes", args->passes, {1, 1000},
                                    "Over the text, at most, for each kind of values "
                                    "(default 4)"));
  args->of_learning.Add(verb.Choice("--layers", args->layers, {"cores", "lora", "none"},
                                    "What of the layers is learned: rank-4 cores and gains (about 200 "
                                    "values), rank-4 factors of every decay, or nothing (default cores)"));
  args->of_learning.Add(verb.Bool("--no-head", args->no_head,
                                  "Learn no bias, gain and map of the last "
                                  "hidden state"));
  args->of_learning.Add(verb.Number("--head-rank", args->head_rank, {0, 65536},
                                    "Rank of the map of the last hidden state (default 256)"));
  args->of_learning.Add(verb.Bool("--positions", args->positions, "Move experts, too: slow"));
  args->of_drift.Add(verb.Real("--drift", args->drift, {0, 100},
                               "Per cent by which the model's own texts may become less likely "
                               "(default 0.4)"));
  args->of_learning.Add(verb.Number("--own-tokens", args->own_tokens, {1, 1 << 20},
                                    "Tokens that the model writes to hold on to (default 2048)"));
  args->of_measure.Add(verb.Number("--first-bytes", args->first_bytes, {1, int64_t{1} << 40},
                                   "Of measure: learn from so many of each document (default 20000)"));
  args->of_measure.Add(verb.Number("--most-tokens", args->most_tokens, {1, int64_t{1} << 40},
                                   "Of measure: measure at most so many of each document's rest"));
  args->of_measure.Add(verb.Path("--other", args->other, "Of measure: a text that should not suffer"));
  args->of_measure.Add(verb.Number("--other-tokens", args->other_tokens, {1, int64_t{1} << 40},
                                   "Of measure: so many of its tokens in all (default 16000)"));
  args->of_model.Add(verb.Model(args->model));
  args->of_model.Add(verb.Threads(args->threads));
  args->stream.Add(verb);
  args->cluster.Add(verb);
  args->server.Add(verb, false);
  verb.Json(args->json);
  verb.Body([args] { return RunAdapt(*args); });
}

}  // namespace omni::cli
