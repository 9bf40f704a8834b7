#include "engine/train/flags.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <type_traits>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>
#include <CLI/CLI.hpp>

namespace omni::train {
namespace {

using Words = std::vector<std::string>;

// What is wrong with the value; empty if nothing is.
template <typename T>
std::string ReadNumber(const std::string& text, T low, T high, const char* kind, T* out) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  bool good = error == std::errc() && at == end;
  if constexpr (std::is_floating_point_v<T>) good = good && std::isfinite(value);
  if (!good || value < low || value > high) {
    return absl::StrCat("'", text, "' is not ", kind, " from ", low, " to ", high);
  }
  *out = value;
  return {};
}

// Flags in the order they are shown. A value is checked and stored by the same function, wherever it is from.
class Flags {
 public:
  Flags(CLI::App& app, std::set<std::string>& chosen) : app_(app), chosen_(chosen) {}

  void Text(const std::string& names, std::string& value, const char* type, const std::string& help) {
    Add(names, type, help, [&value](const Words& words) {
      value = words[0];
      return std::string();
    });
  }
  // One or more after the flag; of the environment always one.
  void Paths(const std::string& names, std::vector<std::string>& value, const std::string& help) {
    CLI::Option* option = Add(names, "PATH", help, [&value](const Words& words) {
      value = words;
      return std::string();
    });
    // Without the parser's own "vector options", which would take '[a,b]' apart.
    option->expected(1, 1 << 20);
    entries_.back().many = true;
  }
  template <typename Int>
  void Number(const std::string& names, Int& value, std::type_identity_t<Int> low,
              std::type_identity_t<Int> high, const std::string& help) {
    Add(names, "N", help, [&value, low, high](const Words& words) {
      return ReadNumber<Int>(words[0], low, high, "a whole number", &value);
    });
  }
  template <typename Float>
  void Real(const std::string& names, Float& value, double low, double high, const std::string& help) {
    Add(names, "X", help, [&value, low, high](const Words& words) {
      double wide = 0;
      const std::string problem = ReadNumber<double>(words[0], low, high, "a number", &wide);
      if (problem.empty()) value = static_cast<Float>(wide);
      return problem;
    });
  }
  void Switch(const std::string& names, bool& value, const std::string& help) {
    CLI::Option* option = app_.add_flag(names, help);
    Register(option, [&value](const Words& words) -> std::string {
      const std::string word = absl::AsciiStrToLower(words[0]);
      const bool on = word == "true" || word == "1" || word == "yes" || word == "on";
      if (!on && word != "false" && word != "0" && word != "no" && word != "off") {
        return absl::StrCat("'", words[0], "' is neither true nor false");
      }
      value = on;
      return {};
    });
    option->type_name(absl::StrCat("(Env:", TwinOf(entries_.back().name), ")"));
  }
  void Preset(const std::string& names, std::string& value, const std::string& help) {
    Add(names, "NAME", help, [&value](const Words& words) -> std::string {
      if (const auto preset = PresetSettings(words[0]); !preset.ok()) {
        return std::string(preset.status().message());
      }
      value = words[0];
      return {};
    });
  }
  // One of two words.
  template <typename Enum>
  void Either(const std::string& names, Enum& value, const char* first, Enum of_first, const char* second,
              Enum of_second, const std::string& help) {
    Add(names, "RULE", help, [&value, first, of_first, second, of_second](const Words& words) -> std::string {
      if (words[0] != first && words[0] != second) {
        return absl::StrCat("'", words[0], "' is neither ", first, " nor ", second);
      }
      value = words[0] == first ? of_first : of_second;
      return {};
    });
  }
  void Routes(const std::string& names, RouteFrom& value, const std::string& help) {
    Add(names, "KIND", help, [&value](const Words& words) -> std::string {
      for (const RouteFrom kind : {RouteFrom::kToken, RouteFrom::kAhead, RouteFrom::kAddress}) {
        if (words[0] != RouteFromName(kind)) continue;
        value = kind;
        return {};
      }
      return absl::StrCat("'", words[0], "' is neither token, ahead nor address");
    });
  }
  // X,Y,Z or three words.
  void Triple(const std::string& names, std::array<int64_t, 3>& value, const std::string& help) {
    CLI::Option* option = Add(names, "X,Y,Z", help, [&value](const Words& words) -> std::string {
      const Words parts = words.size() == 1 ? Words(absl::StrSplit(words[0], ',')) : words;
      std::array<int64_t, 3> read{};
      bool good = parts.size() == 3;
      for (size_t axis = 0; good && axis < 3; ++axis) {
        good = ReadNumber<int64_t>(parts[axis], 1, 65536, "", &read[axis]).empty();
      }
      if (!good) {
        return absl::StrCat("'", absl::StrJoin(words, " "), "' is not three whole numbers from 1 to 65536");
      }
      value = read;
      return {};
    });
    option->expected(1, 3);
    entries_.back().many = true;
  }

