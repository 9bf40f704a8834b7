#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "cli/adapter_list.h"
#include "cli/around_flags.h"
#include "cli/around_request.h"
#include "cli/cluster_flags.h"
#include "cli/device_flags.h"
#include "cli/memory_folder.h"
#include "cli/open_node.h"
#include "cli/output.h"
#include "cli/place.h"
#include "cli/prompt.h"
#include "cli/sampler_flags.h"
#include "cli/server_flags.h"
#include "cli/stream_flags.h"
#include "cli/swarm_task.h"
#include "cli/terminal.h"
#include "cli/token_report.h"
#include "cli/verb.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/text/prompt.h"
#include "kernels/op.h"
#include "store/model/find_model.h"
#include "store/state/state_dir.h"

namespace omni::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct RunArgs {
  std::string prompt, prompt_flag, file, model;
  int64_t tokens = 128, threads = 0, ctx = SwarmOptions().max_context;
  SamplerFlags sampler;
  AroundFlags around;
  std::vector<std::string> stops;
  StreamFlags stream;
  DeviceFlags device;
  ClusterFlags cluster;
  ServerFlags server;
  SwarmTaskFlags swarm_task;
  GivenFlags of_this_process;  // beside the model
  std::function<bool()> model_typed;
  bool json = false, stats = false, ignore_end = false;
  std::optional<bool> echo;
  bool Echoes() const { return !json && echo.value_or(StdoutIsTerminal()); }
};

double Seconds(std::chrono::nanoseconds t) { return std::chrono::duration<double>(t).count(); }

// What a person is told while and after the text appears; nothing of it goes to stdout.
class Progress {
 public:
  Progress(const Swarm& swarm, const Model& model, bool talk, int64_t prompt_tokens)
      : swarm_(swarm),
        model_(model),
        // With the text on the same terminal there is no line to keep: only the prompt's progress is shown.
        line_(StderrCanErase()),
        talk_(talk),
        prompt_tokens_(prompt_tokens),
        faults_(MajorPageFaults()),
        shown_(Clock::now()) {}

  void OnEvent(const GenerateEvent& event) {
    if (!line_.enabled()) return;
    const auto now = Clock::now();
    if (!event.is_token) {
      line_.Show(absl::StrCat("prompt ", event.position, "/", prompt_tokens_));
      return;
    }
    if (tokens_++ == 0) {
      first_token_ = now;
      line_.Clear();
    }
    if (StdoutIsTerminal() || now - shown_ < std::chrono::milliseconds(100)) return;
    shown_ = now;
    const double rate = tokens_ > 1 ? static_cast<double>(tokens_ - 1) / Seconds(now - first_token_) : 0;
    line_.Show(absl::StrCat(OneDecimal(rate), " tok/s · hit ", OneDecimal(HitPercent()), " % · RSS ",
                            HumanBytes(ResidentBytes()), " · ctx ", HumanCount(event.position)));
  }

  void Finish(const GenerateResult& result, uint64_t seed) {
    line_.Clear();
    if (!talk_) return;
    const Timings& t = result.timings;
    Note(absl::StrCat("prefill ", t.prompt_tokens, " tokens at ", OneDecimal(t.PrefillRate()),
                      " tok/s · decode ", t.generated_tokens, " tokens at ", OneDecimal(t.DecodeRate()),
                      " tok/s · stopped: ", StopReasonName(result.reason), " · seed ", seed, " · hit ",
                      OneDecimal(HitPercent()), " % · RSS ", HumanBytes(ResidentBytes()), " · ctx ",
                      HumanCount(t.prompt_tokens + t.generated_tokens), " · ", Overhead(swarm_.Stats())));
  }

 private:
  // Of a streamed model, tiles that were in memory when they were asked for; else, requests that met no page
  // read from disk.
  double HitPercent() const {
    if (const ExpertCache* cache = model_.cache()) return 100 * cache->stats().HitShare();
    const SwarmStats stats = swarm_.Stats();
    const int64_t requests = (stats.decode.hops + stats.mixed.hops) / 2;
    const int64_t misses = std::min(requests, MajorPageFaults() - faults_);
    return requests > 0 ? 100.0 * static_cast<double>(requests - misses) / static_cast<double>(requests)
                        : 100.0;
  }

