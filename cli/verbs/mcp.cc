#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cli/cluster_flags.h"
#include "cli/output.h"
#include "cli/verb.h"
#include "cluster/mcp/mcp_remote.h"
#include "cluster/mcp/mcp_server.h"
#include "cluster/mcp/mcp_stdio.h"
#include "engine/base/interrupt.h"

// The Model Context Protocol's server for a client that starts it: messages come by standard input and go by
// standard output, and what they ask for is done by a server elsewhere.
namespace omni::cli {
namespace {

constexpr std::chrono::seconds kPatience{10};  // with a server that does not answer
constexpr std::chrono::seconds kLeft = kPatience + std::chrono::seconds(5);  // for calls when the input ends

struct McpArgs {
  ClusterFlags cluster;
};

// Reads lines until the input ends or somebody interrupts.
absl::Status ReadLines(McpStdio& session) {
  std::string held;
  bool too_long = false;
  std::array<char, 64 << 10> chunk;
  while (!InterruptGuard::Requested()) {
    pollfd ready{STDIN_FILENO, POLLIN, 0};
    if (poll(&ready, 1, 50) <= 0) continue;
    const ssize_t got = read(STDIN_FILENO, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::UnavailableError(absl::StrCat("standard input: ", std::strerror(errno)));
    if (got == 0) break;
    std::string_view rest(chunk.data(), static_cast<size_t>(got));
    for (size_t end; (end = rest.find('\n')) != rest.npos; rest.remove_prefix(end + 1)) {
      held.append(rest.substr(0, end));
      if (too_long || held.size() > McpStdio::kMostLine) {
        session.OnLongLine();
      } else {
        session.OnLine(held);
      }
      held.clear();
      too_long = false;
    }
    held.append(rest);
    if (held.size() <= McpStdio::kMostLine) continue;
    too_long = true;
    held.clear();
  }
  if (!held.empty() && !too_long) session.OnLine(held);
  return absl::OkStatus();
}

absl::StatusOr<int> RunMcp(const McpArgs& args) {
  absl::StatusOr<ClusterClientOptions> options = args.cluster.ClientOptions();
  if (!options.ok()) return options.status();
  options->patience = kPatience;
  const absl::StatusOr<std::unique_ptr<McpRemote>> remote = McpRemote::Make(*options);
  if (!remote.ok()) return remote.status();
  const InterruptGuard interrupt;
  McpServer server(**remote, {.version = OMNI_VERSION});
  McpStdio session(server, [](const std::string& line) {
    Print(line);
    Print("\n");
    FlushOutput();
  });
  if (absl::Status s = ReadLines(session); !s.ok()) return s;
  // What was asked for is answered, unless it takes long.
  const auto until = std::chrono::steady_clock::now() + kLeft;
  while (session.under_way() > 0 && !InterruptGuard::Requested() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return kExitOk;
}

}  // namespace

void AddMcp(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "mcp", "Serve tools to a client of the Model Context Protocol that starts this",
      "  omni mcp                                  # tools of omni serve at 127.0.0.1:8081\n"
      "  OMNI_CLUSTER_KEY=omni_… omni mcp --cluster 127.0.0.1:8081\n"
      "  {\"mcpServers\": {\"omni\": {\"command\": \"omni\", \"args\": [\"mcp\"]}}}   # of a client\n\n"
      "Messages come by standard input and go by standard output, a line each. The tools generate text, "
      "and hand in, watch, list and cancel tasks, at the server that --cluster names (default "
      "127.0.0.1:8081, omni serve's gRPC). Ends with its input. omni serve itself offers the same at "
      "/mcp over HTTP.");
  auto args = std::make_shared<McpArgs>();
  args->cluster.Add(verb);
  verb.Body([args] { return RunMcp(*args); });
}

}  // namespace omni::cli
