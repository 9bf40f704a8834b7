// Nodes that join, leave, are killed and are drained at random, from a seed, while sessions decode: every
// answer is that of one node, every region has an owner at the end, and no process has grown.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <stop_token>
#include <thread>

#include <absl/strings/str_cat.h>

#include "tests/bench/session_answers.h"
#include "tests/bench/swarm_cluster.h"
#include "tests/bench/swarm_figures.h"
#include "tests/bench/swarm_measurements.h"

namespace omni::bench {
namespace {

constexpr int64_t kTokens = 120;
// What a process may have more at the end than when the cluster was complete: connections come and go, and
// its allocator keeps what the busiest moment took.
constexpr int64_t kMoreDescriptors = 24, kMoreThreads = 8, kMoreBytes = 64 << 20;

struct Usage {
  int64_t bytes = 0, threads = 0, descriptors = 0;
};

Usage UsageOf(pid_t pid) {
  Usage usage;
  const std::string proc = absl::StrCat("/proc/", pid);
  std::ifstream status(proc + "/status");
  std::string key;
  while (status >> key) {
    if (key == "VmRSS:") {
      status >> usage.bytes;
      usage.bytes <<= 10;
    } else if (key == "Threads:") {
      status >> usage.threads;
    }
    status.ignore(1 << 16, '\n');
  }
  std::error_code error;
  for (std::filesystem::directory_iterator it(proc + "/fd", error), end; !error && it != end;
       it.increment(error))
    ++usage.descriptors;
  return usage;
}

std::vector<std::vector<TokenId>> Wanted(const std::string& model, int sessions) {
  auto answers = AnswersOfOneProcess(model, sessions, kTokens);
  Check(answers.status());
  return *std::move(answers);
}

// Sessions one after another, several at a time.
class Load {
 public:
  Load(SwarmCluster& cluster, const std::vector<std::vector<TokenId>>& wanted) : wanted_(wanted) {
    for (size_t s = 0; s < wanted.size(); ++s)
      threads_.emplace_back([this, s, client = cluster.Client({"c"})] { Run(s, *client); });
  }
  ~Load() { Stop(); }
  void Stop() {
    stop_.request_stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  std::atomic<int64_t> answers{0}, different{0}, failed{0};

 private:
  void Run(size_t session, ClusterClient& client) {
    ClusterClient::Request request = RequestOf(static_cast<int>(session), kTokens);
    request.cancel = stop_.get_token();
    while (!stop_.stop_requested()) {
      const auto answer = client.Generate(request, nullptr);
      if (stop_.stop_requested()) return;
      if (!answer.ok()) {
        std::fprintf(stderr, "session %zu failed: %s\n", session, answer.status().ToString().c_str());
        ++failed;
      } else if (answer->tokens != wanted_[session]) {
        std::fprintf(stderr, "session %zu has other tokens than one node gives\n", session);
        ++different;
      }
      ++answers;
    }
  }

  const std::vector<std::vector<TokenId>>& wanted_;
  std::stop_source stop_;
  std::vector<std::thread> threads_;
};

struct Worker {
  std::string name, model;
  bool up = false, draining = false;
};

class Churn {
 public:
  explicit Churn(const SwarmBenchOptions& options)
      : options_(options),
        cluster_(options.omni, options.model),
        random_(options.seed),
        wanted_(Wanted(options.model, options.churn_sessions)) {}

  nlohmann::json Run() {
    cluster_.Coordinator("c");
    for (int i = 1; i < options_.churn_nodes; ++i) {
      // Every second one begins with an empty directory, and keeps it.
      const std::string name = absl::StrCat("w", i);
      workers_.push_back({name, i % 2 == 0 ? "" : cluster_.Path(name)});
      Join(workers_.back());
    }
    AwaitComplete();
    Load load(cluster_, wanted_);
    while (load.answers < static_cast<int64_t>(wanted_.size())) Sleep(50);
    const std::map<std::string, Usage> before = Usages();
    Print("at the start", before);
    const auto until = Clock::now() + options_.churn;
    while (Clock::now() < until) {
      Step();
      Sleep(static_cast<int64_t>(random_() % 1000));
    }
    for (Worker& worker : workers_) {
      if (!worker.up) Join(worker);
      if (worker.draining) Drain(worker, true);
    }
    AwaitComplete();
    const int64_t at_rest = load.answers + 2 * static_cast<int64_t>(wanted_.size());
    while (load.answers < at_rest) Sleep(50);
    const std::map<std::string, Usage> after = Usages();
    Print("at the end", after);
    load.Stop();
    int64_t grown = 0;
    for (const auto& [name, now] : after) {
      const Usage& then = before.at(name);
      const bool is = now.descriptors > then.descriptors + kMoreDescriptors ||
                      now.threads > then.threads + kMoreThreads || now.bytes > then.bytes + kMoreBytes;
      if (is) std::fprintf(stderr, "%s has grown\n", name.c_str());
      grown += is;
    }
    const auto report = cluster_.Client({"c"})->Status();
    Check(report.status());
    return {{"churn_s", std::chrono::duration<double>(options_.churn).count()},
            {"churn_nodes", options_.churn_nodes},
            {"churn_seed", options_.seed},
            {"churn_joined", joined_},
            {"churn_left", left_},
            {"churn_killed", killed_},
            {"churn_drained", drained_},
            {"churn_answers", load.answers.load()},
            {"churn_different", load.different.load()},
            {"churn_failed", load.failed.load()},
            {"churn_bad_exits", bad_exits_},
            {"churn_grown", grown},
            {"churn_migrations", report->migrations},
            {"churn_failovers", report->failovers},
            {"churn_hedges", report->hedges_sent}};
  }