  // What took time beside computing.
  std::string Overhead(const SwarmStats& stats) const {
    const ExpertCache* cache = model_.cache();
    if (cache == nullptr)
      return absl::StrCat("actors ", OneDecimal(100 * stats.decode.ActorShare()), " % of a token");
    const double wall = Seconds(stats.decode.wall + stats.mixed.wall);
    return absl::StrCat("disk ", OneDecimal(wall > 0 ? 100 * Seconds(cache->stats().stall) / wall : 0.0),
                        " % of the time");
  }

  const Swarm& swarm_;
  const Model& model_;
  StatusLine line_;
  bool talk_;
  int64_t prompt_tokens_;
  int64_t faults_;
  Clock::time_point shown_, first_token_;
  int64_t tokens_ = 0;
};

// Tokens after the first, a second; 0 if nothing was measured.
double RateAfterFirst(int64_t tokens, std::chrono::nanoseconds time) {
  return tokens > 1 && time.count() > 0 ? static_cast<double>(tokens - 1) / Seconds(time) : 0;
}

nlohmann::json AnswerJson(const std::string& text, const std::vector<TokenId>& answer, const char* reason,
                          uint64_t seed, const std::string& model_hash, const Timings& t) {
  std::vector<int32_t> tokens;
  for (TokenId token : answer) tokens.push_back(token.value);
  return {{"text", text},
          {"tokens", tokens},
          {"stop_reason", reason},
          {"seed", seed},
          {"model_hash", model_hash},
          {"prompt_tokens", t.prompt_tokens},
          {"generated_tokens", t.generated_tokens},
          {"timings",
           {{"queued_s", Seconds(t.queued)},
            {"prefill_s", Seconds(t.prefill)},
            {"decode_s", Seconds(t.decode)},
            {"prefill_tok_per_s", t.PrefillRate()},
            {"decode_tok_per_s", t.DecodeRate()}}}};
}

void PrintJson(const GenerateResult& result, const TokenReport& report, uint64_t seed, double load_seconds,
               const Model& model, const std::optional<DeviceReport>& device) {
  nlohmann::json json = AnswerJson(result.text, result.tokens, StopReasonName(result.reason), seed,
                                   model.hash(), result.timings);
  json["timings"]["load_s"] = load_seconds;
  if (device.has_value()) json["device"] = DeviceJson(*device);
  report.AddTo(json);
  PrintF("%s\n", JsonText(json));
}

void KeepRoutingCounts(const Swarm& swarm, const Model& model, bool stats_wanted) {
  const SwarmStats stats = swarm.Stats();
  absl::StatusOr<std::string> dir = StateDir();
  absl::Status kept = dir.status();
  if (dir.ok()) {
    kept = AddRoutingCounts(*dir, model.hash(),
                            {model.weights().config.layers, stats.experts, stats.expert_rows});
  }
  if (kept.ok()) return;
  LogInfo("routing_counts_not_kept", "routing counts were not kept: {reason}", {{"reason", kept.message()}});
  if (stats_wanted) Note("routing counts were not kept: " + std::string(kept.message()));
}

void Introduce(const Model& model, const std::string& path, const Swarm& swarm, double load_seconds) {
  const ModelConfig& c = model.weights().config;
  const ModelStats s = model.stats();
  Note(absl::StrCat(
      "omni " OMNI_VERSION " · ", path, " (", c.preset, ") · ", c.layers, " layers, d ", c.d, ", ",
      c.num_experts(), " experts in ", c.num_regions(), " regions · ", HumanCount(s.parameters.total()),
      " parameters, ", HumanCount(s.parameters.active()), " active · ",
      model.cache() == nullptr ? absl::StrCat("RAM ", HumanBytes(s.total_bytes), ", all resident")
                               : DescribeStreaming(model),
      swarm.Stats().device.has_value() ? absl::StrCat(" · ", DescribeDevice(*swarm.Stats().device)) : "",
      " · ", swarm.options().threads, " threads, ", kernels::IsaName(kernels::ActiveOps().isa),
      " · ready in ", absl::StrFormat("%.2f s", load_seconds)));
}

void Echo(const std::string& prompt) {
  Print(prompt);
  FlushOutput();
}

