#include "tests/bench/swarm_cluster.h"

#include <algorithm>
#include <thread>

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
  Start(name, std::move(more));
}

void SwarmCluster::Worker(const std::string& name, const std::string& coordinators,
                          std::vector<std::string> more) {
  more.insert(more.end(), {"--join", coordinators});
  Start(name, std::move(more));
}

std::unique_ptr<ClusterClient> SwarmCluster::Client(const std::vector<std::string>& coordinators) {
  ClusterClientOptions options;
  for (const std::string& c : coordinators) options.addresses.push_back(addresses_[c]);
  auto client = ClusterClient::Make(options);
  Check(client.status());
  return *std::move(client);
}

void SwarmCluster::AwaitSpread(const std::vector<std::string>& coordinators, size_t workers) {
  const auto client = Client(coordinators);
  const auto until = Clock::now() + std::chrono::seconds(60);
  while (Clock::now() < until) {
    const auto report = client->Status();
    size_t up = 0, settled = 0;
    if (report.ok()) {
      for (const NodeView& node : report->view.nodes)
        up += node.up && !node.self && node.holdings.filling == 0;
      for (const PeerView& peer : report->peers) up -= peer.suspect ? 1 : 0;
      for (const RegionView& r : report->view.regions) {
        settled += r.record.owner != report->view.leader && r.record.target.value.empty() &&
                   (workers < 2 || !r.record.shadow.value.empty());
      }
      if (up >= workers && settled == report->view.regions.size()) return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  Fail("the regions did not spread within a minute\n" + nodes_.begin()->second->Log());
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

void SwarmCluster::Start(const std::string& name, std::vector<std::string> arguments) {
  std::string& at = addresses_[name];
  arguments.insert(arguments.end(), {"-m", model_, "--name", name, "--threads", "1", "--log-level", "info",
                                     "--listen", at.empty() ? "127.0.0.1:0" : at});
  auto& node = nodes_[name];
  node = nullptr;
  node = std::make_unique<testing::NodeProcess>(omni_, std::move(arguments), dir_ / (name + ".log"));
  at = node->WaitForAddress();
  if (at.empty()) Fail(node->Log());
}

}  // namespace omni::bench
