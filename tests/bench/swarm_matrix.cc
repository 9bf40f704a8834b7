// The fault matrix: clusters of real processes in network namespaces, struck by one fault after another while
// they answer. Each cell of it is one kind of fault, some twenty times; every answer is compared with that of
// one process.
//
//     swarm_matrix -m MODEL --omni PROGRAM [--cells A,B] [--repetitions N] [--moving] [--brief] [--json]
//     swarm_matrix --merge FILE... [--json]
//
// Exit code 1: a token was lost, doubled or different, or the like; 77: it cannot run here, and says why.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "tests/bench/fault_cells.h"
#include "tests/bench/fault_cluster.h"
#include "tests/bench/fault_load.h"

namespace omni::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSkipped = 77, kRegions = 16, kMostTokens = 150;
constexpr std::chrono::milliseconds kBriefly{300};

struct Arguments {
  std::string model, omni;
  std::vector<std::string> cells, merge;
  int repetitions = 20;
  bool moving = false, brief = false, json = false, bars = false, logs = false;
};

// What `f` returns, made in a process of its own: a cell enters a namespace for good, and what it leaves
// behind goes with it. nullopt: the process failed, and has said why.
std::optional<Json> InAnotherProcess(const std::function<std::optional<Json>()>& f) {
  int ends[2];
  if (pipe(ends) != 0) return std::nullopt;
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[0]);
    const std::optional<Json> made = f();
    const std::string text = made.has_value() ? made->dump() : "";
    for (size_t at = 0; at < text.size();) {
      const ssize_t n = write(ends[1], text.data() + at, text.size() - at);
      if (n <= 0) break;
      at += static_cast<size_t>(n);
    }
    _exit(made.has_value() ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char some[4096];
  for (ssize_t n; (n = read(ends[0], some, sizeof some)) > 0;) text.append(some, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (status != 0) return std::nullopt;
  return Json::parse(text);
}

// --- One cell

class CellRun {
 public:
  CellRun(const FaultCell& cell, const Arguments& arguments, const Wanted& wanted)
      : cell_(cell), arguments_(arguments), wanted_(wanted) {}

  absl::StatusOr<Json> Run() {
    auto cluster = FaultCluster::Start({.omni = arguments_.omni,
                                        .model = arguments_.model,
                                        .wires = cell_.wires,
                                        .coordinators = cell_.coordinators,
                                        .etcd_members = cell_.etcd_members});
    if (!cluster.ok()) return cluster.status();
    for (const char* key :
         {"answers", "tokens", "failed", "different", "reconnects", "unsettled", "ended_unasked"})
      out_[key] = 0;
    for (const char* key :
         {"detections_ms", "next_tokens_ms", "longest_gaps_ms", "gaps_after_ms", "between_tokens_ms"})
      out_[key] = Json::array();
    for (int i = 0; i < arguments_.repetitions; ++i) {
      if (absl::Status s = Repeat(**cluster, i); !s.ok())
        return absl::Status(s.code(),
                            absl::StrCat("repetition ", i, ": ", s.message(), "\n", (*cluster)->Logs()));
    }
    out_["left_processes"] = (*cluster)->End();
    if (out_["left_processes"] != 0 || arguments_.logs) std::fputs((*cluster)->Logs().c_str(), stderr);
    return out_;
  }

 private:
  absl::Status Repeat(FaultCluster& cluster, int repetition) {
    Turn turn{repetition, FaultCluster::kWorkers[repetition % 2], FaultCluster::kWorkers[1 - repetition % 2]};
    if (cell_.name == "standby" || cell_.name == "coordinator-killed") {
      const absl::StatusOr<std::string> leader = cluster.Leader();
      if (!leader.ok()) return leader.status();
      turn.victim = *leader;
      turn.other = *leader == "a" && cell_.coordinators > 1 ? "b" : "a";
    }
    Load load(wanted_, cell_.tokens);
    std::vector<std::unique_ptr<ClusterClient>> clients;
    for (int s = 0; s < kSessions; ++s) clients.push_back(cluster.Client());
    load.Start(std::move(clients));
    load.AwaitUnderWay();
    std::optional<Mover> mover;
    if (arguments_.moving) mover.emplace(cluster.Client(), kRegions);
    absl::Status s = cell_.prepare != nullptr ? cell_.prepare(cluster, turn) : absl::OkStatus();
    if (!s.ok()) return s;
    // Anywhere in a token, and under moves with some of them behind it.
    const int64_t most = arguments_.moving ? 100'000 : 10'000;
    std::this_thread::sleep_for(
        std::chrono::microseconds(std::uniform_int_distribution<int64_t>(0, most)(random_)));
    const auto struck = std::chrono::system_clock::now();
    load.Strike();
    if (s = cell_.strike(cluster, turn); !s.ok()) return s;
    std::this_thread::sleep_for(arguments_.brief ? std::min(cell_.lasts, kBriefly) : cell_.lasts);
    if (s = cell_.mend(cluster, turn); !s.ok()) return s;
    load.Finish();
    mover.reset();
    if (s = cluster.AwaitSettled(); !s.ok()) {
      std::fprintf(stderr, "%s, repetition %d: %s\n%s\n", cell_.name.c_str(), repetition,
                   s.ToString().c_str(), cluster.Logs().c_str());
      Count("unsettled", 1);
    }
    for (const std::string& name : cluster.EndedUnasked()) {
      std::fprintf(stderr, "%s, repetition %d: node %s has ended\n", cell_.name.c_str(), repetition,
                   name.c_str());
      Count("ended_unasked", 1);
      if (s = cluster.StartNode(name); !s.ok()) return s;
    }
    Note(load.seen(), repetition);
    if (!cell_.noticed.empty()) {
      const absl::StatusOr<std::string> leader = cluster.Leader();
      const double after = leader.ok() ? cluster.MillisUntil(*leader, cell_.noticed, struck) : -1;
      if (after >= 0) out_["detections_ms"].push_back(after);
    }
    return absl::OkStatus();
  }

  void Note(const Load::Seen& seen, int repetition) {
    Count("answers", seen.answers);
    Count("tokens", seen.tokens);
    Count("failed", seen.failed);
    Count("different", seen.different);
    Count("reconnects", seen.reconnects);
    out_["next_tokens_ms"].push_back(seen.next_token_ms);
    out_["longest_gaps_ms"].push_back(seen.longest_gap_ms);
    out_["gaps_after_ms"].push_back(seen.gap_after_ms);
    std::vector<double> before = seen.before_ms;
    std::sort(before.begin(), before.end());
    if (!before.empty()) out_["between_tokens_ms"].push_back(before[before.size() / 2]);
    if (!seen.first_wrong.empty()) {
      std::fprintf(stderr, "%s, repetition %d: %s\n", cell_.name.c_str(), repetition,
                   seen.first_wrong.c_str());
    }
  }
  void Count(const char* key, int64_t more) { out_[key] = out_[key].get<int64_t>() + more; }

  const FaultCell& cell_;
  const Arguments& arguments_;
  const Wanted& wanted_;
  std::minstd_rand random_{1};
  Json out_;
};

// --- The matrix

std::string CaseName(const FaultCell& cell, bool moving) { return cell.name + (moving ? "-moving" : ""); }

const FaultCell* CellOf(std::string name) {
  if (name.ends_with("-moving")) name.resize(name.size() - std::string_view("-moving").size());
  for (const FaultCell& cell : FaultCells()) {
    if (cell.name == name) return &cell;
  }
  return nullptr;
}

std::optional<double> At(const Json& values, double share) {
  std::vector<double> sorted = values.get<std::vector<double>>();
  if (sorted.empty()) return std::nullopt;
  std::sort(sorted.begin(), sorted.end());
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * static_cast<double>(sorted.size())))];
}

