#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/door_flags.h"
#include "cli/node_flags.h"
#include "cli/output.h"
#include "cli/service.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/cluster_node.h"
#include "cluster/http/http_door.h"
#include "cluster/model_name.h"
#include "engine/base/interrupt.h"
#include "engine/base/quoted.h"
#include "kernels/op.h"
#include "store/state/state_dir.h"

namespace omni::cli {
namespace {

constexpr std::chrono::seconds kForALeader{10};  // before the doors open

struct ServeArgs {
  std::string model, listen = HttpServerOptions().listen, host, port, grpc, model_name, push;
  int64_t ctx = SwarmOptions().max_context;
  int64_t parallel = CoordinatorOptions().max_rows, queue = CoordinatorOptions().max_queued;
  std::chrono::milliseconds drain{30'000};
  StreamFlags stream;
  NodeFlags node;
  DoorFlags door;
  GivenFlags of_listen, of_part;
};

// The port after HTTP's, or a free one after a free one.
std::string GrpcBeside(const std::string& http) {
  const size_t colon = http.rfind(':');
  int port = 0;
  std::from_chars(http.data() + colon + 1, http.data() + http.size(), port);
  return absl::StrCat(http.substr(0, colon), ":", port == 0 || port == 65535 ? 0 : port + 1);
}

// One for every address at which a server may be asked, so that what is started there again finds the answers
// that it began, and others beside it keep theirs.
absl::Status ChooseState(ClusterNodeOptions& options) {
  if (!options.state_dir.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> dir = StateDir();
  if (!dir.ok())
    return absl::Status(dir.status().code(), absl::StrCat(dir.status().message(), "; or give --state"));
  const bool free_port = options.listen.ends_with(":0");
  options.state_folder = free_port ? StateFolder::kFreeByModel : StateFolder::kByModel;
  options.state_dir = absl::StrCat(*dir, "/serve/", free_port ? "any" : options.listen);
  return absl::OkStatus();
}

absl::Status ChooseMemory(const ServeArgs& args, ClusterNodeOptions& options) {
  const char* instead = !options.join.empty()             ? "--join"
                        : options.offer_bytes.has_value() ? "--offer-ram"
                                                          : "";
  if (*instead == '\0') {
    absl::StatusOr<OpenOptions> open = args.stream.Options(options.model);
    if (!open.ok()) return open.status();
    options.open = *open;
    options.fitted = true;
    options.swarm.coordinator.predict_ahead = args.stream.PredictAhead(*open);
    return absl::OkStatus();
  }
  if (const std::string idle = args.stream.given().First(); !idle.empty()) {
    return UsageError(
        absl::StrCat(idle, " does nothing beside ", instead,
                     ": what experts may take of memory is what --offer-ram says; leave it out"));
  }
  return absl::OkStatus();
}

// Where --listen says, or --host and --port in its place; what is on the command line before the environment.
absl::StatusOr<std::string> Listen(const ServeArgs& args) {
  if (!args.of_listen.First().empty()) {
    const std::string part = args.of_part.First();
    if (part.empty()) return args.listen;
    return UsageError(absl::StrCat("--listen says address and port; leave ", part, " out beside it"));
  }
  const size_t colon = std::min(args.listen.rfind(':'), args.listen.size());
  const bool bare_ipv6 = args.host.find(':') != args.host.npos && !args.host.starts_with('[');
  const std::string host = args.host.empty() ? args.listen.substr(0, colon)
                           : bare_ipv6       ? absl::StrCat("[", args.host, "]")
                                             : args.host;
  return absl::StrCat(host, args.port.empty() ? args.listen.substr(colon) : absl::StrCat(":", args.port));
}

absl::StatusOr<int> Serve(ServeArgs args) {
  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<std::string> listen = Listen(args);
  if (!listen.ok()) return listen.status();
  args.listen = *listen;
  HttpServerOptions http;
  http.listen = args.listen;
  HttpDoor::Behind behind;
  if (absl::Status s = args.door.Apply(behind, http); !s.ok()) return s;
  const InterruptGuard interrupt;
  absl::StatusOr<ClusterNodeOptions> options =
      args.node.Options(args.model, "--grpc", args.grpc.empty() ? GrpcBeside(args.listen) : args.grpc);
  if (!options.ok()) return options.status();
  if (absl::Status s = ChooseMemory(args, *options); !s.ok()) return s;
  if (absl::Status s = ChooseState(*options); !s.ok()) return s;
  options->swarm.max_context = args.ctx;
  options->model_name = args.model_name.empty() ? ModelName(options->model) : args.model_name;
  options->swarm.coordinator.max_active = static_cast<int>(args.parallel);
  options->swarm.coordinator.max_queued = static_cast<int>(args.queue);
  args.door.Apply(behind, http, *options);
  if (!args.push.empty()) {
    absl::StatusOr<PushConfig> push = LoadPushConfig(args.push);
    if (!push.ok()) return push.status();
    options->push = *std::move(push);
  }
  // Before anybody hears of this server: a template that cannot be used is the end of it.
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Load(options->model);
  if (!chat.ok()) return chat.status();
  absl::StatusOr<std::unique_ptr<ClusterNode>> node = ClusterNode::Start(*options);
  if (!node.ok()) return node.status();
  if (!chat->from_file()) chat = ChatTemplate::Load(options->model);  // it may have come with the model
  if (!chat.ok()) return chat.status();

  ServedModel served;
  served.name = options->model_name;
  served.chat = *std::move(chat);
  served.most_tokens = args.door.most_tokens();
  behind.backend = &(*node)->backend();
  behind.status = &(*node)->status();
  behind.extensions = (*node)->OpenHttpExtensions();
  behind.slots = options->swarm.coordinator.max_active;
  behind.log_requests = options->log_requests;
  absl::StatusOr<std::unique_ptr<HttpDoor>> door = HttpDoor::Open(http, served, behind);
  if (!door.ok()) return door.status();
  if (!(*node)->WaitForLeader(kForALeader)) Note("no coordinator has been elected yet");

  const Model& model = (*node)->model();
  const double load = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Note(absl::StrCat("omni " OMNI_VERSION " · ", options->model, " (", model.config().preset, ") as '",
                    served.name, "' · ", model.cache() == nullptr ? "all resident" : DescribeStreaming(model),
                    " · ", ThreadsOrDefault(args.node.threads), " threads, ",
                    kernels::IsaName(kernels::ActiveOps().isa), absl::StrFormat(" · ready in %.2f s", load)));
  if (const std::string security = DoorFlags::Describe(behind, http); !security.empty()) Note(security);
  if (!served.chat.from_file()) {
    Note(absl::StrCat("this is no chat model: ", options->model, " has no ", ChatTemplate::kFile,
                      ", so messages are written one after the other for it to go on with"));
  }
  // For whoever started it: the addresses, with the ports that were found.
  PrintF("listening on %s\n", (*door)->address().c_str());
  PrintF("gRPC at %s\n", (*node)->address().c_str());
  FlushOutput();
  ServeUntilInterrupted(**node, absl::StrCat("serving ", served.name, " at ", (*door)->address()),
                        args.drain);
  const auto until = std::chrono::steady_clock::now() + args.drain;
  (*node)->StopServing();
  const bool http_done = (*door)->Drain(args.drain);
  const auto left = std::max(
      std::chrono::milliseconds(0),
      std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now()));
  const bool grpc_done = (*node)->WaitForAnswers(left);
  if (!http_done || !grpc_done) Note("some answers were not finished in time and are cut off");
  return kExitOk;
}

}  // namespace

void AddServe(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "serve", "Serve a model to OpenAI's clients and over gRPC",
            "  omni serve                                     # OPENAI_BASE_URL=http://127.0.0.1:8080/v1\n"
            "  omni serve -m models/mini --listen 127.0.0.1:0 # free ports, which are printed\n"
            "  omni serve --port 8090                         # and gRPC at 8091\n"
            "  curl -s http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n"
            "    -d '{\"prompt\": \"The sea\", \"max_tokens\": 40}'\n"
            "  omni run 'The sea' --cluster 127.0.0.1:8081    # the same over gRPC\n"
            "  omni node --listen 127.0.0.1:7300 --join 127.0.0.1:8081   # takes regions from it\n\n"
            "It is an omni node that answers over HTTP too: on loopback, or with keys and TLS anywhere. Ends "
            "with an interrupt, when what "
            "runs has been answered.");
  auto args = std::make_shared<ServeArgs>();
  verb.Model(args->model);
  args->of_listen.Add(verb.Text(
      "--listen", args->listen,
      "ADDRESS:PORT for HTTP, off loopback only with keys and TLS; port 0 takes a free one (default "
      "127.0.0.1:8080)"));
  args->of_part.Add(
      verb.Text("--host", args->host, "The address alone, in the place of --listen (default 127.0.0.1)"));
  args->of_part.Add(verb.Value(
      "--port", "N",
      [args](const std::string& text) -> std::string {
        int port = -1;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
        const bool whole = error == std::errc() && end == text.data() + text.size();
        if (whole && port >= 0 && port <= 65535) {
          args->port = absl::StrCat(port);
          return "";
        }
        return absl::StrCat(Quoted(text), " is no port from 0 to 65535",
                            text.starts_with("tcp://")
                                ? "; Kubernetes says so where a Service is called omni, unless the pod has "
                                  "enableServiceLinks: false"
                                : "");
      },
      "The port alone, in the place of --listen; 0 takes a free one (default 8080)"));
  verb.Text("--grpc", args->grpc,
            "HOST:PORT for gRPC; port 0 takes a free one (default: the port after that of --listen, so "
            "127.0.0.1:8081)");
  verb.Text("--model-name", args->model_name, "What clients call the model (default: its folder's name)");
  verb.Number("-c,--ctx", args->ctx, {2, int64_t{1} << 40},
              "Tokens of prompt and answer together at most (default 1000000; memory does not grow with it)");
  verb.Number("--parallel", args->parallel, {1, CoordinatorOptions().max_rows},
              "Requests answered at once, where their states fit into memory (default 64)");
  verb.Number("--queue", args->queue, {1, 100'000},
              "Requests that may wait beyond those, before more are refused (default 256)");
  verb.Duration("--drain", args->drain, "For how long it finishes what runs when it is to end (default 30s)");
  verb.Path(
      "--push", args->push,
      "File that says to whom changes of tasks may be told over HTTP (docs/a2a.md; default: to nobody)");
  args->door.Add(verb);
  args->node.Add(verb);
  args->stream.Add(verb);
  args->stream.AddPrefetch(verb);
  verb.Body([args] { return Serve(*args); });
}

}  // namespace omni::cli
