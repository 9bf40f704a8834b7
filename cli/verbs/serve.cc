#include <chrono>
#include <filesystem>
#include <memory>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/output.h"
#include "cli/stream_flags.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/http/http_door.h"
#include "cluster/node.h"
#include "cluster/node_backend.h"
#include "engine/base/interrupt.h"
#include "kernels/op.h"
#include "store/model/find_model.h"

namespace omni::cli {
namespace {

struct ServeArgs {
  std::string model, listen = HttpServerOptions().listen, model_name;
  int64_t threads = 0, ctx = SwarmOptions().max_context;
  std::chrono::milliseconds drain{30'000};
  StreamFlags stream;
};

// The name of the model's folder.
std::string NameOf(const std::string& path) {
  std::filesystem::path folder = std::filesystem::absolute(path).lexically_normal();
  if (folder.filename().empty()) folder = folder.parent_path();
  return folder.filename().empty() ? "omni" : folder.filename().string();
}

absl::StatusOr<int> Serve(const ServeArgs& args) {
  const auto start = std::chrono::steady_clock::now();
  if (absl::Status s = CheckHttpAddress(args.listen); !s.ok())
    return UsageError(absl::StrCat("--listen: ", s.message()));
  const InterruptGuard interrupt;
  absl::StatusOr<std::string> path = FindModel(args.model);
  if (!path.ok()) return path.status();
  ServedModel served;
  served.name = args.model_name.empty() ? NameOf(*path) : args.model_name;
  absl::StatusOr<ChatTemplate> chat = ChatTemplate::Load(*path);
  if (!chat.ok()) return chat.status();
  served.chat = *std::move(chat);
  absl::StatusOr<OpenOptions> open = args.stream.Options(*path);
  if (!open.ok()) return open.status();
  NodeOptions options;
  options.model = *path;
  options.open = *open;
  options.swarm.threads = static_cast<int>(args.threads);
  options.swarm.max_context = args.ctx;
  options.swarm.coordinator.predict_ahead = args.stream.PredictAhead(*open);
  absl::StatusOr<std::unique_ptr<Node>> node = Node::Start(nullptr, options);
  if (!node.ok()) return node.status();
  NodeBackend backend(**node);

  HttpServerOptions http;
  http.listen = args.listen;
  HttpDoor::Behind behind;
  behind.backend = &backend;
  behind.stats = [&swarm = (*node)->swarm()] { return swarm.Stats(); };
  behind.slots = options.swarm.coordinator.max_active;
  absl::StatusOr<std::unique_ptr<HttpDoor>> door = HttpDoor::Open(http, served, behind);
  if (!door.ok()) return door.status();

  const Model& model = (*node)->model();
  const double load = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Note(absl::StrCat("omni " OMNI_VERSION " · ", *path, " (", model.config().preset, ") as '", served.name,
                    "' · ", model.cache() == nullptr ? "all resident" : DescribeStreaming(model), " · ",
                    (*node)->swarm().options().threads, " threads, ",
                    kernels::IsaName(kernels::ActiveOps().isa), absl::StrFormat(" · ready in %.2f s", load)));
  if (!served.chat.from_file()) {
    Note(absl::StrCat("this is no chat model: ", *path, " has no ", ChatTemplate::kFile,
                      ", so messages are written one after the other for it to go on with"));
  }
  // For whoever started it: the address, with the port that was found.
  PrintF("listening on %s\n", (*door)->address().c_str());
  FlushOutput();
  while (!InterruptGuard::Requested()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  if (!(*door)->Drain(args.drain)) Note("some answers were not finished in time and are cut off");
  return kExitOk;
}

}  // namespace

void AddServe(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "serve", "Serve a model over HTTP to OpenAI's clients, on loopback",
            "  omni serve                                     # OPENAI_BASE_URL=http://127.0.0.1:8080/v1\n"
            "  omni serve -m models/mini --listen 127.0.0.1:0 # a free port, which is printed\n"
            "  curl -s http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n"
            "    -d '{\"prompt\": \"The sea\", \"max_tokens\": 40}'\n\n"
            "Ends with an interrupt, when what runs has been answered.");
  auto args = std::make_shared<ServeArgs>();
  verb.Model(args->model);
  verb.Text("--listen", args->listen,
            "ADDRESS:PORT of loopback; port 0 takes a free one (default 127.0.0.1:8080)");
  verb.Text("--model-name", args->model_name, "What clients call the model (default: its folder's name)");
  verb.Number("-c,--ctx", args->ctx, {2, int64_t{1} << 40},
              "Tokens of prompt and answer together at most (default 1000000; memory does not grow with it)");
  verb.Duration("--drain", args->drain, "For how long it finishes what runs when it is to end (default 30s)");
  verb.Threads(args->threads);
  args->stream.Add(verb);
  args->stream.AddPrefetch(verb);
  verb.Body([args] { return Serve(*args); });
}

}  // namespace omni::cli