void Summarise(Json& cell) {
  for (const auto& [values, name] :
       {std::pair("detections_ms", "detection"), std::pair("next_tokens_ms", "next"),
        std::pair("longest_gaps_ms", "gap")}) {
    if (cell[values].empty()) continue;
    cell[absl::StrCat(name, "_median_ms")] = *At(cell[values], 0.5);
    cell[absl::StrCat(name, "_worst_ms")] = *At(cell[values], 1);
  }
  cell["repetitions"] = cell["next_tokens_ms"].size();
  cell["noticed"] = cell["detections_ms"].size();
  cell["token_median_ms"] = At(cell["between_tokens_ms"], 0.5).value_or(0);
}

// Joins what was measured of the same cell in several runs.
void Add(std::vector<Json>& cells, const Json& cell) {
  for (Json& known : cells) {
    if (known["case"] != cell["case"]) continue;
    for (const auto& [key, value] : cell.items()) {
      if (value.is_array()) {
        known[key].insert(known[key].end(), value.begin(), value.end());
      } else if (value.is_number_integer()) {
        known[key] = known[key].get<int64_t>() + value.get<int64_t>();
      }
    }
    return;
  }
  cells.push_back(cell);
}

// What must be none of: answers that failed or were not those of one process, times that the cluster did not
// come to rest again, nodes that ended unasked, processes that were left or did not end well.
constexpr const char* kWrong[] = {"failed", "different", "unsettled", "ended_unasked", "left_processes"};

