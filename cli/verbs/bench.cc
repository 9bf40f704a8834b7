#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <span>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>
#include <nlohmann/json.hpp>

#include "cli/bench/bench_stream.h"
#include "cli/device_flags.h"
#include "cli/output.h"
#include "cli/prompt.h"
#include "cli/sizes.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/node.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/base/replace_file.h"
#include "engine/base/splitmix.h"
#include "engine/text/prompt.h"
#include "store/file/hash.h"
#include "store/model/find_model.h"
#include "store/plan/memory_plan.h"

namespace omni::cli {
namespace {

struct BenchArgs {
  std::string what, model, plot, trained, shared_form, whole_form;
  int64_t threads = 0, tokens = 32, warmup = 24, prompts = 5, seed = 1;
  float cache_share = 0.08f;
  std::vector<int64_t> resize;  // bytes; empty: not given
  StreamFlags stream;
  DeviceFlags device;
  bool limits = true, json = false;
  std::vector<StreamCase> cases = {StreamCase::kCold, StreamCase::kMixed, StreamCase::kMixedKnown,
                                   StreamCase::kHot, StreamCase::kOwn};
};

// What the prediction accuracy is measured on: a model's own routing of English.
constexpr char kText[] =
    "It was late in the evening when the carriage came to the door, and nobody in the house had thought of "
    "looking for it before the morning. She put down her book and went to the window, where the rain ran "
    "down "
    "the glass; the lamps below were lit, and a tall man in a dark coat was speaking to the driver.";

// Takes the cases that a text names; returns what is wrong with it, or nothing.
std::string ReadCases(const std::string& text, std::vector<StreamCase>& cases) {
  cases.clear();
  for (absl::string_view name : absl::StrSplit(text, ',')) {
    bool known = false;
    for (StreamCase which : AllStreamCases()) {
      if (name == StreamCaseName(which)) {
        cases.push_back(which);
        known = true;
      }
    }
    if (!known) return absl::StrCat("'", name, "' is neither hot, mixed, mixed_known, cold nor own");
  }
  return {};
}

std::string ReadSizes(const std::string& text, std::vector<int64_t>& sizes) {
  sizes.clear();
  for (absl::string_view name : absl::StrSplit(text, ',')) {
    const absl::StatusOr<int64_t> size = ParseSize({name.data(), name.size()});
    if (!size.ok()) return std::string(size.status().message());
    sizes.push_back(*size);
  }
  return {};
}

// Gives a node's cache one size after the other, as long as it lives.
class Resizing {
 public:
  Resizing(Node& node, const std::vector<int64_t>& sizes) : node_(node), sizes_(sizes) {
    if (!sizes.empty()) thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  }
  // Ends it. How often the cache changed its size, or why it did not.
  absl::StatusOr<int64_t> Stop() {
    if (thread_.joinable()) {
      thread_.request_stop();
      thread_.join();
    }
    if (!status_.ok()) return status_;
    return count_;
  }

