#include "store/cache/routing_trace.h"

#include <array>
#include <charconv>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "engine/base/quoted.h"
#include "engine/base/replace_file.h"
#include "engine/base/splitmix.h"
#include "store/file/files.h"
#include "store/format/torus.h"

namespace omni {
namespace {

constexpr char kHeader[] = "omni-routes 1";
constexpr int64_t kMaxBytes = int64_t{1} << 30;
constexpr int64_t kMaxLayers = 1024, kMaxExperts = 65536;  // of a valid config

// The lines of a text and the numbers in a line, one after another. Errors name the line.
class Reader {
 public:
  Reader(std::string_view text, const std::string& name) : rest_(text), name_(name) {}

  bool NextLine() {
    if (rest_.empty()) return false;
    ++number_;
    const size_t end = rest_.find('\n');
    unended_ = end == std::string_view::npos;
    line_ = rest_.substr(0, end);
    rest_.remove_prefix(unended_ ? rest_.size() : end + 1);
    return true;
  }
  std::string_view line() const { return line_; }
  bool unended() const { return unended_; }

  absl::Status Error(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ":", number_, ": ", what));
  }
  absl::Status Take(std::string_view word) {
    if (line_.substr(0, word.size()) != word) {
      return Error(absl::StrCat("should begin with '", absl::string_view(word.data(), word.size()), "'"));
    }
    line_.remove_prefix(word.size());
    return absl::OkStatus();
  }
  // All of the line's numbers, each in [low, high]: decimal, one space between.
  absl::Status Numbers(int64_t low, int64_t high, std::vector<int64_t>* out) {
    out->clear();
    for (;;) {
      int64_t value = 0;
      const char* end = line_.data() + line_.size();
      const auto [at, error] = std::from_chars(line_.data(), end, value);
      const bool canonical = error == std::errc() && (*line_.data() != '0' || at == line_.data() + 1);
      if (!canonical || value < low || value > high || (at != end && *at != ' ')) {
        const std::string_view word = line_.substr(0, line_.find(' '));
        return Error(absl::StrCat(Quoted(std::string(word)), " is no number from ", low, " to ", high));
      }
      out->push_back(value);
      if (at == end) return absl::OkStatus();
      line_.remove_prefix(static_cast<size_t>(at - line_.data()) + 1);
    }
  }

 private:
  std::string_view rest_, line_;
  const std::string& name_;
  int64_t number_ = 0;
  bool unended_ = false;
};

}  // namespace

RoutingTrace EmptyTrace(const ModelConfig& config) {
  RoutingTrace trace;
  trace.lattice = config.lattice;
  for (int64_t l = 0; l < config.layers; ++l) {
    if (!config.IsAttention(l)) trace.layers.push_back(l);
  }
  return trace;
}

RoutingTrace DrawTrace(const ModelConfig& config, int64_t tokens, uint64_t seed) {
  RoutingTrace trace = EmptyTrace(config);
  const int64_t experts = config.num_experts(), places = trace.places();
  constexpr double kUpTo[] = {0.3, 0.7, 0.85, 1.0};
  // By expert and class (distance 0, 1, 2, more): the experts of that class.
  std::vector<std::array<std::vector<uint16_t>, 4>> classes(static_cast<size_t>(experts));
  for (int64_t from = 0; from < experts; ++from) {
    for (int64_t to = 0; to < experts; ++to) {
      const auto distance = static_cast<size_t>(std::min<int64_t>(TorusDistance(config, from, to), 3));
      classes[static_cast<size_t>(from)][distance].push_back(static_cast<uint16_t>(to));
    }
  }
  const auto pick = [](double uniform, size_t n) {
    return static_cast<size_t>(uniform * static_cast<double>(n));
  };
  trace.experts.resize(static_cast<size_t>(tokens * places));
  for (size_t i = 0; i < trace.experts.size(); ++i) {
    const double which = CounterUniform(seed, 2 * i), member = CounterUniform(seed, 2 * i + 1);
    if (i < static_cast<size_t>(places)) {
      trace.experts[i] = static_cast<uint16_t>(pick(member, static_cast<size_t>(experts)));
      continue;
    }
    const uint16_t last = trace.experts[i - static_cast<size_t>(places)];
    size_t distance = 0;
    while (which >= kUpTo[distance]) ++distance;
    const std::vector<uint16_t>& members = classes[last][distance];
    trace.experts[i] = members.empty() ? last : members[pick(member, members.size())];
  }
  return trace;
}