// What must not be, of a cell; empty: all is well.
std::string Wrong(const Json& cell, bool bars) {
  std::string wrong;
  for (const char* key : kWrong) {
    if (cell[key] != 0) absl::StrAppend(&wrong, wrong.empty() ? "" : ", ", key, " ", cell[key].dump());
  }
  const FaultCell* kind = CellOf(cell["case"]);
  if (!bars || kind == nullptr || kind->name != cell["case"]) return wrong;
  for (const auto& [bar, key] : {std::pair(kind->next_token_bar_ms, "next_worst_ms"),
                                 std::pair(kind->longest_gap_bar_ms, "gap_worst_ms")}) {
    if (bar > 0 && cell[key].get<double>() > bar)
      absl::StrAppend(&wrong, wrong.empty() ? "" : ", ", key, " beyond ", bar);
  }
  return wrong;
}

void PrintTable(const std::vector<Json>& cells) {
  std::printf("%-34s %5s %8s %7s %17s %17s %17s\n", "cell", "times", "answers", "wrong", "noticed, ms",
              "next token, ms", "longest gap, ms");
  for (const Json& cell : cells) {
    const auto both = [&](const std::string& name) -> std::string {
      char text[64] = "-";
      if (cell.contains(name + "_worst_ms")) {
        std::snprintf(text, sizeof text, "%.1f / %.1f", cell[name + "_median_ms"].get<double>(),
                      cell[name + "_worst_ms"].get<double>());
      }
      return text;
    };
    std::printf("%-34s %5d %8d %7d %17s %17s %17s\n", cell["case"].get<std::string>().c_str(),
                cell["repetitions"].get<int>(), cell["answers"].get<int>(),
                cell["different"].get<int>() + cell["failed"].get<int>(), both("detection").c_str(),
                both("next").c_str(), both("gap").c_str());
  }
}

int Report(std::vector<Json> cells, const Arguments& arguments, bool complete) {
  Json out = {{"answers", 0}, {"tokens", 0}, {"wrong", 0}, {"cells", Json::array()}};
  const auto add = [&](const char* key, const Json& more) {
    out[key] = out[key].get<int64_t>() + more.get<int64_t>();
  };
  bool well = complete;
  for (Json& cell : cells) {
    Summarise(cell);
    if (const std::string wrong = Wrong(cell, arguments.bars); !wrong.empty()) {
      std::fprintf(stderr, "swarm_matrix: %s: %s\n", cell["case"].get<std::string>().c_str(), wrong.c_str());
      well = false;
    }
    add("answers", cell["answers"]);
    add("tokens", cell["tokens"]);
    for (const char* key : kWrong) add("wrong", cell[key]);
    out["cells"].push_back(cell);
  }
  if (arguments.json) {
    std::printf("%s\n", out.dump().c_str());
  } else {
    PrintTable(cells);
  }
  return well ? 0 : 1;
}

