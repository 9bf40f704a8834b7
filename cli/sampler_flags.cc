#include "cli/sampler_flags.h"

#include <random>

namespace omni::cli {

void SamplerFlags::Add(Verb& verb) {
  all_.Add(verb.Real("--temp", sampler_.temperature, kTemperatures,
                     "Temperature; 0 always takes the likeliest (default 0.8)"));
  all_.Add(verb.Number("--top-k", top_k_, {kTopKs.low, kTopKs.high},
                       "Keep the K likeliest tokens; 0: all (default 40)"));
  all_.Add(verb.Real("--top-p", sampler_.top_p, kTopPs,
                     "Keep tokens up to this probability in all; 1: all (default 0.95)"));
  all_.Add(verb.Real("--min-p", sampler_.min_p, kMinPs,
                     "Drop tokens below this share of the likeliest one's probability; 0: none (default)"));
  all_.Add(verb.Real("--repeat-penalty", sampler_.repetition_penalty, kRepetitionPenalties,
                     "Make recent tokens less likely; 1: off (default)"));
  const CLI::Option* repeat_last_n =
      verb.Number("--repeat-last-n", repeat_last_n_, {kRepetitionWindows.low, kRepetitionWindows.high},
                  "How many tokens --repeat-penalty counts as recent; 0: none (default 64)");
  repeat_last_n_typed_ = Verb::OnCommandLine(repeat_last_n);
  all_.Add(repeat_last_n);
  unknown_to_servers_.Add(repeat_last_n);
  all_.Add(verb.Number("--seed", seed_, {-1, INT64_MAX},
                       "Same seed, same text; -1: a new one each time (default)"));
}

absl::Status SamplerFlags::Check() const {
  if (repeat_last_n_typed_() && sampler_.repetition_penalty == 1)
    return UsageError("--repeat-last-n does nothing while --repeat-penalty is 1; give both, or leave it out");
  return absl::OkStatus();
}

SamplerSettings SamplerFlags::Settings() const {
  SamplerSettings sampler = sampler_;
  sampler.top_k = static_cast<int32_t>(top_k_);
  sampler.repetition_window = static_cast<int32_t>(repeat_last_n_);
  sampler.seed = seed_ >= 0 ? static_cast<uint64_t>(seed_) : std::random_device()();
  return sampler;
}

}  // namespace omni::cli