std::string FormatTrace(const RoutingTrace& trace) {
  std::string text = absl::StrCat(kHeader, "\nlattice ", absl::StrJoin(trace.lattice, " "), "\nlayers ",
                                  absl::StrJoin(trace.layers, " "), "\n");
  for (int64_t t = 0; t < trace.tokens(); ++t) {
    for (int64_t p = 0; p < trace.places(); ++p) absl::StrAppend(&text, p == 0 ? "" : " ", trace.At(t, p));
    text += '\n';
  }
  return text;
}

absl::StatusOr<RoutingTrace> ParseTrace(std::string_view text, const std::string& name) {
  Reader reader(text, name);
  RoutingTrace trace;
  std::vector<int64_t> numbers;
  if (!reader.NextLine() || reader.line() != kHeader) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ":1: should be '", kHeader, "'; it is no routes file of this version"));
  }
  if (!reader.NextLine()) return reader.Error("ends here; a line 'lattice X Y Z' should follow");
  if (absl::Status s = reader.Take("lattice "); !s.ok()) return s;
  if (absl::Status s = reader.Numbers(1, kMaxExperts, &numbers); !s.ok()) return s;
  if (numbers.size() != 3 || numbers[0] * numbers[1] > kMaxExperts ||
      numbers[0] * numbers[1] * numbers[2] > kMaxExperts) {
    return reader.Error(absl::StrCat("should have three edges whose product is at most ", kMaxExperts));
  }
  std::copy(numbers.begin(), numbers.end(), trace.lattice.begin());
  const int64_t experts = numbers[0] * numbers[1] * numbers[2];
  if (!reader.NextLine()) return reader.Error("ends here; a line 'layers L ...' should follow");
  if (absl::Status s = reader.Take("layers "); !s.ok()) return s;
  if (absl::Status s = reader.Numbers(0, kMaxLayers - 1, &trace.layers); !s.ok()) return s;
  for (size_t i = 1; i < trace.layers.size(); ++i) {
    if (trace.layers[i] <= trace.layers[i - 1]) return reader.Error("layers should ascend");
  }
  while (reader.NextLine()) {
    if (absl::Status s = reader.Numbers(0, experts - 1, &numbers); !s.ok()) return s;
    if (numbers.size() != trace.layers.size()) {
      return reader.Error(absl::StrCat("has ", numbers.size(), " experts, should have ", trace.layers.size(),
                                       ", one for each layer"));
    }
    trace.experts.insert(trace.experts.end(), numbers.begin(), numbers.end());
  }
  if (reader.unended()) return reader.Error("the line is cut off: there is no line feed at its end");
  return trace;
}

absl::Status SaveTrace(const RoutingTrace& trace, const std::string& path) {
  return WriteOutput(path, FormatTrace(trace));
}

absl::StatusOr<RoutingTrace> LoadTrace(const std::string& path) {
  absl::StatusOr<std::string> text = ReadText(path, kMaxBytes);
  if (!text.ok()) return text.status();
  return ParseTrace(*text, path);
}

absl::Status CheckTrace(const RoutingTrace& trace, const ModelConfig& config, const std::string& name) {
  const RoutingTrace want = EmptyTrace(config);
  if (trace.lattice == want.lattice && trace.layers == want.layers) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": is of a model with lattice ", absl::StrJoin(trace.lattice, "x"), " and ",
                   trace.layers.size(), " expert layers, not of this one with ",
                   absl::StrJoin(want.lattice, "x"), " and ", want.layers.size()));
}

}  // namespace omni
