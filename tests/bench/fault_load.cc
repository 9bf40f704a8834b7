#include "tests/bench/fault_load.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "tests/bench/fault_cluster.h"
#include "tests/bench/session_answers.h"

namespace omni::bench {
namespace {

std::vector<int32_t> Numbers(const std::vector<TokenId>& tokens) {
  std::vector<int32_t> numbers;
  for (const TokenId t : tokens) numbers.push_back(static_cast<int32_t>(t.value));
  return numbers;
}

}  // namespace

absl::StatusOr<Wanted> WantedOf(const std::string& model, int tokens) {
  const auto answers = AnswersOfOneProcess(model, kSessions, tokens);
  if (!answers.ok()) return answers.status();
  Wanted wanted;
  for (const std::vector<TokenId>& answer : *answers) wanted.push_back(Numbers(answer));
  return wanted;
}

Load::~Load() { Finish(); }

void Load::Start(std::vector<std::unique_ptr<ClusterClient>> clients) {
  for (int s = 0; s < kSessions; ++s) {
    threads_.emplace_back(
        [this, s, client = std::move(clients[static_cast<size_t>(s)])] { Run(s, *client); });
  }
}

void Load::Run(int session, ClusterClient& client) {
  const auto& whole = wanted_[static_cast<size_t>(session)];
  const std::vector<int32_t> wanted(whole.begin(), whole.begin() + tokens_);
  bool under_way = false, next = false;
  while (!stop_) {
    int seen = 0;
    Clock::time_point last;
    auto answer = client.Generate(RequestOf(session, tokens_), [&](const GenerateEvent& event) {
      if (!event.is_token) return true;
      const auto now = Clock::now();
      std::lock_guard lock(mutex_);
      ++seen;
      ++seen_.tokens;
      if (seen > 1) {
        const double gap = std::chrono::duration<double, std::milli>(now - last).count();
        if (now <= struck_) {
          seen_.before_ms.push_back(gap);
        } else {
          if (gap > seen_.longest_gap_ms)
            seen_.gap_after_ms = std::chrono::duration<double, std::milli>(now - struck_).count();
          seen_.longest_gap_ms = std::max(seen_.longest_gap_ms, gap);
        }
        if (now > struck_ && last <= struck_ && !std::exchange(next, true)) {
          const double waited = std::chrono::duration<double, std::milli>(now - struck_).count();
          seen_.next_token_ms = std::max(seen_.next_token_ms, waited);
        }
      }
      last = now;
      if (!under_way && seen * 5 >= tokens_) {
        under_way = true;
        ++under_way_;
        news_.notify_all();
      }
      return true;
    });
    std::lock_guard lock(mutex_);
    std::string wrong;
    if (!answer.ok()) {
      ++seen_.failed;
      wrong = answer.status().ToString();
    } else {
      ++seen_.answers;
      seen_.reconnects += answer->reconnects;
      const std::vector<int32_t> got = Numbers(answer->tokens);
      if (got != wanted) {
        ++seen_.different;
        const auto at = std::mismatch(got.begin(), got.end(), wanted.begin(), wanted.end()).first;
        wrong =
            absl::StrCat("session ", session, " has ", got.size(), " tokens, right up to ", at - got.begin());
      }
    }
    if (seen_.first_wrong.empty()) seen_.first_wrong = wrong;
    if (!wrong.empty() && !under_way) {
      under_way = true;
      ++under_way_;
      news_.notify_all();
    }
  }
}

void Load::AwaitUnderWay() {
  std::unique_lock lock(mutex_);
  news_.wait(lock, [this] { return under_way_ == kSessions; });
}

void Load::Strike() {
  std::lock_guard lock(mutex_);
  struck_ = Clock::now();
}

void Load::Finish() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

Load::Seen Load::seen() {
  std::lock_guard lock(mutex_);
  return seen_;
}

Mover::Mover(std::unique_ptr<ClusterClient> client, int regions)
    : client_(std::move(client)), regions_(regions), thread_([this](const std::stop_token& stop) {
        // Whether one is placed while a coordinator is away is not what is tried here.
        for (int move = 0; !stop.stop_requested(); ++move) {
          const int region = move % regions_, round = move / regions_;
          const std::string to = FaultCluster::kWorkers[static_cast<size_t>((region + round) % 2)];
          client_->Place(RegionId(region), {to}).IgnoreError();
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        for (int region = 0; region < regions_; ++region) client_->Place(RegionId(region), {}).IgnoreError();
      }) {}

Mover::~Mover() = default;

}  // namespace omni::bench