 private:
  void Run(const std::stop_token& stop) {
    while (!stop.stop_requested() && status_.ok()) {
      status_ = node_.ResizeCache(sizes_[static_cast<size_t>(count_) % sizes_.size()]);
      if (status_.ok()) ++count_;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  Node& node_;
  const std::vector<int64_t>& sizes_;
  int64_t count_ = 0;
  absl::Status status_;
  std::jthread thread_;
};

std::string OutputDigest(std::span<const StreamCaseResult> results) {
  StreamHash hash;
  for (const StreamCaseResult& result : results) {
    hash.Update(result.output.data(), result.output.size() * sizeof(TokenId));
    hash.Update(result.probabilities.data(), result.probabilities.size() * sizeof(float));
    hash.Update(result.chosen.data(), result.chosen.size() * sizeof(ExpertId));
  }
  return hash.Digest().Hex();
}

// The prompt number `number` of a seed: a few tokens that have nothing to do with each other.
std::vector<TokenId> DrawPrompt(uint64_t seed, int64_t number, int64_t vocab) {
  constexpr int kTokens = 4;
  std::vector<TokenId> prompt;
  for (int i = 0; i < kTokens; ++i) {
    const double u = CounterUniform(seed, static_cast<uint64_t>(kTokens * number + i));
    prompt.push_back(TokenId(
        static_cast<int32_t>(std::min(vocab - 1, static_cast<int64_t>(u * static_cast<double>(vocab))))));
  }
  return prompt;
}

bool Slower(const StreamCaseResult& a, const StreamCaseResult& b) { return a.tok_per_s() < b.tok_per_s(); }

nlohmann::json ToJson(const StreamCaseResult& r) {
  const double rate = r.tok_per_s();
  nlohmann::json json = {{"case", StreamCaseName(r.which)},
                         {"tokens", r.tokens},
                         {"tok_per_s", rate},
                         {"p50_ms", 1e3 * r.p50_seconds},
                         {"p99_ms", 1e3 * r.p99_seconds},
                         {"memory_bytes_per_token", r.memory_bytes},
                         {"disk_bytes_per_token", r.disk_bytes},
                         {"hit_rate", r.hit_share},
                         {"stall_share", r.stall_share},
                         {"guessed_share", r.guessed_share},
                         {"guessed_used_share", r.guessed_used_share},
                         {"hand_overs_per_token", r.hand_overs},
                         {"handed_tiles_per_token", r.handed_tiles},
                         {"memory_gb_per_token", 1e-9 * r.memory_bytes},
                         {"disk_gb_per_token", 1e-9 * r.disk_bytes},
                         {"memory_bytes_per_s", r.memory_bytes_per_s},
                         {"disk_bytes_per_s", r.disk_bytes_per_s},
                         {"memory_reached_bytes_per_s", rate * r.memory_bytes},
                         {"disk_reached_bytes_per_s", rate * r.disk_bytes},
                         {"memory_reached_share", r.memory_reached()},
                         {"disk_reached_share", r.disk_reached()},
                         {"roofline_tok_per_s", r.roofline_seconds > 0 ? 1 / r.roofline_seconds : 0},
                         {"roofline_share", r.roofline_share()},
                         {"output_xxh3", OutputDigest({&r, 1})}};
  for (int ahead : {0, 1}) {
    const double right = r.predicted_right[ahead];
    json[absl::StrCat("prediction_accuracy_", ahead + 1)] =
        right < 0 ? nlohmann::json() : nlohmann::json(right);
  }
  if (r.device.has_value()) {
    json["device"] = DeviceJson(*r.device);
    json["device_bytes_per_token"] = static_cast<double>(r.device->bytes_streamed) /
                                     static_cast<double>(std::max<int64_t>(1, r.device->passes));
  }
  return json;
}

void PrintRow(const StreamCaseResult& r) {
  PrintF("%-11s %8.3f %9.0f %9.0f %10s %10s %6.1f %% %6.1f %% %8.3f %6.1f %%\n", StreamCaseName(r.which),
         r.tok_per_s(), 1e3 * r.p50_seconds, 1e3 * r.p99_seconds,
         HumanBytes(static_cast<int64_t>(r.memory_bytes)).c_str(),
         HumanBytes(static_cast<int64_t>(r.disk_bytes)).c_str(), 100 * r.hit_share, 100 * r.stall_share,
         r.roofline_seconds > 0 ? 1 / r.roofline_seconds : 0.0, 100 * r.roofline_share());
  if (r.device.has_value()) PrintF("%s\n", DescribeDevice(*r.device).c_str());
}

class Bench {
 public:
  explicit Bench(const BenchArgs& args) : args_(args), line_(StderrCanErase()) {}

  absl::StatusOr<int> Run() {
    if (args_.whole_form.empty() != args_.shared_form.empty())
      return UsageError("--shared-form and --whole-form belong together: the same weights, packed both ways");
    const absl::StatusOr<DeviceChoice> device = args_.device.Choice();
    if (!device.ok()) return device.status();
    device_ = *device;
    absl::StatusOr<std::string> path = FindModel(args_.model);
    if (!path.ok()) return path.status();
    if (absl::Status s = Stream(*path); !s.ok()) return s;
    if (!args_.trained.empty()) {
      if (absl::Status s = Predict(); !s.ok()) return s;
    }
    if (!args_.whole_form.empty()) {
      if (absl::Status s = CompareForms(); !s.ok()) return s;
    }
    line_.Clear();
    if (args_.json) PrintF("%s\n", JsonText(json_, 2));
    if (!args_.plot.empty()) {
      if (absl::Status s = WriteOutput(args_.plot, StreamSvg(results_)); !s.ok()) return s;
    }
    return InterruptGuard::Requested() ? kExitInterrupted : kExitOk;
  }

 private:
  static constexpr int kRounds = 4;
  inline static const std::vector<int64_t> kNoSizes = {};

  // Without `open`: resident.
  absl::StatusOr<std::unique_ptr<Node>> Open(const std::string& path, const OpenOptions& open = {}) {
    if (actors_ == nullptr) {
      absl::StatusOr<std::unique_ptr<ActorSystem>> actors = ActorSystem::Start();
      if (!actors.ok()) return actors.status();
      actors_ = *std::move(actors);
    }
    NodeOptions options;
    options.model = path;
    options.open = open;
    return Node::Start(actors_, options);
  }

  absl::StatusOr<StreamCaseResult> Case(Node& node, StreamCaseOptions options, const std::string& label,
                                        int walk = 0) {
    options.seed = static_cast<uint64_t>(args_.seed) + static_cast<uint64_t>(walk);
    options.threads = static_cast<int>(args_.threads);
    options.prefetch = args_.stream.prefetch;
    options.device = device_;
    options.measure_limits = options.measure_limits && args_.limits;
    const int64_t all = options.warmup + options.tokens + 1;
    Resizing resizing(node, node.model().cache() != nullptr ? args_.resize : kNoSizes);
    absl::StatusOr<StreamCaseResult> result = RunStreamCase(node, options, [&](int64_t token) {
      line_.Show(absl::StrCat(label, "  token ", token, "/", all));
      return !InterruptGuard::Requested();
    });
    const absl::StatusOr<int64_t> resized = resizing.Stop();
    if (!resized.ok()) return resized.status();
    resized_ += *resized;
    return result;
  }

  absl::Status Stream(const std::string& path) {
    absl::StatusOr<OpenOptions> open = args_.stream.Options(path);
    if (!open.ok()) return open.status();
    line_.Show(absl::StrCat("opening ", path));
    absl::StatusOr<std::unique_ptr<Node>> node = Open(path, *open);
    if (!node.ok()) return node.status();
    const Model& model = (*node)->model();
    if (model.cache() == nullptr)
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": has no experts, so that nothing can be streamed"));
    line_.Clear();
    if (!args_.json) {
      PrintF("%s: %s, seed %lld\n%-11s %8s %9s %9s %10s %10s %8s %8s %8s %8s\n", path.c_str(),
             DescribeStreaming(model).c_str(), static_cast<long long>(args_.seed), "case", "tok/s", "p50 ms",
             "p99 ms", "memory/tok", "disk/tok", "hit", "stall", "roofline", "share");
    }
    for (StreamCase which : args_.cases) {
      absl::StatusOr<std::vector<StreamCaseResult>> all = Prompts(**node, which);
      if (!all.ok()) return all.status();
      line_.Clear();
      Report(which, *all);
      if (!FlushOutput() || InterruptGuard::Requested()) break;
    }
    const ModelStats stats = model.stats();
    json_["model"] = path;
    json_["streaming"] = model.cache()->description();
    json_["ram_bytes"] = model.plan()->ram_bytes;
    json_["cache_bytes"] = model.plan()->cache_bytes();
    json_["peak_rss_bytes"] = PeakResidentBytes();
    json_["disk_bytes"] = stats.total_bytes;
    json_["parameters_nominal"] = stats.parameters.total();
    json_["parameters_unique"] = stats.unique_parameters;
    json_["format"] = model.config().format();
    json_["seed"] = args_.seed;
    if (!args_.resize.empty()) json_["cache_resized"] = resized_;
    if (!args_.json) {
      PrintF("peak RSS %s of %s allowed; %s on disk\n", SizeText(PeakResidentBytes()).c_str(),
             SizeText(model.plan()->ram_bytes).c_str(), SizeText(stats.total_bytes).c_str());
    }
    return absl::OkStatus();
  }

