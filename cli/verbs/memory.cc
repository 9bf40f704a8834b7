#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "actors/memory.h"
#include "cli/cluster_flags.h"
#include "cli/http_memory.h"
#include "cli/memory_folder.h"
#include "cli/output.h"
#include "cli/result_file.h"
#include "cli/server_flags.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/verbs/capacity_svg.h"
#include "cluster/memory_client.h"
#include "engine/around/context_eval.h"
#include "engine/around/memory_capacity.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/base/replace_file.h"
#include "engine/base/system_error.h"
#include "engine/decode/eval.h"
#include "engine/text/text_file.h"
#include "store/file/files.h"
#include "store/model/model.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

constexpr size_t kImportedTogether = 1000, kImportedBytes = 8 << 20;
constexpr int64_t kCapacities[] = {1'000,   10'000,  20'000,  50'000,   100'000,
                                   200'000, 400'000, 700'000, 1'000'000};

struct MemoryArgs {
  std::string action, folder, scope = "default", model, svg;
  std::vector<std::string> words;
  int64_t items = 200'000, most_tokens = int64_t{1} << 40, documents = 1'000'000, threads = 0;
  bool all = false;
  StreamFlags stream;
  ClusterFlags cluster;
  ServerFlags server;
  GivenFlags of_folder, of_scope, of_capacity, of_measure, of_forget;
  bool json = false;
};

void PrintJson(const Json& json) { PrintF("%s\n", JsonText(json)); }

// A memory wherever it is.
struct Opened {
  std::unique_ptr<Memory> here;
  std::unique_ptr<RemoteMemory> there;
  std::unique_ptr<HttpMemory> http;

  absl::Status Add(const std::string& scope, const std::vector<Association>& associations) const {
    if (http != nullptr) return http->Add(scope, associations);
    return there != nullptr ? there->Add(scope, associations) : here->Add(scope, associations);
  }
  absl::StatusOr<std::optional<Remembered>> Ask(const std::string& scope, const std::string& key) const {
    if (http != nullptr) return http->Ask(scope, key);
    return there != nullptr ? there->Ask(scope, key) : here->Ask(scope, key);
  }
  absl::StatusOr<Forgotten> Forget(const std::string& scope, const std::optional<std::string>& key) const {
    if (there != nullptr) return there->Forget(scope, key);
    const absl::StatusOr<int64_t> records =
        http != nullptr ? http->Forget(scope, key) : here->Forget(scope, key);
    if (!records.ok()) return records.status();
    return Forgotten{*records};
  }
  absl::StatusOr<std::vector<ScopeStats>> Stats() const {
    if (http != nullptr) return http->Stats();
    return there != nullptr ? there->Stats() : here->AllStats();
  }
};

// That of a cluster or a server, or a folder, which is made if there is to be one.
absl::StatusOr<Opened> Open(const MemoryArgs& args, bool create) {
  if (!args.server.server.empty()) {
    absl::StatusOr<std::unique_ptr<OpenAiClient>> client = args.server.Connect("", args.cluster.allow_plain);
    if (!client.ok()) return client.status();
    return Opened{nullptr, nullptr, std::make_unique<HttpMemory>(*std::move(client))};
  }
  if (!args.cluster.cluster.empty()) {
    absl::StatusOr<ClusterClientOptions> options = args.cluster.ClientOptions();
    if (!options.ok()) return options.status();
    absl::StatusOr<std::unique_ptr<RemoteMemory>> there = RemoteMemory::Make(*std::move(options));
    if (!there.ok()) return there.status();
    return Opened{nullptr, *std::move(there), nullptr};
  }
  absl::StatusOr<std::string> folder = MemoryFolder(args.folder);
  if (!folder.ok()) return folder.status();
  const std::filesystem::path parent = std::filesystem::path(*folder).parent_path();
  std::error_code error;
  if (create && args.folder.empty() && (std::filesystem::create_directories(parent, error), error))
    return SystemError(parent.string(), "create the directory", error.value());
  if (!create && !std::filesystem::exists(*folder, error))
    return absl::NotFoundError(absl::StrCat(*folder, ": nothing is remembered there; omni memory add does"));
  absl::StatusOr<std::unique_ptr<Memory>> here = Memory::Open(*folder, create);
  if (!here.ok()) return here.status();
  return Opened{*std::move(here), nullptr, nullptr};
}

Json RecalledJson(const Recalled& how) {
  return {{"distance", how.distance},
          {"margin", how.margin},
          {"votes", how.votes},
          {"bank_items", how.bank_items}};
}

absl::StatusOr<int> Add(const MemoryArgs& args) {
  if (args.words.size() != 2)
    return UsageError("omni memory add wants a key and a value: omni memory add KEY VALUE");
  const absl::StatusOr<Opened> memory = Open(args, true);
  if (!memory.ok()) return memory.status();
  if (absl::Status s = memory->Add(args.scope, {{args.words[0], args.words[1]}}); !s.ok()) return s;
  if (args.json) PrintJson({{"scope", args.scope}, {"added", 1}});
  return kExitOk;
}

absl::StatusOr<int> Ask(const MemoryArgs& args) {
  if (args.words.size() != 1) return UsageError("omni memory ask wants one key: omni memory ask KEY");
  const absl::StatusOr<Opened> memory = Open(args, false);
  if (!memory.ok()) return memory.status();
  absl::StatusOr<std::optional<Remembered>> got = memory->Ask(args.scope, args.words[0]);
  if (!got.ok()) return got.status();
  if (!got->has_value()) {
    if (args.json) {
      PrintJson({{"scope", args.scope}, {"value", nullptr}});
      return kExitFailure;
    }
    return absl::NotFoundError(
        absl::StrCat("memory scope ", args.scope, ": nothing is remembered of a key like this one"));
  }
  if (args.json) {
    Json json = RecalledJson((*got)->how);
    json["scope"] = args.scope;
    json["value"] = (*got)->value;
    PrintJson(json);
  } else {
    PrintF("%s\n", (*got)->value);
  }
  return kExitOk;
}

absl::StatusOr<int> Forget(const MemoryArgs& args) {
  if (args.words.size() != (args.all ? 0u : 1u)) {
    return UsageError(
        "omni memory forget wants one key, or --all of a scope: omni memory forget KEY, omni memory forget "
        "--all --scope SCOPE");
  }
  const absl::StatusOr<Opened> memory = Open(args, false);
  if (!memory.ok()) return memory.status();
  const absl::StatusOr<Forgotten> forgotten =
      memory->Forget(args.scope, args.all ? std::nullopt : std::optional<std::string>(args.words[0]));
  if (!forgotten.ok()) return forgotten.status();
  if (args.json) PrintJson({{"scope", args.scope}, {"forgotten", forgotten->records}});
  if (forgotten->records == 0 && forgotten->perhaps_more) {
    Note("the answer to a call before was lost; nothing of this is remembered now");
    return kExitOk;
  }
  if (forgotten->records > 0 || args.json) return forgotten->records > 0 ? kExitOk : kExitFailure;
  return absl::NotFoundError(absl::StrCat("memory scope ", args.scope, ": there is no such key"));
}

absl::StatusOr<int> Import(const MemoryArgs& args) {
  if (args.words.size() != 1)
    return UsageError("omni memory import wants one file, of lines KEY<tab>VALUE: omni memory import FILE");
  const std::string& file = args.words[0];
  absl::StatusOr<std::string> text = file == "-" ? ReadStdinText() : omni::ReadText(file);
  if (!text.ok()) return text.status();
  const absl::StatusOr<Opened> memory = Open(args, true);
  if (!memory.ok()) return memory.status();
  const InterruptGuard interrupt;
  StatusLine line(StderrCanErase());
  const auto show = ShowShare(line, absl::StrCat("importing ", file));
  std::vector<Association> batch;
  int64_t number = 0, added = 0;
  size_t bytes = 0;
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    std::string row = text->substr(begin, end - begin);
    if (row.ends_with('\r')) row.pop_back();
    begin = end + 1;
    ++number;
    if (row.empty() && begin < text->size()) continue;
    const size_t tab = row.find('\t');
    if (!row.empty() && tab == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": line ", number,
                                                     " has no tab between a key and a value; ", added,
                                                     " associations before it were added"));
    }
    if (!row.empty()) batch.push_back({row.substr(0, tab), row.substr(tab + 1)});
    bytes += row.size();
    if (batch.size() < kImportedTogether && bytes < kImportedBytes && begin < text->size()) continue;
    if (absl::Status s = memory->Add(args.scope, batch); !s.ok())
      return absl::Status(s.code(), absl::StrCat(file, ": up to line ", number, ": ", s.message()));
    added += std::ssize(batch);
    batch.clear();
    bytes = 0;
    if (show) show(static_cast<double>(std::min(begin, text->size())) / static_cast<double>(text->size()));
    if (InterruptGuard::Requested()) break;
  }
  line.Clear();
  if (args.json) {
    PrintJson({{"scope", args.scope}, {"added", added}});
  } else {
    PrintF("%d associations added to %s\n", added, args.scope);
  }
  return InterruptGuard::Requested() ? kExitInterrupted : kExitOk;
}

