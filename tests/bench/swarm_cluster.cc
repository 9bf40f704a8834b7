#include "tests/bench/swarm_cluster.h"

#include <algorithm>
#include <filesystem>
#include <thread>

#include "cluster/certificates.h"
#include "tests/bench/swarm_figures.h"

namespace omni::bench {

nlohmann::json ToJson(const Gaps& gaps) {
  if (gaps.worst_ms.empty()) return nullptr;
  return {{"repetitions", gaps.worst_ms.size()},
          {"median_ms", Median(gaps.worst_ms)},
          {"worst_ms", *std::max_element(gaps.worst_ms.begin(), gaps.worst_ms.end())},
          {"between_tokens_ms", gaps.median_ms},
          {"different_answers", gaps.different}};
}

void SwarmCluster::Coordinator(const std::string& name, std::vector<std::string> more) {
  if (std::find(more.begin(), more.end(), "--offer-ram") == more.end())
    more.insert(more.end(), {"--offer-ram", "1"});
  more.insert(more.end(), {"--state", dir_ / name});
  Start(name, std::move(more), model_);
}

void SwarmCluster::Worker(const std::string& name, const std::string& coordinators,
                          std::vector<std::string> more, const std::string& model) {
  more.insert(more.end(), {"--join", coordinators});
  Start(name, std::move(more), model.empty() ? model_ : model);
}

void SwarmCluster::Secure() {
  Check(MakeAuthority(dir_ / "authority"));
  secured_ = true;
}

std::string SwarmCluster::Certificates(const std::string& name) {
  const std::string folder = dir_ / ("certificates-" + name);
  if (!std::filesystem::exists(folder))
    Check(MakeNodeCertificate(dir_ / "authority", name, {"127.0.0.1"}, folder));
  return folder;
}

std::unique_ptr<ClusterClient> SwarmCluster::Client(const std::vector<std::string>& coordinators) {
  ClusterClientOptions options;
  for (const std::string& c : coordinators) options.addresses.push_back(addresses_[c]);
  if (secured_) options.certificates = Certificates("client");
  auto client = ClusterClient::Make(options);
  Check(client.status());
  return *std::move(client);
}

void SwarmCluster::Await(const std::vector<std::string>& coordinators, const char* what,
                         const std::function<bool(const ClusterReport&)>& is_so) {
  const auto client = Client(coordinators);
  const auto until = Clock::now() + std::chrono::minutes(2);
  while (Clock::now() < until) {
    const auto report = client->Status();
    if (report.ok() && is_so(*report)) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::string logs;
  for (const auto& [name, node] : nodes_) logs += "--- " + name + "\n" + node->Log();
  Fail(logs + "not within two minutes: " + what);
}

void SwarmCluster::AwaitSpread(const std::vector<std::string>& coordinators, size_t workers) {
  Await(coordinators, "the regions are spread over the workers", [&](const ClusterReport& report) {
    size_t up = 0, settled = 0;
    for (const NodeView& node : report.view.nodes) up += node.up && !node.self && node.holdings.filling == 0;
    for (const PeerView& peer : report.peers) up -= peer.suspect ? 1 : 0;
    for (const RegionView& r : report.view.regions) {
      settled += r.record.owner != report.view.leader && r.record.target.value.empty() &&
                 (workers < 2 || !r.record.shadow.value.empty());
    }
    return up >= workers && settled == report.view.regions.size();
  });
}

void SwarmCluster::Answer(const std::vector<std::string>& coordinators, int tokens,
                          const std::function<void()>& at_third, Gaps& gaps) {
  ClusterClient::Request request;
  request.prompt = "The captain looked at the sea";
  request.max_tokens = tokens;
  request.sampler.temperature = 0;
  request.stop_at_end_of_text = false;
  std::vector<double> between;
  Clock::time_point last;
  int seen = 0;
  auto answer = Client(coordinators)->Generate(request, [&](const GenerateEvent& event) {
    if (!event.is_token) return true;
    const auto now = Clock::now();
    if (seen > 0) between.push_back(Millis(now - last));
    last = now;
    if (++seen == tokens / 3 && at_third) at_third();
    return true;
  });
  Check(answer.status());
  if (want_.empty()) want_ = answer->tokens;
  gaps.different += answer->tokens != want_;
  gaps.worst_ms.push_back(*std::max_element(between.begin(), between.end()));
  gaps.median_ms = Median(between);
}

void SwarmCluster::Start(const std::string& name, std::vector<std::string> arguments,
                         const std::string& model) {
  std::string& at = addresses_[name];
  if (std::find(arguments.begin(), arguments.end(), "--threads") == arguments.end())
    arguments.insert(arguments.end(), {"--threads", "1"});
  if (secured_) arguments.insert(arguments.end(), {"--certificates", Certificates(name)});
  arguments.insert(arguments.end(), {"-m", model, "--name", name, "--log-level", "info", "--listen",
                                     at.empty() ? "127.0.0.1:0" : at});
  auto& node = nodes_[name];
  node = nullptr;
  node = std::make_unique<testing::NodeProcess>(omni_, std::move(arguments), dir_ / (name + ".log"));
  at = node->WaitForAddress();
  if (at.empty()) Fail(node->Log());
}

}  // namespace omni::bench