  // One result, but of kOwn one for each prompt.
  absl::StatusOr<std::vector<StreamCaseResult>> Prompts(Node& node, StreamCase which) {
    StreamCaseOptions options;
    options.which = which;
    options.tokens = args_.tokens;
    options.warmup = which == StreamCase::kCold || which == StreamCase::kHot ? 2 : args_.warmup;
    const bool own = which == StreamCase::kOwn;
    node.model().cache()->Forget();  // the walk of one case must not find what another one's read
    std::vector<StreamCaseResult> results;
    for (int64_t prompt = 0; prompt < (own ? args_.prompts : 1) && !InterruptGuard::Requested(); ++prompt) {
      std::string label = StreamCaseName(which);
      if (own) {
        options.prompt = DrawPrompt(static_cast<uint64_t>(args_.seed), prompt, node.model().config().vocab);
        options.repeats = false;
        absl::StrAppend(&label, "  prompt ", prompt + 1, "/", args_.prompts);
      }
      absl::StatusOr<StreamCaseResult> result = Case(node, options, label);
      if (!result.ok()) return result.status();
      results.push_back(*std::move(result));
    }
    return results;
  }

  // The median of the results stands for the case.
  void Report(StreamCase which, std::vector<StreamCaseResult>& all) {
    const std::string name = StreamCaseName(which), digest = OutputDigest(all);
    std::vector<nlohmann::json> prompts;
    for (const StreamCaseResult& result : all) {
      prompts.push_back({{"tok_per_s", result.tok_per_s()},
                         {"roofline_share", result.roofline_share()},
                         {"disk_gb_per_token", 1e-9 * result.disk_bytes},
                         {"hit_rate", result.hit_share}});
    }
    std::sort(all.begin(), all.end(), Slower);
    const StreamCaseResult &median = all[all.size() / 2], &best = all.back();
    if (!args_.json) PrintRow(median);
    nlohmann::json json = ToJson(median);
    json["output_xxh3"] = digest;
    json_[name + "_share"] = median.roofline_share();
    json_[name + "_tok_per_s"] = median.tok_per_s();
    if (which == StreamCase::kMixed) json_["hit_rate"] = median.hit_share;
    if (which == StreamCase::kOwn) {
      json["prompts"] = prompts;
      json_["own_best_tok_per_s"] = best.tok_per_s();
      json_["own_best_share"] = best.roofline_share();
      if (!args_.json) {
        PrintF("       the median of %lld prompts, %.3f to %.3f tok/s\n", static_cast<long long>(all.size()),
               all.front().tok_per_s(), best.tok_per_s());
      }
    }
    json_["cases"].push_back(std::move(json));
    results_.push_back(median);
  }