absl::StatusOr<int> Stats(const MemoryArgs& args) {
  const absl::StatusOr<Opened> memory = Open(args, false);
  if (!memory.ok()) return memory.status();
  const absl::StatusOr<std::vector<ScopeStats>> stats = memory->Stats();
  if (!stats.ok()) return stats.status();
  Json list = Json::array();
  if (!args.json)
    PrintF("%-24s %12s %12s %8s %8s %10s\n", "scope", "keys", "values", "banks", "fullest", "memory");
  for (const ScopeStats& s : *stats) {
    if (!args.json) {
      PrintF("%-24s %12d %12d %8d %8d %10s\n", s.scope, s.associations, s.values, s.used_banks,
             s.fullest_bank, HumanBytes(s.bytes));
    }
    list.push_back({{"scope", s.scope},
                    {"version", s.version},
                    {"keys", s.associations},
                    {"values", s.values},
                    {"used_banks", s.used_banks},
                    {"fullest_bank", s.fullest_bank},
                    {"bytes", s.bytes}});
  }
  if (args.json) PrintJson({{"scopes", std::move(list)}});
  return kExitOk;
}

absl::StatusOr<int> Capacity(const MemoryArgs& args) {
  std::vector<int64_t> items;
  for (int64_t n : kCapacities) {
    if (n < args.items) items.push_back(n);
  }
  items.push_back(args.items);
  if (!args.svg.empty() && items.size() < 2)
    return UsageError(
        "--svg draws a curve, and of so few --items there is one point; ask for more than 1000");
  if (!args.svg.empty()) {
    if (absl::Status s = CheckResultFile(args.svg); !s.ok()) return s;
  }
  const std::vector<CapacityPoint> points = MeasureCapacity(items, 20'000);
  Json list = Json::array();
  if (!args.json) {
    PrintF("%9s %7s  %8s %8s  %8s %8s  %9s %9s %9s %9s\n", "keys", "a bank", "exact", "theory", "10% bad",
           "theory", "median us", "p99 us", "add us", "memory");
  }
  for (const CapacityPoint& p : points) {
    if (!args.json) {
      PrintF("%9d %7.1f  %7.3f%% %7.3f%%  %7.3f%% %7.3f%%  %9.1f %9.1f %9.1f %9s\n", p.items, p.load,
             100 * p.exact, 100 * p.exact_expected, 100 * p.noisy, 100 * p.noisy_expected, p.lookup_median_us,
             p.lookup_p99_us, p.add_us, HumanBytes(p.bytes));
    }
    list.push_back({{"items", p.items},
                    {"load", p.load},
                    {"exact", p.exact},
                    {"exact_expected", p.exact_expected},
                    {"noisy", p.noisy},
                    {"noisy_expected", p.noisy_expected},
                    {"lookup_median_us", p.lookup_median_us},
                    {"lookup_p99_us", p.lookup_p99_us},
                    {"noisy_median_us", p.noisy_median_us},
                    {"add_us", p.add_us},
                    {"bytes", p.bytes}});
  }
  if (!args.svg.empty()) {
    if (absl::Status s = WriteOutput(args.svg, CapacitySvg(points)); !s.ok()) return s;
  }
  if (args.json) PrintJson({{"points", std::move(list)}});
  return kExitOk;
}

absl::StatusOr<int> Measure(const MemoryArgs& args) {
  if (args.words.empty()) return UsageError("omni memory measure wants texts: omni memory measure FILE...");
  std::vector<std::string> texts;
  for (const std::string& file : args.words) {
    absl::StatusOr<std::string> text = omni::ReadText(file);
    if (!text.ok()) return text.status();
    texts.push_back(*std::move(text));
  }
  absl::StatusOr<OpenedModel> opened = args.stream.Open(args.model);
  if (!opened.ok()) return opened.status();
  Model* model = &opened->model;
  WorkerPool pool(ThreadsOrDefault(args.threads));
  if (!pool.status().ok()) return pool.status();
  const ModelConfig& config = model->weights().config;
  const auto code = std::make_shared<const ContextCode>(config.d, config.vocab);
  ContextWorth sum;
  int64_t documents = 0;
  for (const std::string& text : texts) {
    for (std::string_view document : SplitDocuments(text)) {
      if (documents == args.documents) break;
      const absl::StatusOr<ContextWorth> worth = MeasureContexts(
          model->weights(), model->experts(), model->tokenizer(), pool, document, args.most_tokens, code);
      if (!worth.ok()) return worth.status();
      ++documents;
      sum.tokens += worth->tokens;
      sum.bytes += worth->bytes;
      sum.nats += worth->nats;
      sum.nats_memory += worth->nats_memory;
      sum.nats_ngrams += worth->nats_ngrams;
      sum.memory_seconds += worth->memory_seconds;
      sum.ngram_seconds += worth->ngram_seconds;
      sum.read += worth->read;
      if (!args.json && worth->nats > 0) {
        PrintF("document %d: %d tokens, with memory %.2f %%, with counts %.2f %% fewer bits\n", documents,
               worth->tokens, 100 * (1 - worth->nats_memory / worth->nats),
               100 * (1 - worth->nats_ngrams / worth->nats));
        FlushOutput();
      }
    }
  }
  if (sum.bytes == 0)
    return absl::InvalidArgumentError(absl::StrCat(args.words[0], ": nothing to predict in it"));
  const auto bits = [&](double nats) { return nats / std::log(2.0) / static_cast<double>(sum.bytes); };
  const Json json = {{"documents", documents},
                     {"tokens", sum.tokens},
                     {"bytes", sum.bytes},
                     {"bits_per_byte", bits(sum.nats)},
                     {"bits_per_byte_memory", bits(sum.nats_memory)},
                     {"bits_per_byte_ngrams", bits(sum.nats_ngrams)},
                     {"context_memory_gain", 1 - sum.nats_memory / sum.nats},
                     {"ngram_cache_gain", 1 - sum.nats_ngrams / sum.nats},
                     {"memory_us_per_token", 1e6 * sum.memory_seconds / static_cast<double>(sum.read)},
                     {"ngram_us_per_token", 1e6 * sum.ngram_seconds / static_cast<double>(sum.read)},
                     {"model_hash", model->hash()}};
  if (args.json) {
    PrintJson(json);
  } else {
    PrintF(
        "second halves of %d documents: %.4f bits a byte; with memory %.4f (%.2f %% fewer), with counts %.4f "
        "(%.2f %% fewer)\n",
        documents, bits(sum.nats), bits(sum.nats_memory), 100 * json["context_memory_gain"].get<double>(),
        bits(sum.nats_ngrams), 100 * json["ngram_cache_gain"].get<double>());
  }
  return kExitOk;
}

// Whose memory it is: that is said once, and by actions that have one alone.
absl::Status CheckPlace(const MemoryArgs& args, bool has_memory) {
  const bool cluster = !args.cluster.cluster.empty(), server = !args.server.server.empty();
  if (!has_memory) {
    for (const GivenFlags* flags :
         {&args.cluster.given(), &args.server.given(), &args.server.given_beside()}) {
      if (const std::string idle = flags->First(); !idle.empty())
        return UsageError(
            absl::StrCat(idle, " does nothing for omni memory ", args.action, "; leave it out"));
    }
    return absl::OkStatus();
  }
  if (cluster && server)
    return UsageError("--cluster and --server both say whose memory it is; leave one out");
  if (const std::string idle = args.cluster.given_beside().First(); !cluster && !server && !idle.empty())
    return UsageError(absl::StrCat(idle, " does nothing without --cluster, which says whose memory it is"));
  if (const std::string idle = args.server.given_beside().First(); !server && !idle.empty())
    return UsageError(absl::StrCat(idle, " does nothing without --server, which says whose memory it is"));
  if (const std::string idle = args.of_folder.First(); (cluster || server) && !idle.empty()) {
    return UsageError(absl::StrCat(idle, " does nothing beside ", cluster ? "--cluster" : "--server",
                                   ", whose memory is its own; leave it out"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> RunMemory(const MemoryArgs& args) {
  using Action = absl::StatusOr<int> (*)(const MemoryArgs&);
  struct Known {
    const char* name;
    Action run;
    bool folder, scope, capacity, measure, words;
  };
  constexpr Known kActions[] = {{"add", Add, true, true, false, false, true},
                                {"ask", Ask, true, true, false, false, true},
                                {"import", Import, true, true, false, false, true},
                                {"forget", Forget, true, true, false, false, true},
                                {"stats", Stats, true, false, false, false, false},
                                {"capacity", Capacity, false, false, true, false, false},
                                {"measure", Measure, false, false, false, true, true}};
  const auto* known = std::find_if(std::begin(kActions), std::end(kActions),
                                   [&](const Known& k) { return k.name == args.action; });
  if (known == std::end(kActions)) {
    return UsageError(absl::StrCat(
        "omni memory knows add, ask, import, forget, stats, capacity and measure, not '", args.action, "'"));
  }
  for (const auto& [flags, used] :
       {std::pair(&args.of_folder, known->folder), std::pair(&args.of_scope, known->scope),
        std::pair(&args.of_capacity, known->capacity), std::pair(&args.of_measure, known->measure)}) {
    const std::string idle = flags->First();
    if (!used && !idle.empty())
      return UsageError(absl::StrCat(idle, " does nothing for omni memory ", args.action, "; leave it out"));
  }
  if (const std::string idle = args.of_forget.First(); args.action != "forget" && !idle.empty())
    return UsageError(absl::StrCat(idle, " does nothing for omni memory ", args.action, "; leave it out"));
  if (absl::Status status = CheckPlace(args, known->folder); !status.ok()) return status;
  if (const std::string idle = args.stream.given().First(); !known->measure && !idle.empty())
    return UsageError(absl::StrCat(idle, " does nothing for omni memory ", args.action, "; leave it out"));
  if (!known->words && !args.words.empty()) {
    return UsageError(
        absl::StrCat("omni memory ", args.action, " takes no further word; leave '", args.words[0], "' out"));
  }
  return known->run(args);
}

}  // namespace

void AddMemory(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "memory", "Remember texts by texts, and measure the memories",
      "  omni memory add 'the key of the boat house' 'under the third stone'\n"
      "  omni memory ask 'the key of the old boat house'\n"
      "  omni memory import facts.tsv --scope facts     # lines KEY<tab>VALUE\n"
      "  omni memory forget 'the key of the boat house'\n"
      "  omni memory stats\n"
      "  omni memory ask 'the key of the boat house' --cluster 127.0.0.1:7300  # of a server\n"
      "  omni memory capacity --items 1000000           # what the memory holds, beside theory\n"
      "  omni memory measure test.txt.xz                # what a memory of contexts is worth in decoding\n\n"
      "Keys are alike if they share most of their words. What is added is on disk when the program ends; "
      "one\nprogram at a time has the folder open, a server's with --cluster is everybody's.");
  auto args = std::make_shared<MemoryArgs>();
  verb.Require(verb.Argument("ACTION", args->action, "add, ask, import, forget, stats, capacity or measure"));
  verb.Files("WORDS", args->words,
             "Of add: a key and a value; of ask, forget: a key; of import, measure: files");
  args->of_folder.Add(
      verb.Path("--memory", args->folder, "Folder of the memory (default: below $XDG_STATE_HOME/omni)"));
  args->of_scope.Add(verb.Text("--scope", args->scope,
                               "Whose memory it is; scopes know nothing of each other "
                               "(default: default)"));
  args->of_forget.Add(verb.Bool("--all", args->all, "Of forget: all of the scope"));
  args->cluster.Add(verb);
  args->server.Add(verb, false);
  args->of_capacity.Add(verb.Number("--items", args->items, {1, 10'000'000},
                                    "Of capacity: associations to fill it with (default 200000)"));
  args->of_capacity.Add(verb.Path("--svg", args->svg, "Of capacity: draw it into this file"));
  args->of_measure.Add(verb.Model(args->model));
  args->of_measure.Add(verb.Number("--documents", args->documents, {1, int64_t{1} << 40},
                                   "Of measure: read only the first so many"));
  args->of_measure.Add(verb.Number("--most-tokens", args->most_tokens, {2, int64_t{1} << 40},
                                   "Of measure: read at most so many tokens of each document"));
  args->of_measure.Add(verb.Threads(args->threads));
  args->stream.Add(verb);
  verb.Json(args->json);
  verb.Body([args] { return RunMemory(*args); });
}

}  // namespace omni::cli