 private:
  static void Sleep(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

  void Join(Worker& worker) {
    cluster_.Worker(worker.name, cluster_.AddressOf("c"), {}, worker.model);
    worker.up = true;
    ++joined_;
  }
  void Drain(Worker& worker, bool undo) {
    // A node that was killed before it had joined is not known.
    const absl::Status status = cluster_.Client({"c"})->Drain({worker.name}, undo);
    if (!status.ok() && !absl::IsNotFound(status)) Fail(std::string(status.message()));
    worker.draining = !undo;
    drained_ += !undo;
  }

  // At most half of the workers are away at a time.
  void Step() {
    Worker& worker = workers_[random_() % workers_.size()];
    const auto away = static_cast<size_t>(
        std::count_if(workers_.begin(), workers_.end(), [](const Worker& w) { return !w.up || w.draining; }));
    const uint64_t what = random_() % 3;
    if (!worker.up) {
      Join(worker);
    } else if (worker.draining && what == 0) {
      Drain(worker, true);
    } else if (!worker.draining && 2 * away >= workers_.size()) {
      return;
    } else if (what == 0) {
      Drain(worker, false);
    } else if (what == 1) {
      const int code = cluster_.At(worker.name).Interrupt();
      if (code != 0) {
        std::fprintf(stderr, "%s ended with %d when it was asked to\n", worker.name.c_str(), code);
        ++bad_exits_;
      }
      worker.up = false;
      ++left_;
    } else {
      cluster_.At(worker.name).Kill();
      worker.up = false;
      ++killed_;
    }
  }

  void AwaitComplete() {
    cluster_.Await({"c"}, "all nodes are up, and every region has an owner and a shadow",
                   [&](const ClusterReport& report) {
                     std::map<std::string, bool> up;
                     for (const NodeView& node : report.view.nodes)
                       up[node.id.value] = node.up && node.holdings.filling == 0;
                     for (const Worker& worker : workers_) {
                       if (!up[worker.name]) return false;
                     }
                     return std::all_of(
                         report.view.regions.begin(), report.view.regions.end(), [&](const auto& r) {
                           return r.record.target.value.empty() && up[r.record.owner.value] &&
                                  r.record.owner != report.view.leader && up[r.record.shadow.value];
                         });
                   });
  }

  std::map<std::string, Usage> Usages() {
    std::map<std::string, Usage> usages;
    usages["c"] = UsageOf(cluster_.At("c").pid());
    for (const Worker& worker : workers_) usages[worker.name] = UsageOf(cluster_.At(worker.name).pid());
    return usages;
  }
  static void Print(const char* when, const std::map<std::string, Usage>& usages) {
    std::fprintf(stderr, "%s:\n", when);
    for (const auto& [name, usage] : usages) {
      std::fprintf(stderr, "  %-4s %4lld MB  %3lld threads  %3lld descriptors\n", name.c_str(),
                   static_cast<long long>(usage.bytes >> 20), static_cast<long long>(usage.threads),
                   static_cast<long long>(usage.descriptors));
    }
  }

  const SwarmBenchOptions options_;
  SwarmCluster cluster_;
  std::mt19937_64 random_;
  const std::vector<std::vector<TokenId>> wanted_;
  std::vector<Worker> workers_;
  int64_t joined_ = 0, left_ = 0, killed_ = 0, drained_ = 0, bad_exits_ = 0;
};

}  // namespace

nlohmann::json RunChurn(const SwarmBenchOptions& options) { return Churn(options).Run(); }

}  // namespace omni::bench
