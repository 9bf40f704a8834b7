// What goes on at a cluster while faults strike it: answers that are compared with those of one process, and
// regions that are moved to and fro.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/cluster_client.h"

namespace omni::bench {

constexpr int kSessions = 4;

// Of one process without a cluster: the answer of each session, by token, as numbers that can be written.
using Wanted = std::vector<std::vector<int32_t>>;
absl::StatusOr<Wanted> WantedOf(const std::string& model, int tokens);

// Each session asks for its answer again and again, all at the same time.
class Load {
 public:
  using Clock = std::chrono::steady_clock;

  // The first so many tokens of what is wanted.
  Load(const Wanted& wanted, int tokens) : wanted_(wanted), tokens_(tokens) {}
  ~Load();

  void Start(std::vector<std::unique_ptr<ClusterClient>> clients);  // one for each session
  void AwaitUnderWay();  // every session is well in the middle of an answer, or has failed
  void Strike();         // from now on silences count
  void Finish();         // nothing more is asked, and what was asked has been answered

  struct Seen {
    int answers = 0, failed = 0, different = 0, reconnects = 0;
    int64_t tokens = 0;
    std::string first_wrong;        // what was wrong with the first that failed or differed
    double next_token_ms = 0;       // after the strike, of the session that waited longest
    double longest_gap_ms = 0;      // between two tokens of an answer, from the strike on
    double gap_after_ms = 0;        // from the strike to the end of that gap
    std::vector<double> before_ms;  // between tokens, before the strike
  };
  Seen seen();  // when it has finished

 private:
  void Run(int session, ClusterClient& client);

  const Wanted& wanted_;
  const int tokens_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable news_;
  Clock::time_point struck_ = Clock::time_point::max();
  int under_way_ = 0;
  Seen seen_;
  std::vector<std::thread> threads_;
};

// Places one region after another at another worker, until it goes; then none is pinned any more.
class Mover {
 public:
  Mover(std::unique_ptr<ClusterClient> client, int regions);
  ~Mover();

 private:
  std::unique_ptr<ClusterClient> client_;
  const int regions_;
  std::jthread thread_;
};

}  // namespace omni::bench