  // Stores the flag's value, if it is given anywhere; what is wrong with it, or an empty string.
  std::string Take(const std::string& name, const Environment& environment) {
    for (const Entry& entry : entries_) {
      if (entry.name == name) return Take(entry, environment);
    }
    return {};
  }
  std::string TakeAll(const Environment& environment) {
    for (const Entry& entry : entries_) {
      if (std::string problem = Take(entry, environment); !problem.empty()) return problem;
    }
    return {};
  }

 private:
  struct Entry {
    std::string name;
    CLI::Option* option;
    std::function<std::string(const Words&)> store;
    bool many = false;
  };

  CLI::Option* Add(const std::string& names, const std::string& type, const std::string& help,
                   std::function<std::string(const Words&)> store) {
    CLI::Option* option = app_.add_option(names, CLI::callback_t([](const Words&) { return true; }), help);
    Register(option, std::move(store));
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);  // Take says what is wrong
    return option->type_name(absl::StrCat(type, " (Env:", TwinOf(entries_.back().name), ")"));
  }

  void Register(CLI::Option* option, std::function<std::string(const Words&)> store) {
    entries_.push_back({option->get_lnames().front(), option, std::move(store)});
  }

  std::string Take(const Entry& entry, const Environment& environment) {
    Words words = entry.option->results();
    std::string from = "--" + entry.name;
    if (words.empty()) {
      from = TwinOf(entry.name);
      const char* variable = environment(from);
      if (variable == nullptr || *variable == '\0') return {};
      words = {variable};
    }
    if (words.size() > 1 && !entry.many) {
      return absl::StrCat(from, ": is given ", words.size(), " times; give it once");
    }
    const std::string problem = entry.store(words);
    if (!problem.empty()) return absl::StrCat(from, ": ", problem);
    chosen_.insert(entry.name);
    return {};
  }

  CLI::App& app_;
  std::set<std::string>& chosen_;
  std::vector<Entry> entries_;
};

constexpr int64_t kAny = int64_t{1} << 40;  // more steps or tokens than anybody trains on

