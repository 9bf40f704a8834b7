#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/adapter_list.h"
#include "cli/around_flags.h"
#include "cli/around_request.h"
#include "cli/chat/chat.h"
#include "cli/chat/local_model.h"
#include "cli/chat/remote_model.h"
#include "cli/cluster_flags.h"
#include "cli/device_flags.h"
#include "cli/memory_folder.h"
#include "cli/open_node.h"
#include "cli/output.h"
#include "cli/place.h"
#include "cli/sampler_flags.h"
#include "cli/server_flags.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/base/interrupt.h"
#include "store/model/find_model.h"

namespace omni::cli {
namespace {

struct ChatArgs {
  std::string message, model, system, load;
  int64_t tokens = ChatSettings().max_tokens, threads = 0, ctx = SwarmOptions().max_context;
  SamplerFlags sampler;
  AroundFlags around;
  std::vector<std::string> stops;
  StreamFlags stream;
  DeviceFlags device;
  ClusterFlags cluster;
  ServerFlags server;
  GivenFlags of_this_process, of_settings;
  std::function<bool()> model_typed;
  bool stats = false;
};

// A Ctrl-C that comes between the prompt and the answer, where neither has a handler of its own, is the
// answer's.
volatile std::sig_atomic_t between = 0;

class KeepsInterrupts {
 public:
  KeepsInterrupts() {
    between = 0;
    struct sigaction action = {};
    action.sa_handler = [](int) { between = 1; };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &before_);
  }
  ~KeepsInterrupts() { sigaction(SIGINT, &before_, nullptr); }
  KeepsInterrupts(const KeepsInterrupts&) = delete;
  KeepsInterrupts& operator=(const KeepsInterrupts&) = delete;

 private:
  struct sigaction before_ = {};
};

// The chat with whoever answers; `model` and what it needs outlive it.
absl::StatusOr<int> Talk(const ChatArgs& args, ChatModel& model) {
  const std::unique_ptr<LineReader> lines = MakeLineReader();
  ChatSettings settings;
  settings.sampler = args.sampler.Settings();
  settings.max_tokens = args.tokens;
  settings.stops = args.stops;
  Chat::Options options;
  options.person = isatty(STDIN_FILENO) != 0;
  std::optional<KeepsInterrupts> keeps;
  if (options.person) keeps.emplace();
  std::optional<InterruptGuard> interrupt;  // Ctrl-C is the answer's while there is one under way
  options.stats = args.stats;
  options.interrupted = [] { return InterruptGuard::Requested() || between != 0; };
  options.before_answer = [&interrupt] { interrupt.emplace(); };
  options.after_answer = [&interrupt] { interrupt.reset(); };
  options.before_message = [] { between = 0; };
  Chat chat(model, *lines, std::move(settings), std::move(options));
  if (!args.load.empty()) {
    if (absl::Status s = chat.Load(args.load); !s.ok()) return s;
  }
  if (!args.system.empty()) chat.SetSystem(args.system);
  if (isatty(STDIN_FILENO)) Note("/help lists the commands; Ctrl-D ends the chat");
  if (absl::Status s = chat.Run(args.message); !s.ok()) return s;
  return chat.interrupted() ? kExitInterrupted : kExitOk;
}

absl::StatusOr<int> TalkHere(const ChatArgs& args) {
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Load(*path);
  if (!chat.ok()) return chat.status();
  std::string memory;
  if (!args.around.memory_scope.empty()) {
    absl::StatusOr<std::string> folder = MemoryFolder(args.around.memory);
    if (!folder.ok()) return folder.status();
    memory = *std::move(folder);
  }
  const absl::StatusOr<int64_t> states = StatesToPlan(args.around, args.device, *path, args.ctx);
  if (!states.ok()) return states.status();
  absl::StatusOr<std::unique_ptr<Node>> node = OpenNode(*path, args.stream, args.threads, args.ctx,
                                                        args.device, args.around.polytopes, memory, *states);
  if (!node.ok()) return node.status();
  GenerateRequest asks;
  AskAround(args.around, asks);
  {
    TokenReport report;
    GenerateRequest now = asks;  // what cannot be had is told before anything is typed
    if (const auto held = HoldAround(**node, now, report); !held.ok()) return held.status();
  }
  if (args.stats || StderrIsTerminal()) {
    const Model& model = (*node)->model();
    Note(absl::StrCat("omni " OMNI_VERSION " · ", *path, " (", model.config().preset, ") · ",
                      model.cache() == nullptr ? "all resident" : DescribeStreaming(model), " · ",
                      (*node)->swarm().options().threads, " threads"));
    if (const std::optional<DeviceReport> device = (*node)->swarm().Stats().device; device.has_value())
      Note(DescribeDevice(*device));
    if (!chat->from_file()) {
      Note(absl::StrCat("this is no chat model: ", *path, " has no ", ChatTemplate::kFile,
                        ", so messages are written one after the other for it to go on with"));
    }
  }
  LocalModel model(**node, *std::move(chat), std::move(asks));
  return Talk(args, model);
}

absl::StatusOr<int> RunChat(const ChatArgs& args) {
  if (absl::Status s = args.sampler.Check(); !s.ok()) return s;
  if (absl::Status s = args.around.Check(); !s.ok()) return s;
  if (!args.load.empty()) {
    if (absl::Status s =
            RefuseGiven({&args.sampler.given(), &args.of_settings},
                        " does nothing beside --load: a kept chat has settings of its own, and /temp and "
                        "/seed change them; leave it out");
        !s.ok())
      return s;
  }
  const absl::StatusOr<Place> place = ChoosePlace(
      {args.sampler, args.stream, args.cluster, args.server, args.of_this_process, args.model_typed()});
  if (!place.ok()) return place.status();
  if (*place == Place::kHere) return TalkHere(args);
  if (*place == Place::kServer) {
    if (absl::Status s = args.around.RefuseAtServer(); !s.ok()) return s;
    absl::StatusOr<std::unique_ptr<OpenAiClient>> client =
        args.server.Connect(args.model_typed() ? args.model : "", args.cluster.allow_plain);
    if (!client.ok()) return client.status();
    {
      const InterruptGuard interrupt;  // a wrong URL, key or model is told before anything is typed
      const auto name = (*client)->Model([] { return !InterruptGuard::Requested(); });
      if (absl::IsCancelled(name.status())) return kExitInterrupted;
      if (!name.ok()) return name.status();
      if (!args.around.adapter.empty()) {
        const absl::Status offered = CheckOffered(**client, args.around.adapter);
        if (InterruptGuard::Requested()) return kExitInterrupted;
        if (!offered.ok()) return offered;
      }
      if (args.stats || StderrIsTerminal()) Note(absl::StrCat(args.server.server, " · ", *name));
    }
    ServerModel model(*std::move(client), args.around.adapter);
    return Talk(args, model);
  }
  absl::StatusOr<std::unique_ptr<ClusterClient>> client = args.cluster.Connect();
  if (!client.ok()) return client.status();
  if (StderrIsTerminal())
    Note("messages are written one after the other for the cluster's model to go on with");
  ClusterClient::Request asks;
  AskAround(args.around, asks);
  ClusterModel model(*std::move(client), ChatTemplate(), std::move(asks));
  return Talk(args, model);
}

}  // namespace