int Merge(const Arguments& arguments) {
  std::vector<Json> cells;
  for (const std::string& path : arguments.merge) {
    std::ifstream in(path);
    const Json read = Json::parse(in, nullptr, false);
    if (!read.is_object() || !read.contains("cells")) {
      std::fprintf(stderr, "swarm_matrix: %s is no output of swarm_matrix --json\n", path.c_str());
      return 1;
    }
    for (const Json& cell : read["cells"]) Add(cells, cell);
  }
  return Report(std::move(cells), arguments, true);
}

int Measure(const Arguments& arguments) {
  std::string why = testing::Network::WhyNot();
  const auto reference = InAnotherProcess([&]() -> std::optional<Json> {
    if (!why.empty()) return Json::array();
    const auto wanted = WantedOf(arguments.model, kMostTokens);
    if (wanted.ok()) return *wanted;
    std::fprintf(stderr, "swarm_matrix: %s\n", wanted.status().ToString().c_str());
    return std::nullopt;
  });
  if (!reference.has_value()) return 1;
  const Wanted wanted = reference->get<Wanted>();
  std::vector<Json> cells;
  bool complete = true;
  for (const FaultCell& cell : FaultCells()) {
    if (!arguments.cells.empty() &&
        std::find(arguments.cells.begin(), arguments.cells.end(), cell.name) == arguments.cells.end())
      continue;
    std::string why_not = why;
    if (why_not.empty() && cell.etcd_members > 0) why_not = testing::EtcdCluster::WhyNot();
    if (!why_not.empty()) {
      std::fprintf(stderr, "swarm_matrix: SKIPPED: %s: %s\n", cell.name.c_str(), why_not.c_str());
      continue;
    }
    std::fprintf(stderr, "swarm_matrix: %s: %s\n", CaseName(cell, arguments.moving).c_str(),
                 cell.title.c_str());
    const std::optional<Json> measured = InAnotherProcess([&]() -> std::optional<Json> {
      absl::StatusOr<Json> out = CellRun(cell, arguments, wanted).Run();
      if (out.ok()) return *out;
      std::fprintf(stderr, "swarm_matrix: %s: %s\n", cell.name.c_str(), out.status().ToString().c_str());
      return std::nullopt;
    });
    if (!measured.has_value()) {
      complete = false;
      continue;
    }
    Json named = {{"case", CaseName(cell, arguments.moving)}};
    named.update(*measured);
    cells.push_back(std::move(named));
  }
  if (cells.empty() && complete) return kSkipped;
  return Report(std::move(cells), arguments, complete);
}

}  // namespace
}  // namespace omni::bench

int main(int argc, char** argv) {
  using namespace omni::bench;
  CLI::App app("What becomes of a cluster under faults of its processes and its network");
  Arguments arguments;
  std::string names;
  for (const FaultCell& cell : FaultCells()) absl::StrAppend(&names, names.empty() ? "" : ", ", cell.name);
  app.add_option("-m", arguments.model, "the model");
  app.add_option("--omni", arguments.omni, "the program");
  app.add_option("--cells", arguments.cells, "which, of " + names)->delimiter(',');
  app.add_option("--repetitions", arguments.repetitions, "of each");
  app.add_flag("--moving", arguments.moving, "and regions are moved to and fro meanwhile");
  app.add_flag("--brief", arguments.brief,
               "no fault lasts longer than 300 ms: a test of the machinery, no figures");
  app.add_flag("--bars", arguments.bars, "what takes longer than it may is a failure");
  app.add_flag("--logs", arguments.logs, "print what the nodes logged to stderr");
  app.add_option("--merge", arguments.merge, "print these runs' JSON as that of one");
  app.add_flag("--json", arguments.json, "print JSON");
  CLI11_PARSE(app, argc, argv);
  if (!arguments.merge.empty()) return Merge(arguments);
  for (const std::string& name : arguments.cells) {
    if (CellOf(name) != nullptr) continue;
    std::fprintf(stderr, "swarm_matrix: there is no cell '%s'; there are: %s\n", name.c_str(), names.c_str());
    return 2;
  }
  if (arguments.model.empty() || arguments.omni.empty()) {
    std::fprintf(stderr, "swarm_matrix: it wants -m MODEL and --omni PROGRAM\n");
    return 2;
  }
  return Measure(arguments);
}
