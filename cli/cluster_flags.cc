#include "cli/cluster_flags.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "engine/base/interrupt.h"

namespace omni::cli {
namespace {

constexpr char kServeAddress[] = "127.0.0.1:8081";  // where omni serve answers gRPC by default

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadAddresses(const std::string& flag, const std::string& text) {
  std::vector<std::string> addresses;
  for (const auto part : absl::StrSplit(text, ',')) {
    const std::string address(part);
    const size_t colon = address.rfind(':');
    const bool port = colon != std::string::npos && colon > 0 && colon + 1 < address.size() &&
                      address.find_first_not_of("0123456789", colon + 1) == std::string::npos &&
                      address.size() - colon <= 6 && std::stoi(address.substr(colon + 1)) <= 65535;
    if (!port) return UsageError(absl::StrCat(flag, ": '", address, "' is no HOST:PORT"));
    addresses.push_back(address);
  }
  return addresses;
}

void ClusterFlags::Add(Verb& verb) {
  all_.Add(verb.Value(
      "--cluster", "HOST:PORT[,...]",
      [this](const std::string& text) {
        const auto read = ReadAddresses("--cluster", text);
        if (read.ok()) cluster = text;
        return read.ok() ? std::string() : absl::StrCat("'", text, "' is no list of HOST:PORT");
      },
      "Nodes of a cluster, any of them; the coordinator is found from there"));
  const CLI::Option* folder =
      verb.Path("--certificates", certificates, "Folder of a node's certificate (omni cluster cert)");
  const CLI::Option* secret = verb.Text(
      "--cluster-key", key,
      "A key of omni key, for nodes that want one; others of this machine can see a command line, so "
      "rather give it as OMNI_CLUSTER_KEY");
  const CLI::Option* plain =
      verb.Bool("--allow-plain", allow_plain, "Talk to other machines without encryption");
  for (const CLI::Option* option : {folder, secret}) of_nodes_.Add(option);
  for (const CLI::Option* option : {folder, secret, plain}) {
    all_.Add(option);
    beside_.Add(option);
  }
}

absl::StatusOr<ClusterClientOptions> ClusterFlags::ClientOptions() const {
  absl::StatusOr<std::vector<std::string>> addresses =
      ReadAddresses("--cluster", cluster.empty() ? kServeAddress : cluster);
  if (!addresses.ok()) return addresses.status();
  ClusterClientOptions options;
  options.addresses = *std::move(addresses);
  options.certificates = certificates;
  options.key = key;
  options.allow_plain = allow_plain;
  options.give_up = [] { return InterruptGuard::Requested(); };
  return options;
}

absl::StatusOr<std::unique_ptr<ClusterClient>> ClusterFlags::Connect() const {
  absl::StatusOr<ClusterClientOptions> options = ClientOptions();
  if (!options.ok()) return options.status();
  return ClusterClient::Make(*std::move(options));
}

}  // namespace omni::cli