void AddChat(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "chat", "Talk with a model; what was said stays in its context",
            "  omni chat                                   # the model that omni run would take\n"
            "  omni chat --server http://127.0.0.1:8080    # whatever an OpenAI-compatible server has\n"
            "  omni chat --load evening.chat               # where /save evening.chat left off\n"
            "  omni chat --adapter me                      # as omni adapt has learned it\n"
            "  printf 'Who is there?\\nWhy?\\n' | omni chat --temp 0\n\n"
            "Answers go to standard output, all else to standard error. /help lists what can be typed.\n"
            "Ctrl-C stops an answer, Ctrl-D ends the chat.");
  auto args = std::make_shared<ChatArgs>();
  verb.Argument("MESSAGE", args->message, "What is said first; then standard input is read");
  args->model_typed = Verb::OnCommandLine(verb.Model(args->model));
  verb.Text("--system", args->system, "What the model is told before all else");
  verb.Path("--load", args->load, "Go on with a chat that /save has kept");
  args->of_settings.Add(verb.Number("-n,--tokens", args->tokens, {1, int64_t{1} << 40},
                                    "Tokens of one answer at most (default 1024)"));
  args->of_this_process.Add(
      verb.Number("-c,--ctx", args->ctx, {2, int64_t{1} << 40},
                  "Tokens of the whole chat at most (default 1000000; memory does not grow with it)"));
  args->of_this_process.Add(verb.Threads(args->threads));
  args->stream.Add(verb);
  args->stream.AddPrefetch(verb);
  args->device.Add(verb, &args->of_this_process);
  args->cluster.Add(verb);
  args->server.Add(verb);
  args->sampler.Add(verb);
  args->of_settings.Add(
      verb.Texts("--stop", args->stops, "End an answer before this text; may be given several times"));
  args->around.Add(verb);
  args->of_this_process.Add(args->around.polytopes_flag());
  args->of_this_process.Add(args->around.memory_flag());
  verb.Bool("--stats", args->stats, "Say on stderr what was loaded, and the rates of each answer");
  verb.Body([args] { return RunChat(*args); });
}

}  // namespace omni::cli