  absl::Status Predict() {
    absl::StatusOr<std::unique_ptr<Node>> node = Open(args_.trained);
    if (!node.ok()) return node.status();
    StreamCaseOptions options;
    options.which = StreamCase::kOwn;
    options.measure_limits = false;
    options.warmup = 0, options.tokens = 400;
    options.prompt = PromptTokens((*node)->model().tokenizer(), kText);
    absl::StatusOr<StreamCaseResult> result = Case(**node, options, "prediction");
    if (!result.ok()) return result.status();
    for (int ahead : {0, 1})
      json_[absl::StrCat("prediction_accuracy_", ahead + 1)] = result->predicted_right[ahead];
    if (!args_.json) {
      PrintF("%s: the next expert layer's expert is guessed right in %.1f %%, the one after it in %.1f %%\n",
             args_.trained.c_str(), 100 * result->predicted_right[0], 100 * result->predicted_right[1]);
    }
    return absl::OkStatus();
  }

  struct Form {
    std::string name, path;
    std::unique_ptr<Node> node = nullptr;
    double tokens = 0, seconds = 0, disk_bytes = 0, hits = 0;  // sums over tokens
    std::vector<std::string> outputs = {};                     // of each round
  };

  absl::Status Round(Form& form, int round) {
    StreamCaseOptions options;
    options.tokens = args_.tokens;
    options.warmup = args_.warmup;
    options.measure_limits = false;
    if (form.node->model().config().has_slow_state()) options.which = StreamCase::kMixedKnown;
    absl::StatusOr<StreamCaseResult> result =
        Case(*form.node, options, absl::StrCat(form.name, " ", round + 1, "/", kRounds), round);
    if (!result.ok()) return result.status();
    const auto n = static_cast<double>(result->tokens);
    form.tokens += n;
    form.seconds += n * result->seconds;
    form.disk_bytes += n * result->disk_bytes;
    form.hits += n * result->hit_share;
    form.outputs.push_back(OutputDigest({&*result, 1}));
    return absl::OkStatus();
  }