void AddFlags(Flags& f, TrainSettings& s) {
  f.Preset("--preset", s.preset, "char, books (default), or a model preset");
  f.Paths("--data", s.data, "text files, plain or .xz, or folders of .txt and .xz files; needed");
  f.Paths("--valid", s.valid, "validation files or folders, used every --eval-every steps");
  f.Real("--holdout", s.holdout, 0, 0.9, "last share of the corpus, never trained on");
  f.Real("--tune", s.tune, 0, 0.9, "last share of the training part, validated on instead of --valid");
  f.Text("--out", s.out, "DIR", "run directory: checkpoint/, log.jsonl; needed");
  f.Switch("--resume", s.resume, "go on from the run directory's checkpoint");
  f.Text("--start", s.start, "FILE", "begin with these weights: start.safetensors of a checkpoint");
  f.Number("--skip-steps", s.skip_steps, 0, kAny,
           "pass over the text of that many steps, seen by an earlier run");
  f.Text("--write-logits", s.write_logits, "FILE",
         "with --resume: instead of training on, write what RUN's checkpoint takes for likely next tokens");
  f.Number("--logits-from", s.logits_from, 0, kAny, "first step of those whose text is written so");
  f.Number("--logits-steps", s.logits_steps, 0, kAny, "how many");
  f.Text("--teacher", s.teacher, "FILE", "learn from such a file, too, at the steps that it has");
  f.Real("--teacher-share", s.teacher_share, 0, 1, "of the loss at these");
  f.Text("--tokenizer", s.tokenizer, "FILE", "use this tokenizer file instead of learning one");
  f.Number("--steps", s.steps, 1, kAny, "optimiser steps");
  f.Number("--stop-at", s.stop_at, 0, kAny, "end after this step (the schedule still spans --steps); 0: off");
  f.Number("--batch", s.batch, 1, 65536, "parallel sequences");
  f.Number("--seq", s.tokens, 16, 65536, "tokens per segment (multiple of 16)");
  f.Either("--stride", s.stride, "plain", Stride::kPlain, "fibonacci", Stride::kFibonacci,
           "which tokens a sequence reads: plain, or at gaps of 1, 1, 2, 3, 5, 8, 13");
  f.Number("--memory", s.memory, 0, 65536, "earlier positions attention sees, at most --window minus 1");
  f.Real("--lr", s.lr, 1e-8, 1, "peak learning rate");
  f.Real("--lr-end", s.lr_end, 0, 1, "share of it at the end");
  f.Number("--warmup", s.warmup, 0, 1 << 30, "warm-up steps");
  f.Real("--weight-decay", s.weight_decay, 0, 10, "AdamW's decay of matrices");
  f.Either("--matrices", s.matrices, "muon", MatrixRule::kMuon, "adamw", MatrixRule::kAdamW,
           "what updates matrices: muon or adamw");
  f.Real("--momentum", s.momentum, 0, 0.9999, "Muon's");
  f.Real("--beta2", s.beta2, 0, 0.99999, "AdamW's second decay");
  f.Real("--clip", s.clip, 0, 1e9, "gradient norm limit, 0: off");
  f.Real("--router-lr", s.router_lr, 0, 10, "share of --lr for routers; 0.03 for routes of format 2, else 1");
  f.Real("--router-clip", s.router_clip, 0, 1e9,
         "limit of the routers' gradient norm, 0: off; 1 for routes of format 2");
  f.Real("--dropout", s.dropout, 0, 0.9, "on embeddings and residual branches");
  f.Real("--balance", s.balance, 0, 10, "weight of the balance loss");
  f.Real("--smoothness", s.smoothness, 0, 10, "weight of the routing smoothness loss");
  f.Real("--balance-rate", s.balance_rate, 0, 1, "of the biases of --route-bias, a step");
  f.Number("--balance-tokens", s.balance_tokens, 1, kAny, "tokens of the moving mean that they follow");
  f.Real("--balance-soft", s.balance_soft, 0, 100,
         "share of the mean load within which a bias moves less, in proportion; 0: off");
  f.Switch("--untaken", s.untaken, "routers learn from the usual output of what they did not choose, too");
  f.Number("--shared-steps", s.shared_steps, 0, kAny, "first steps, in which all experts are one");
  f.Number("--part-region", s.part_region, 0, kAny,
           "first steps, in which all regions' neurons are one; if not given --shared-steps");
  f.Number("--part-member", s.part_member, 0, kAny, "members' neurons, likewise");
  f.Number("--part-own", s.part_own, 0, kAny, "experts' own neurons, likewise");
  f.Number("--expert-every", s.expert_every, 1, 1 << 20,
           "steps that make one update of the parted experts' neurons");
  f.Either("--members", s.members, "frequency", MemberRule::kFrequency, "similar", MemberRule::kSimilar,
           "how tokens are dealt to the members of a region: by frequency alone, or similar ones together");
  f.Real("--use-power", s.use_power, 0, 1,
         "parted neurons' rate: times their share of the tokens to this power, 0: off");
  f.Real("--own-pull", s.own_pull, 0, 1000, "decay of experts' own neurons towards their region's mean");
  f.Real("--part-noise", s.part_noise, 0, 1, "of neurons that part, by the size of their rows");
  f.Real("--cooldown", s.cooldown, 0, 1, "0: cosine; else constant rate, linear over this last share");
  f.Number("--reset-every", s.reset_every, 0, kAny,
           "segments after which a sequence starts over with zero state, 0: never");
  f.Real("--gamma-min", s.init.gamma_min, 0.01, 0.9999, "initial decay of the first dimension");
  f.Real("--gamma-max", s.init.gamma_max, 0.01, 0.9999, "and of the last");
  f.Real("--route-std", s.init.route_std, 0, 10, "of the routers' first weights, times 1/sqrt(width)");
  f.Number("--eval-every", s.eval_every, 0, kAny, "steps between validations, 0: never");
  f.Number("--eval-tokens", s.eval_tokens, 1, kAny, "tokens of a running validation");
  f.Number("--save-every", s.save_every, 0, kAny, "steps between checkpoints, 0: only at the end");
  f.Switch("--plot", s.plot, "draw the loss curve into RUN/plot.svg");
  f.Number("--seed", s.init.seed, 0, std::numeric_limits<uint64_t>::max(), "of everything random");
  f.Number("-t,--threads", s.threads, 0, 1024, "0: one per core that this process may use");
  f.Number("--layers", s.config.layers, 1, 1024, "layers, every fourth with attention");
  f.Number("--width", s.config.d, 2, 65536, "model width d");
  f.Number("--rank", s.config.r, 1, 65536, "recurrent rank r");
  f.Number("--ffn", s.config.f, 1, 1 << 20, "FFN width f");
  f.Number("--heads", s.config.heads, 1, 65536, "attention's query heads");
  f.Number("--kv-heads", s.config.kv_heads, 1, 65536, "attention's key and value heads");
  f.Number("--window", s.config.window, 1, 1 << 20, "attention window");
  f.Number("--vocab", s.config.vocab, 257, 1 << 24, "vocabulary");
  f.Number("--base", s.config.base_neurons, 0, 1 << 20, "neurons that all experts of a layer have");
  f.Number("--member", s.config.member_neurons, 0, 1 << 20,
           "neurons of those at the same place of their regions");
  f.Number("--own", s.config.own_neurons, 0, 1 << 20, "neurons of one expert; the rest is its region's");
  f.Triple("--lattice", s.config.lattice, "experts along the three axes");
  f.Routes("--route-from", s.config.route_from, "what is routed: token, ahead or address");
  f.Real("--slow-rate", s.config.slow_rate, 0, 1, "of the slow state of ahead and address; 0.0625");
  f.Switch("--route-bias", s.config.route_bias, "balance experts by biases; on for ahead and address");
  f.Triple("--region", s.config.region, "experts of a region along the three axes");
}

}  // namespace

