// docs/formats.md once more as code: a reader of model directories written from the page alone. No header of
// the product; RocksDB, the JSON parser and XXH3 are the libraries themselves. Slow, and for small models: it
// holds every tile of every expert.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/docs/page_arithmetic.h"

namespace omni::page {

struct Config {
  int64_t layers, attention_period, d, r, f, heads, kv_heads, window, vocab, state_norm_period;
  std::array<int64_t, 3> lattice, region;
  bool key_scale, readout_norm;
  float decay_floor;
  double rope_theta;
  std::string route_from = "token";
  float slow_rate = 0;
  bool route_bias = false;

  bool IsAttention(int64_t layer) const { return layer % attention_period == attention_period - 1; }
  int64_t head() const { return d / heads; }
  bool HasSlowState() const { return route_from != "token"; }
  int64_t experts() const { return lattice[0] * lattice[1] * lattice[2]; }
};

// Integer weights, row-major, without padding, and a scale per row.
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<int8_t> weights;
  Floats scale;
};

class ModelFiles {
 public:
  // Reads and checks every byte. Throws std::runtime_error that says what is not as the page has it.
  explicit ModelFiles(const std::string& dir);

  const Config& config() const { return config_; }
  const std::string& model_hash() const { return model_hash_; }
  const std::string& tokenizer() const { return tokenizer_; }  // the file's bytes
  const Matrix& matrix(const std::string& name) const { return matrices_.at(name); }
  const Floats& floats(const std::string& name) const { return floats_.at(name); }
  const std::string& bytes(const std::string& name) const { return bytes_.at(name); }
  ExpertNeurons Expert(int64_t layer, int64_t expert) const;
  // How many tiles of all tables are listed in each way: in whole tables; in deltas as the keyframe's, as
  // another one stored, as trits scattered over the keyframe's.
  struct TileCounts {
    int64_t whole = 0, unchanged = 0, stored = 0, scattered = 0;
  };
  const TileCounts& tile_counts() const { return counts_; }

 private:
  void ReadManifests(const std::string& dir);
  void ReadShared(const std::string& bytes);
  void ReadPack(const std::string& bytes);
  void ReadTables(const std::string& dir);
  int64_t KeyframeOf(int64_t expert) const;
  int64_t Payload() const;

  Config config_;
  std::string model_hash_, delta_digest_, tokenizer_, shared_;
  int64_t delta_keys_ = 0;
  std::map<std::string, Matrix> matrices_;
  std::map<std::string, Floats> floats_;
  std::map<std::string, std::string> bytes_;
  std::vector<std::string> packs_;
  std::map<std::pair<int64_t, int64_t>, std::vector<std::string>> tiles_;  // by layer and expert
  TileCounts counts_;
};

}  // namespace omni::page