  // The same weights with and without sharing, each with a cache of the same size, in turns.
  absl::Status CompareForms() {
    OpenOptions no_sessions;
    no_sessions.sessions = 0;
    absl::StatusOr<int64_t> whole = WholeModelBytes(args_.whole_form, no_sessions);
    if (!whole.ok()) return whole.status();
    Form forms[2] = {{.name = "shared", .path = args_.shared_form},
                     {.name = "whole", .path = args_.whole_form}};
    const auto cache_bytes =
        static_cast<int64_t>(static_cast<double>(*whole) * static_cast<double>(args_.cache_share));
    for (Form& form : forms) {
      absl::StatusOr<OpenOptions> open = args_.stream.Options(form.path);
      if (!open.ok()) return open.status();
      open->cache_bytes = cache_bytes;
      absl::StatusOr<std::unique_ptr<Node>> node = Open(form.path, *open);
      if (!node.ok()) return node.status();
      form.node = *std::move(node);
    }
    for (int round = 0; round < kRounds; ++round) {
      for (Form& form : forms) {
        if (absl::Status s = Round(form, round); !s.ok()) return s;
      }
    }
    line_.Clear();
    for (const Form& form : forms) {
      if (form.tokens == 0) return absl::OkStatus();  // interrupted
      json_[form.name + "_form"] = {{"tokens", form.tokens},
                                    {"tok_per_s", form.tokens / form.seconds},
                                    {"disk_bytes_per_token", form.disk_bytes / form.tokens},
                                    {"hit_rate", form.hits / form.tokens},
                                    {"cache_bytes", cache_bytes},
                                    {"output_xxh3", form.outputs}};
      if (!args_.json) {
        PrintF("%s, cache %s: %.3f tok/s, hit %.1f %%\n", form.path.c_str(), SizeText(cache_bytes).c_str(),
               form.tokens / form.seconds, 100 * form.hits / form.tokens);
      }
    }
    const double speedup = forms[0].tokens / forms[0].seconds * forms[1].seconds / forms[1].tokens;
    const bool same = forms[0].outputs == forms[1].outputs;
    json_["delta_speedup"] = speedup;
    json_["delta_same_output"] = same;
    if (!args_.json) {
      PrintF("sharing tiles makes it %.2f times as fast, with %s output\n", speedup,
             same ? "equal" : "ANOTHER");
    }
    return same ? absl::OkStatus()
                : absl::InternalError(absl::StrCat(args_.shared_form, " and ", args_.whole_form,
                                                   " decode to different tokens: they do not hold the same "
                                                   "weights"));
  }