// The same by a cluster, whose nodes have the model.
absl::StatusOr<int> RunInCluster(const RunArgs& args, const std::string& prompt) {
  absl::StatusOr<std::unique_ptr<ClusterClient>> client = args.cluster.Connect();
  if (!client.ok()) return client.status();
  ClusterClient::Request request;
  request.prompt = prompt;
  request.max_tokens = args.tokens;
  request.sampler = args.sampler.Settings();
  request.stops = args.stops;
  request.stop_at_end_of_text = !args.ignore_end;
  AskAround(args.around, request);
  if (args.Echoes()) Echo(prompt);
  const InterruptGuard interrupt;
  TokenReport report;
  absl::StatusOr<ClusterClient::Answer> answer =
      (*client)->Generate(request, [&](const GenerateEvent& event) {
        report.Add(event);
        if (!args.json) Print(event.text);
        return FlushOutput() && !InterruptGuard::Requested();
      });
  if (!answer.ok()) return answer.status();
  TellAround(request, *answer, report);
  Timings t;
  t.queued = answer->queued;
  t.prefill = answer->prefill;
  t.decode = answer->decode;
  t.prompt_tokens = answer->prompt_tokens;
  t.generated_tokens = static_cast<int64_t>(answer->tokens.size());
  if (args.json) {
    nlohmann::json json = AnswerJson(answer->text, answer->tokens, answer->reason.c_str(),
                                     request.sampler.seed, answer->model_hash, t);
    json["reconnects"] = answer->reconnects;
    json["timings"]["longest_gap_s"] = Seconds(answer->longest_gap);
    report.AddTo(json);
    PrintF("%s\n", JsonText(json));
  } else {
    Print("\n");
  }
  FlushOutput();
  if (args.stats || StderrIsTerminal()) {
    Note(absl::StrCat("decode ", t.generated_tokens, " tokens at ", OneDecimal(t.DecodeRate()),
                      " tok/s · stopped: ", answer->reason, " · seed ", request.sampler.seed,
                      " · reconnected ", answer->reconnects, " times · longest gap ",
                      absl::StrFormat("%.3f s", Seconds(answer->longest_gap))));
    for (const std::string& line : report.Lines()) Note(line);
  }
  return InterruptGuard::Requested() ? kExitInterrupted : kExitOk;
}

// What an answer of a server is known to be; what it does not say is left out.
nlohmann::json AnswerJson(const RemoteAnswer& answer, uint64_t seed) {
  nlohmann::json json = {
      {"text", answer.text},
      {"seed", seed},
      {"model", answer.model},
      {"timings", {{"prefill_s", Seconds(answer.first)}, {"decode_s", Seconds(answer.rest)}}}};
  if (!answer.reason.empty()) json["stop_reason"] = answer.reason;
  if (!answer.request_id.empty()) json["request_id"] = answer.request_id;
  if (answer.prompt_tokens.has_value()) json["prompt_tokens"] = *answer.prompt_tokens;
  if (answer.tokens.has_value()) {
    json["generated_tokens"] = *answer.tokens;
    json["timings"]["decode_tok_per_s"] = RateAfterFirst(*answer.tokens, answer.rest);
  }
  return json;
}

// The same by a server.
absl::StatusOr<int> RunAtServer(const RunArgs& args, const std::string& prompt) {
  if (absl::Status s = args.around.RefuseAtServer(); !s.ok()) return s;
  absl::StatusOr<std::unique_ptr<OpenAiClient>> client =
      args.server.Connect(args.model_typed() ? args.model : "", args.cluster.allow_plain);
  if (!client.ok()) return client.status();
  RemoteRequest request;
  request.prompt = prompt;
  request.max_tokens = args.tokens;
  request.sampler = args.sampler.Settings();
  request.stops = args.stops;
  request.stop_at_end_of_text = !args.ignore_end;
  request.adapter = args.around.adapter;
  const InterruptGuard interrupt;
  if (!request.adapter.empty()) {
    // Before anything is printed: others' servers pass over what they do not know.
    const absl::Status offered = CheckOffered(**client, request.adapter);
    if (InterruptGuard::Requested()) return kExitInterrupted;
    if (!offered.ok()) return offered;
  }
  if (args.Echoes()) Echo(prompt);
  RemoteAnswer answer;
  absl::Status status = (*client)->Complete(
      request,
      [&](std::string_view text) {
        if (!args.json) Print(text);
        return FlushOutput() && !InterruptGuard::Requested();
      },
      answer);
  if (!status.ok()) {
    if (answer.text.empty()) return status;
    status = absl::Status(status.code(), absl::StrCat(status.message(), "; ", answer.text.size(),
                                                      " bytes of the answer came before"));
  }
  if (args.json) {
    nlohmann::json json = AnswerJson(answer, request.sampler.seed);
    if (!answer.adapter_hash.empty())
      json["adapter"] = {{"name", request.adapter}, {"hash", answer.adapter_hash}};
    if (!status.ok()) json["error"] = std::string(status.message());
    PrintF("%s\n", JsonText(json));
  } else {
    Print("\n");
  }
  FlushOutput();
  if (!status.ok()) return status;
  if (args.stats || StderrIsTerminal()) {
    const int64_t tokens = answer.tokens.value_or(0);
    Note(absl::StrCat(args.server.server, " · ", answer.model, " · first text after ",
                      absl::StrFormat("%.2f s", Seconds(answer.first)),
                      tokens > 0 ? absl::StrCat(" · decode ", tokens, " tokens at ",
                                                OneDecimal(RateAfterFirst(tokens, answer.rest)), " tok/s")
                                 : "",
                      " · stopped: ", answer.reason, " · seed ", request.sampler.seed));
    if (!answer.adapter_hash.empty())
      Note(absl::StrCat("adapter ", request.adapter, " of hash ", answer.adapter_hash));
  }
  return InterruptGuard::Requested() ? kExitInterrupted : kExitOk;
}

