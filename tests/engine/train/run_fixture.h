// Short training runs in a folder of their own.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/train/trainer.h"
#include "tests/testing/temp_dir.h"

namespace omni::train {

class TrainRun : public ::testing::Test {
 protected:
  TrainRun() {
    std::ofstream text(Path("text.txt"));
    uint64_t x = 1;
    for (int i = 0; i < 3000; ++i) {  // words from a small grammar: something to learn
      x = x * 6364136223846793005ULL + 1442695040888963407ULL;
      static const char* const kWords[] = {"torus ", "expert ", "decay ", "state ", "layer ", "route.\n"};
      text << kWords[(x >> 33) % 6];
    }
  }

  TrainSettings Small(const std::string& out) const {
    TrainSettings s;
    s.config = *Preset("tiny");
    s.config.vocab = 300;
    s.config.lattice = {4, 2, 2};
    s.data = {Path("text.txt")};
    s.out = Path(out);
    s.steps = 12;
    s.batch = 4;
    s.tokens = 32;
    s.memory = 15;
    s.warmup = 4;
    s.dropout = 0.1;
    s.smoothness = 0.01;
    s.shared_steps = 5;
    s.reset_every = 3;
    s.threads = 1;
    return s;
  }
  // Small with routes of that kind and all four groups of neurons, which part one after another.
  TrainSettings SmallRouted(const std::string& out, RouteFrom kind) const {
    TrainSettings s = Small(out);
    s.config.route_from = kind;
    if (kind != RouteFrom::kToken) s.config.slow_rate = 0.25f;
    s.config.route_bias = true;
    s.config.f = 256;
    s.config.base_neurons = s.config.member_neurons = s.config.own_neurons = 64;
    s.expert_every = 2;
    s.part_region = 2;
    s.part_member = 4;
    s.part_own = 8;
    s.balance = 0;
    s.balance_tokens = 500;
    s.router_lr = 0.03;
    s.router_clip = 1;
    return s;
  }
  std::string Path(const std::string& name) const { return temp_ / name; }
  static std::string Bytes(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  static std::string Weights(const TrainSettings& s) {
    return Bytes(std::filesystem::path(s.out) / "checkpoint/model.safetensors");
  }
  static std::string Problem(const TrainSettings& s) { return std::string(Train(s).message()); }
  static std::vector<nlohmann::json> Log(const TrainSettings& s) {
    std::vector<nlohmann::json> lines;
    std::ifstream in(std::filesystem::path(s.out) / "log.jsonl");
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

 private:
  testing::TempDir temp_;
};

}  // namespace omni::train