  const BenchArgs& args_;
  DeviceChoice device_;
  std::shared_ptr<ActorSystem> actors_;
  InterruptGuard interrupt_;
  StatusLine line_;
  nlohmann::json json_ = nlohmann::json::object();
  std::vector<StreamCaseResult> results_;
  int64_t resized_ = 0;  // times
};

}  // namespace

void AddBench(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "bench", "Measure decoding from disk against this machine's own bandwidths",
      "  omni bench stream -m /data/1t --ram 20G\n"
      "  omni bench stream -m /data/1t --ram 8G --cases mixed,own --no-prefetch\n"
      "  omni bench stream -m /data/1t --json --plot stream.svg | jq .mixed_share\n\n"
      "Cases: hot, every token goes to the same experts; mixed, a walk on the torus (30 % the same "
      "expert, 40 % a\n"
      "neighbour, 15 % two hops, 15 % further) with what the cache kept; mixed_known, the same with every "
      "expert\n"
      "announced a token ahead; cold, the walk with nothing in memory; own, the model's own "
      "routers, the\n"
      "median of several prompts, with what they know or guess before read ahead.\n"
      "A share is of the roofline: of mixed_known and own the larger of the times that memory and disk "
      "need, of the\n"
      "others their sum.");
  auto args = std::make_shared<BenchArgs>();
  args->stream.residency = Residency::kStreamed;
  verb.Argument("WHAT", args->what, "stream")
      ->required()
      ->check(CLI::Validator(
          [](const std::string& text) {
            return text == "stream" ? std::string() : "'" + text + "' is not a measurement; there is: stream";
          },
          ""));
  verb.Model(args->model);
  args->stream.Add(verb);
  args->stream.AddPrefetch(verb);
  args->device.Add(verb);
  verb.Value(
      "--cases", "LIST", [args](const std::string& text) { return ReadCases(text, args->cases); },
      "Which, in this order (default: cold,mixed,mixed_known,hot,own)");
  verb.Number("-n,--tokens", args->tokens, {1, 1 << 20}, "Tokens counted in each case (default 32)");
  verb.Number("--warmup", args->warmup, {0, 1 << 20},
              "Tokens before them in mixed, mixed_known and own (default 24)");
  verb.Number("--prompts", args->prompts, {1, 1 << 10}, "Different prompts in own (default 5)");
  verb.Number("--seed", args->seed, {0, INT64_MAX}, "Of the walk (default 1)");
  verb.Threads(args->threads);
  verb.Path("--trained", args->trained,
            "A trained model: how often its next experts are guessed right is measured");
  verb.Path("--shared-form", args->shared_form,
            "With --whole-form: the same weights packed with shared tiles");
  verb.Path("--whole-form", args->whole_form,
            "... and with every expert whole; both are decoded with equal caches");
  const auto cache_share_typed =
      Verb::OnCommandLine(verb.Real("--cache-share", args->cache_share, {0.0001f, 1},
                                    "Those caches, as a share of the whole form's bytes (default 0.08)"));
  verb.Bool("--limits,!--no-limits", args->limits,
            "Measure memory and disk every few tokens of each case, for the roofline (default: on)");
  verb.Value(
      "--resize", "LIST", [args](const std::string& text) { return ReadSizes(text, args->resize); },
      "While tokens are decoded give the cache these sizes in turn, as 1G,8G: times mean nothing then, and "
      "the "
      "output must be the same (with --no-limits)");
  verb.Path("--plot", args->plot, "Draw the time of a token into this SVG file");
  verb.Json(args->json);
  verb.Body([args, cache_share_typed]() -> absl::StatusOr<int> {
    if (cache_share_typed() && args->whole_form.empty())
      return UsageError("--cache-share is that of the models given with --shared-form and --whole-form");
    if (!args->resize.empty() && args->limits)
      return UsageError("--resize goes with --no-limits: what is measured of memory is the cache's");
    return Bench(*args).Run();
  });
}

}  // namespace omni::cli