absl::StatusOr<int> Run(const RunArgs& args) {
  const absl::StatusOr<bool> is_task = args.swarm_task.Given();
  if (!is_task.ok()) return is_task.status();
  if (*is_task) return args.swarm_task.Run();
  if (!args.prompt.empty() && !args.prompt_flag.empty()) {
    return UsageError("the prompt was given twice, as an argument and with --prompt; leave one out");
  }
  if (!args.file.empty() && !(args.prompt.empty() && args.prompt_flag.empty()))
    return UsageError("the prompt was given twice, as a text and with --file; leave one out");
  absl::StatusOr<std::string> prompt = !args.file.empty()
                                           ? ReadPromptFile(args.file)
                                           : ReadPrompt(args.prompt.empty() ? args.prompt_flag : args.prompt);
  if (!prompt.ok()) return prompt.status();
  if (absl::Status s = args.sampler.Check(); !s.ok()) return s;
  if (absl::Status s = args.around.Check(); !s.ok()) return s;
  if (args.json && args.echo.value_or(false))
    return UsageError("--echo prints the prompt before the text, and --json prints neither; leave one out");

  const absl::StatusOr<Place> place = ChoosePlace(
      {args.sampler, args.stream, args.cluster, args.server, args.of_this_process, args.model_typed()});
  if (!place.ok()) return place.status();
  if (*place == Place::kServer) return RunAtServer(args, *prompt);
  if (*place == Place::kCluster) return RunInCluster(args, *prompt);

  const auto start = Clock::now();
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  std::string memory;
  if (!args.around.memory_scope.empty()) {
    absl::StatusOr<std::string> folder = MemoryFolder(args.around.memory);
    if (!folder.ok()) return folder.status();
    memory = *std::move(folder);
  }
  // A token has a byte or more, but for the one that begins the text.
  const int64_t tokens = std::min(args.ctx, std::ssize(*prompt) + 1 + std::min(args.tokens, args.ctx));
  const absl::StatusOr<int64_t> states = StatesToPlan(args.around, args.device, *path, tokens);
  if (!states.ok()) return states.status();
  absl::StatusOr<std::unique_ptr<Node>> node = OpenNode(*path, args.stream, args.threads, args.ctx,
                                                        args.device, args.around.polytopes, memory, *states);
  if (!node.ok()) return node.status();
  Swarm& swarm = (*node)->swarm();
  const Model& model = (*node)->model();
  const double load_seconds = Seconds(Clock::now() - start);

  GenerateRequest request;
  request.prompt = PromptTokens(model.tokenizer(), *prompt);
  if (static_cast<int64_t>(request.prompt.size()) >= args.ctx) {
    return UsageError(absl::StrCat("the prompt has ", request.prompt.size(), " tokens, but --ctx allows ",
                                   args.ctx, ", prompt and answer together; shorten it or raise --ctx"));
  }
  request.max_tokens = args.tokens;
  request.sampler = args.sampler.Settings();
  request.stops = args.stops;
  request.stop_at_end_of_text = !args.ignore_end;
  AskAround(args.around, request);
  const uint64_t seed = request.sampler.seed;

  const bool talk = args.stats || StderrIsTerminal();
  if (talk) Introduce(model, *path, swarm, load_seconds);
  if (args.Echoes()) Echo(*prompt);
  Progress progress(swarm, model, talk, static_cast<int64_t>(request.prompt.size()));
  const InterruptGuard interrupt;
  TokenReport report;
  const absl::StatusOr<HeldMemory> held = HoldAround(**node, request, report);
  if (!held.ok()) return held.status();
  absl::StatusOr<GenerateResult> result = swarm.Generate(std::move(request), [&](const GenerateEvent& event) {
    progress.OnEvent(event);
    report.Add(event);
    if (!args.json) Print(event.text);
    return FlushOutput() && !InterruptGuard::Requested();
  });
  if (!result.ok()) return result.status();
  report.SetAdapter(result->adapter.name, result->adapter.hash);  // which may have learned more meanwhile
  if (args.json) {
    PrintJson(*result, report, seed, load_seconds, model, swarm.Stats().device);
  } else {
    Print("\n");
  }
  FlushOutput();
  progress.Finish(*result, seed);
  if (const std::optional<DeviceReport> device = swarm.Stats().device; talk && device.has_value())
    Note(DescribeDevice(*device));
  for (const std::string& line : talk ? report.Lines() : std::vector<std::string>()) Note(line);
  KeepRoutingCounts(swarm, model, args.stats);
  return InterruptGuard::Requested() ? kExitInterrupted : kExitOk;
}

}  // namespace