std::string TwinOf(const std::string& flag) {
  return "OMNI_" + absl::StrReplaceAll(absl::AsciiStrToUpper(flag), {{"-", "_"}});
}

absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments,
                                             const Environment& environment) {
  CLI::App app("Trains a PERSPECTIVE model on text.", "omni train");
  app.footer(
      "Examples:\n"
      "  omni train --preset char --data input.txt --holdout 0.1 --out runs/char\n"
      "  omni train --data books/ --valid valid.txt.xz --eval-every 400 --out runs/books --steps 4000\n"
      "  omni train --data books/ --out runs/books --steps 4000 --resume\n\n"
      "Ctrl-C ends a run after the step at hand, with a checkpoint.\n"
      "Every flag can be given by its environment variable; the command line wins.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.");
  CommandLine line;
  TrainSettings& s = line.settings;
  std::set<std::string> chosen;
  Flags flags(app, chosen);
  AddFlags(flags, s);
  try {
    app.parse(Words(arguments.rbegin(), arguments.rend()));  // the parser takes them from the back
  } catch (const CLI::CallForHelp&) {
    line.help = app.help();
    return line;
  } catch (const CLI::ArgumentMismatch& e) {  // "--steps: 1 required N missing"
    const std::string what = e.what();
    return absl::InvalidArgumentError(what.substr(0, what.find(':')) + ": needs a value");
  } catch (const CLI::ParseError& e) {
    return absl::InvalidArgumentError(e.what());
  }
  std::string problem = flags.Take("preset", environment);
  if (!problem.empty()) return absl::InvalidArgumentError(problem);
  s = *PresetSettings(s.preset);
  if (problem = flags.TakeAll(environment); !problem.empty()) return absl::InvalidArgumentError(problem);
  if (s.data.empty()) return absl::InvalidArgumentError("--data: is needed: the text to train on");
  if (s.out.empty()) return absl::InvalidArgumentError("--out: is needed: the directory of the run");
  s.chosen = std::move(chosen);
  FollowRoutes(&s);
  s.memory = std::min(s.memory, s.config.window - 1);
  if (absl::Status st = CheckSettings(s); !st.ok()) return st;
  return line;
}

}  // namespace omni::train
