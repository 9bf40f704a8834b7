#include "tests/docs/page_checkpoint.h"

#include <xxhash.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace omni::page {
namespace {

void Require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// The mean of term(0) … term(n − 1) in f64, in the page's shape.
template <typename Term>
double Mean(size_t n, const Term& term) {
  double part[16] = {};
  for (size_t i = 0; i < n; ++i) part[i % 16] += term(i);
  for (size_t m : {8, 4, 2, 1}) {
    for (size_t i = 0; i < m; ++i) part[i] += part[i + m];
  }
  return part[0] / static_cast<double>(n);
}

float MeanMagnitude(const Floats& w) {
  return static_cast<float>(Mean(w.size(), [&](size_t i) { return std::fabs(static_cast<double>(w[i])); }));
}

void Ternary(const Floats& w, float m, std::vector<int8_t>* out) {
  for (float v : w) out->push_back(static_cast<int8_t>((v > m / 2) - (v < -m / 2)));
}

Floats Row(const Floats& matrix, int64_t row, int64_t cols) {
  return Floats(matrix.begin() + row * cols, matrix.begin() + (row + 1) * cols);
}

}  // namespace

CheckpointFiles::CheckpointFiles(const std::string& dir, const Config& config) : config_(config) {
  std::ifstream in(dir + "/model.safetensors", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  uint64_t header_bytes = 0;
  Require(bytes.size() >= 8, "no header");
  std::memcpy(&header_bytes, bytes.data(), 8);
  Require(8 + header_bytes <= bytes.size() && (8 + header_bytes) % 64 == 0, "the data begin elsewhere");
  nlohmann::json header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  if (header.contains("__metadata__") && header["__metadata__"].contains("header_xxh3")) {
    nlohmann::json covered = header;
    covered["__metadata__"].erase("header_xxh3");
    const std::string text = covered.dump();
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx",
                  static_cast<unsigned long long>(XXH3_64bits(text.data(), text.size())));
    Require(header["__metadata__"]["header_xxh3"] == digits, "the header fails its checksum");
  }
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    if (tensor.at("dtype") == "U8") continue;  // members, which are packed as they are
    Require(tensor.at("dtype") == "F32", name + " is not F32");
    const uint64_t begin = tensor.at("data_offsets")[0], end = tensor.at("data_offsets")[1];
    Entry& entry = tensors_[name];
    entry.shape = tensor.at("shape").get<std::vector<int64_t>>();
    entry.values.resize((end - begin) / 4);
    Require(8 + header_bytes + end <= bytes.size(), name + " is cut short");
    std::memcpy(entry.values.data(), bytes.data() + 8 + header_bytes + begin, end - begin);
  }
}

Matrix CheckpointFiles::TwoBit(const std::string& name) const {
  const Entry& t = tensors_.at(name);
  Matrix m{t.shape[0], t.shape[1], {}, {}};
  for (int64_t row = 0; row < m.rows; ++row) {
    const Floats w = Row(t.values, row, m.cols);
    const double mean = Mean(w.size(), [&](size_t i) { return static_cast<double>(w[i]) * w[i]; });
    const float s = static_cast<float>(std::sqrt(mean));
    for (float v : w) m.weights.push_back(static_cast<int8_t>(v < -s ? -3 : v < 0 ? -1 : v < s ? 1 : 3));
    m.scale.push_back(s / 2);
  }
  return m;
}

Matrix CheckpointFiles::Embedding() const {
  const Entry& t = tensors_.at("embed");
  Matrix m{t.shape[0], t.shape[1], {}, {}};
  for (int64_t row = 0; row < m.rows; ++row) {
    const Quantized q = Quantize(Row(t.values, row, m.cols));  // the same rule
    m.weights.insert(m.weights.end(), q.q.begin(), q.q.end());
    m.scale.push_back(q.s);
  }
  return m;
}

ExpertNeurons CheckpointFiles::Expert(int64_t layer, int64_t expert) const {
  const auto& [X, Y, Z] = config_.lattice;
  const auto& [x, y, z] = config_.region;
  const int64_t i = expert % X / x, j = expert / X % Y / y, k = expert / X / Y / z;
  const int64_t region = i + X / x * (j + Y / y * k);
  const int64_t place = expert % X % x + x * (expert / X % Y % y + y * (expert / X / Y % z));
  const std::string p = "layers." + std::to_string(layer) + ".";
  // Each group that is there, with the copy that the expert has.
  struct Group {
    std::string name;
    int64_t copy, first, neurons;
  };
  std::vector<Group> groups;
  int64_t first = 0;
  for (const auto& [name, copy] : std::vector<std::pair<std::string, int64_t>>{
           {"base.", 0}, {"tied.", region}, {"member.", place}, {"own.", expert}}) {
    const auto at = tensors_.find(p + name + "gate");
    if (at == tensors_.end()) continue;
    groups.push_back({p + name, copy, first, at->second.shape[1]});
    first += at->second.shape[1];
  }
  Require(first == config_.f, "the groups have another number of neurons");
  ExpertNeurons out;
  for (int64_t n = 0; n < config_.f; ++n) {
    size_t g = 0;
    while (n >= groups[g].first + groups[g].neurons) ++g;
    const auto part = [&](const char* name) {
      return Row(tensors_.at(groups[g].name + name).values,
                 groups[g].copy * groups[g].neurons + n - groups[g].first, config_.d);
    };
    const Floats gate = part("gate"), up = part("up"), down = part("down");
    const float m_gate = MeanMagnitude(gate), m_up = MeanMagnitude(up), m_down = MeanMagnitude(down);
    Ternary(gate, m_gate, &out.gate);
    Ternary(up, m_up, &out.up);
    Ternary(down, m_down, &out.down);
    out.s_g.push_back(m_gate);
    out.s_u.push_back(m_up * m_down);
  }
  return out;
}

}  // namespace omni::page