void AddRun(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "run", "Continue a prompt; the text streams to standard output",
      "  omni run 'Once upon a time' -n 200\n"
      "  omni run 'The sea' --temp 0                 # the same text every time\n"
      "  omni run - --stop $'\\n\\n' --seed 7 < opening.txt\n"
      "  omni run -f opening.txt -n 500              # from a file\n"
      "  omni run 'The sea' --json | jq -r .text\n"
      "  omni run 'The sea' --perspectives near --json | jq .perspectives\n"
      "  omni run 'The sea' --adapter me             # as omni adapt has learned it\n"
      "  omni run 'The sea' --safety general         # within a polytope of omni safety build\n"
      "  omni run 'The sea' --perspectives near,every=1 --memory-scope facts  # of omni memory add\n"
      "  omni run 'The sea' --cluster 127.0.0.1:7300  # by the nodes of a cluster\n"
      "  omni run 'The sea' --server http://127.0.0.1:8080  # by a server, as omni serve\n"
      "  omni run --swarm-task 'Sort my notes' --swarm-workspace ~/notes  # by an agent of ZeroClaw\n\n"
      "The prompt may hold any bytes; the tokenizer works on bytes, so invalid UTF-8 is accepted as it is.");
  auto args = std::make_shared<RunArgs>();
  verb.Argument("PROMPT", args->prompt, "Text to continue; - reads standard input");
  const auto prompt_typed =
      Verb::OnCommandLine(verb.Text("-p,--prompt", args->prompt_flag, "The prompt, as a flag"));
  const auto file_typed =
      Verb::OnCommandLine(verb.Path("-f,--file", args->file, "A file with the prompt, plain or .xz"));
  args->model_typed = Verb::OnCommandLine(verb.Model(args->model));
  verb.Number("-n,--tokens", args->tokens, {1, int64_t{1} << 40}, "Tokens to generate at most (default 128)");
  args->of_this_process.Add(verb.Number(
      "-c,--ctx", args->ctx, {2, int64_t{1} << 40},
      "Tokens of prompt and answer together at most (default 1000000; memory does not grow with it)"));
  args->of_this_process.Add(verb.Threads(args->threads));
  args->stream.Add(verb);
  args->stream.AddPrefetch(verb);
  args->device.Add(verb, &args->of_this_process);
  args->cluster.Add(verb);
  args->server.Add(verb);
  args->sampler.Add(verb);
  verb.Texts("--stop", args->stops, "End before this text; may be given several times");
  args->around.Add(verb);
  args->of_this_process.Add(args->around.polytopes_flag());
  args->of_this_process.Add(args->around.memory_flag());
  verb.Bool("--ignore-eos", args->ignore_end, "Go on after the model ends the text");
  verb.Bool("--echo,!--no-echo", args->echo, "Print the prompt first (default: on a terminal)");
  args->swarm_task.Add(verb);
  verb.Json(args->json);
  verb.Bool("--stats", args->stats, "Say on stderr what was loaded, and the rates");
  verb.Body([args, prompt_typed, file_typed] {
    // A prompt from the environment gives way to that of the command line.
    if ((!args->prompt.empty() || file_typed()) && !prompt_typed()) args->prompt_flag.clear();
    if ((!args->prompt.empty() || prompt_typed()) && !file_typed()) args->file.clear();
    return Run(*args);
  });
}

}  // namespace omni::cli
