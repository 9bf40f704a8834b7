#include "engine/train/train_main.h"

#include <malloc.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "engine/train/trainer.h"
#include "kernels/cpu.h"

namespace omni {
namespace {

// Defaults of the two training presets; every one can be overridden by a flag.
void ApplyPreset(const std::string& preset, train::TrainSettings& s) {
  s.lr = 8e-3;
  s.lr_end = 0.02;
  s.batch = 16;
  s.expert_every = 4;
  if (preset == "char") {
    s.steps = 3800;
    s.shared_steps = 2940;
    s.cooldown = 0.7;
    s.dropout = 0.15;
    s.save_every = 400;
  } else {
    s.steps = 8400;
    s.shared_steps = 6400;
    s.cooldown = 0.62;
    s.smoothness = 0.003;
    s.reset_every = 200;
    s.save_every = 400;
    s.init.gamma_max = 0.9f;
  }
}

// OpenBLAS and ATen choose their kernels when they are loaded, and take newer AVX-512 machines for older
// ones; idle OpenMP threads would spin. All three are told by environment, so the program starts itself once
// more with it.
void TuneLibraries(char** argv) {
  if (std::getenv("OMNI_TRAIN_TUNED")) return;
  const kernels::Cpu& cpu = kernels::ThisCpu();
  if (cpu.keeps_zmm && cpu.avx512f && cpu.avx512bw && cpu.avx512dq) {
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
    setenv("ATEN_CPU_CAPABILITY", "avx512", 0);
  }
  setenv("GOMP_SPINCOUNT", "0", 0);
  setenv("OMNI_TRAIN_TUNED", "1", 1);
  execv("/proc/self/exe", argv);  // if this fails, the run is only slower
}

std::string Quote(int argc, char** argv) {
  std::string out;
  for (int i = 0; i < argc; ++i) out += (i ? " " : "") + std::string(argv[i]);
  return out;
}

}  // namespace

int TrainMain(int argc, char** argv) {
  TuneLibraries(argv);
  // Large tensors are made and freed every step: keep them out of mmap.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2047 << 20);
  train::TrainSettings s;
  s.command = Quote(argc, argv);
  std::string preset = "books";
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string(argv[i]) == "--preset") preset = argv[i + 1];
  }
  ApplyPreset(preset, s);
  const auto config = Preset(preset == "books" ? "mini" : preset);
  if (!config.ok()) {
    std::fprintf(stderr, "omni train: --preset %s: use char, books, or a model preset (%s)\n", preset.c_str(),
                 std::string(config.status().message()).c_str());
    return 2;
  }
  s.config = *config;
  CLI::App app{"omni train: trains a PERSPECTIVE model on text", "omni train"};
  app.footer(
      "Examples:\n  omni train --preset char --data input.txt --holdout 0.1 --out runs/char\n"
      "  omni train --preset books --data books/ --valid valid.txt.xz --out runs/books --steps 4000\n"
      "  omni train --preset books --data books/ --out runs/books --resume");
  std::vector<int64_t> lattice(s.config.lattice.begin(), s.config.lattice.end());
  std::vector<int64_t> region(s.config.region.begin(), s.config.region.end());
  app.add_option("--preset", preset, "char, books, or a model preset")->envname("OMNI_PRESET");
  app.add_option("--data", s.data, "text files (.txt, .xz) or folders of them")->required();
  app.add_option("--valid", s.valid, "validation files or folders");
  app.add_option("--holdout", s.holdout, "last share of the corpus, never trained on")
      ->check(CLI::Range(0.0, 0.9));
  app.add_option("--tune", s.tune, "last share of the training part, validated on instead")
      ->check(CLI::Range(0.0, 0.9));
  app.add_option("--out", s.out, "run directory: checkpoint/, log.jsonl")->required();
  app.add_flag("--resume", s.resume, "go on from the run directory's checkpoint");
  app.add_option("--start", s.start, "begin with these weights: start.safetensors of a checkpoint");
  app.add_option("--skip-steps", s.skip_steps,
                 "pass over the text of that many steps, seen by an earlier run")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  app.add_option("--tokenizer", s.tokenizer, "use this tokenizer file instead of learning one");
  app.add_option("--steps", s.steps, "optimiser steps")->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option("--stop-at", s.stop_at, "end after this step (the schedule still spans --steps)");
  app.add_option("--batch", s.batch, "parallel sequences")->check(CLI::Range(1, 65536));
  app.add_option("--seq", s.tokens, "tokens per segment (multiple of 16)")->check(CLI::Range(16, 65536));
  app.add_option("--memory", s.memory, "earlier positions attention sees")->check(CLI::Range(0, 65536));
  app.add_option("--lr", s.lr, "peak learning rate")->check(CLI::Range(1e-8, 1.0));
  app.add_option("--lr-end", s.lr_end, "share of it at the end")->check(CLI::Range(0.0, 1.0));
  app.add_option("--warmup", s.warmup, "warm-up steps")->check(CLI::Range(0, 1 << 30));
  app.add_option("--weight-decay", s.weight_decay, "AdamW's decay of matrices")->check(CLI::Range(0.0, 10.0));
  app.add_option("--matrices", s.matrices, "what updates matrices: muon or adamw")
      ->transform(CLI::CheckedTransformer(std::map<std::string, train::MatrixRule>{
          {"muon", train::MatrixRule::kMuon}, {"adamw", train::MatrixRule::kAdamW}}));
  app.add_option("--momentum", s.momentum, "Muon's")->check(CLI::Range(0.0, 0.9999));
  app.add_option("--beta2", s.beta2, "AdamW's second decay")->check(CLI::Range(0.0, 0.99999));
  app.add_option("--clip", s.clip, "gradient norm limit, 0: off")->check(CLI::Range(0.0, 1e9));
  app.add_option("--dropout", s.dropout, "on embeddings and residual branches")->check(CLI::Range(0.0, 0.9));
  app.add_option("--balance", s.balance, "weight of the balance loss")->check(CLI::Range(0.0, 10.0));
  app.add_option("--smoothness", s.smoothness, "weight of the routing smoothness loss")
      ->check(CLI::Range(0.0, 10.0));
  app.add_option("--shared-steps", s.shared_steps, "first steps, in which all experts are one");
  app.add_option("--expert-every", s.expert_every, "steps that make one update of the parted experts")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--cooldown", s.cooldown, "0: cosine; else constant rate, linear over this last share")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--reset-every", s.reset_every,
                 "segments after which a sequence starts over with zero state");
  app.add_option("--gamma-min", s.init.gamma_min, "initial decay of the first dimension")
      ->check(CLI::Range(0.01, 0.9999));
  app.add_option("--gamma-max", s.init.gamma_max, "and of the last")->check(CLI::Range(0.01, 0.9999));
  app.add_option("--eval-every", s.eval_every, "steps between validations, 0: never");
  app.add_option("--eval-tokens", s.eval_tokens, "tokens of a running validation");
  app.add_option("--save-every", s.save_every, "steps between checkpoints, 0: only at the end");
  app.add_flag("--plot", s.plot, "draw the loss curve into RUN/plot.svg");
  app.add_option("--seed", s.init.seed, "of everything random");
  app.add_option("-t,--threads", s.threads, "0: all cores")
      ->check(CLI::Range(0, 1024))
      ->envname("OMNI_THREADS");
  app.add_option("--layers", s.config.layers);
  app.add_option("--width", s.config.d, "model width d");
  app.add_option("--rank", s.config.r, "recurrent rank r");
  app.add_option("--ffn", s.config.f, "FFN width f");
  app.add_option("--heads", s.config.heads);
  app.add_option("--kv-heads", s.config.kv_heads);
  app.add_option("--window", s.config.window, "attention window");
  app.add_option("--vocab", s.config.vocab);
  app.add_option("--own", s.config.own_neurons, "neurons of an expert that are not its region's");
  app.add_option("--lattice", lattice, "experts along the three axes")->expected(3)->delimiter(',');
  app.add_option("--region", region, "experts of a region along the three axes")->expected(3)->delimiter(',');
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  std::copy(lattice.begin(), lattice.end(), s.config.lattice.begin());
  std::copy(region.begin(), region.end(), s.config.region.begin());
  if (s.tokens % 16 != 0) {
    std::fprintf(stderr, "omni train: --seq %ld: must be a multiple of 16\n", s.tokens);
    return 2;
  }
  if (s.memory > s.config.window - 1) s.memory = s.config.window - 1;
  const absl::Status status = train::Train(s);
  if (!status.ok()) {
    std::fprintf(stderr, "omni train: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}

}  // namespace omni

int main(int argc, char** argv) { return omni::TrainMain(argc, argv); }
