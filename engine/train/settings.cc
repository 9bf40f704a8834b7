#include "engine/train/settings.h"

#include <algorithm>
#include <limits>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

namespace omni::train {
namespace {

using Json = nlohmann::json;

template <typename T>
Json ToValue(const T& value) {
  return value;
}
Json ToValue(const RouteFrom& from) { return RouteFromName(from); }
Json ToValue(const MatrixRule& rule) { return rule == MatrixRule::kMuon ? "muon" : "adamw"; }

Json ToValue(const Stride& stride) { return stride == Stride::kFibonacci ? "fibonacci" : "plain"; }
Json ToValue(const MemberRule& rule) { return rule == MemberRule::kSimilar ? "similar" : "frequency"; }

std::string Print(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string RouteFromName(RouteFrom kind) {
  switch (kind) {
    case RouteFrom::kToken:
      return "token";
    case RouteFrom::kAhead:
      return "ahead";
    case RouteFrom::kAddress:
      return "address";
  }
  return "";
}

absl::StatusOr<TrainSettings> PresetSettings(const std::string& preset) {
  const absl::StatusOr<ModelConfig> config = Preset(preset == "books" ? "mini" : preset);
  if (!config.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("'", preset,
                                                   "' is no preset; use char, books, or a model preset (",
                                                   std::string(config.status().message()), ")"));
  }
  TrainSettings s;
  s.preset = preset;
  s.config = *config;
  s.lr = 8e-3;
  s.lr_end = 0.02;
  s.batch = 16;
  s.expert_every = 4;
  s.save_every = 400;
  if (preset == "char") {
    s.steps = 3800;
    s.shared_steps = 2940;
    s.cooldown = 0.7;
    s.dropout = 0.15;
  } else {
    s.steps = 8400;
    s.shared_steps = 6400;
    s.cooldown = 0.62;
    s.smoothness = 0.003;
    s.reset_every = 200;
    s.init.gamma_max = 0.9f;
  }
  return s;
}

void FollowRoutes(TrainSettings* s) {
  const auto given = [&](const char* flag) { return s->chosen.contains(flag); };
  ModelConfig& c = s->config;
  if (c.has_slow_state()) {
    if (!given("slow-rate") && c.slow_rate == 0.0f) c.slow_rate = 1.0f / 16;
    if (!given("route-bias")) c.route_bias = true;
  }
  if (!c.has_slow_state() && !c.route_bias) return;
  if (!given("router-lr")) s->router_lr = 0.03;
  if (!given("router-clip")) s->router_clip = 1.0;
  if (c.route_bias && !given("balance")) s->balance = 0;
}

int64_t PartStep(const TrainSettings& s, NeuronKind kind) {
  int64_t step = TrainSettings::kWithShared;
  switch (kind) {
    case NeuronKind::kBase:
      return std::numeric_limits<int64_t>::max();
    case NeuronKind::kRegion:
      step = s.part_region;
      break;
    case NeuronKind::kMember:
      step = s.part_member;
      break;
    case NeuronKind::kOwn:
      step = s.part_own;
      break;
  }
  return step == TrainSettings::kWithShared ? s.shared_steps : step;
}

int64_t FirstPartStep(const TrainSettings& s) {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const NeuronGroup& group : NeuronGroups(s.config)) {
    if (group.copies > 1) first = std::min(first, PartStep(s, group.kind));
  }
  return first;
}

OptimizerSettings UpdateSettings(const TrainSettings& s, double lr) {
  return {.lr = static_cast<float>(lr),
          .router_lr = static_cast<float>(s.router_lr),
          .router_clip = static_cast<float>(s.router_clip),
          .beta1 = static_cast<float>(s.beta1),
          .beta2 = static_cast<float>(s.beta2),
          .weight_decay = static_cast<float>(s.weight_decay),
          .clip = static_cast<float>(s.clip),
          .matrices = s.matrices,
          .momentum = static_cast<float>(s.momentum)};
}

absl::Status CheckSettings(const TrainSettings& s) {
  if (absl::Status st = Validate(s.config); !st.ok()) return st;
  if (s.tokens % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--seq ", s.tokens, ": must be a multiple of 16"));
  }
  const auto whole = [&](int64_t step) { return step % s.expert_every == 0; };
  if (FirstPartStep(s) < s.steps && (!whole(s.save_every) || !whole(s.stop_at) || !whole(s.steps))) {
    return absl::InvalidArgumentError(
        absl::StrCat("--steps, --save-every and --stop-at must be multiples of --expert-every ",
                     s.expert_every, ": a checkpoint holds no half-gathered gradients"));
  }
  const std::vector<NeuronGroup> groups = NeuronGroups(s.config);
  for (const NeuronGroup& group : groups) {
    const int64_t part = PartStep(s, group.kind);
    if (group.copies == 1 || part >= s.steps || whole(part)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--shared-steps and --part-region, --part-member and --part-own must be multiples of "
                     "--expert-every ",
                     s.expert_every, ": neurons part between two updates; ", part, " is none"));
  }
  const struct {
    const char* flag;
    int64_t step, neurons;
  } parts[] = {{"--part-region", s.part_region, s.config.region_neurons()},
               {"--part-member", s.part_member, s.config.member_neurons},
               {"--part-own", s.part_own, s.config.own_neurons}};
  for (const auto& part : parts) {
    if (part.step == TrainSettings::kWithShared || part.neurons > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(part.flag, " ", part.step, ": the model has no such neurons; leave the flag out"));
  }
  if (s.members != MemberRule::kFrequency && s.config.route_from != RouteFrom::kAddress) {
    return absl::InvalidArgumentError(
        "--members similar: tokens have members with --route-from address alone; leave the flag out");
  }
  if (s.write_logits.empty() != (s.logits_steps == 0)) {
    return absl::InvalidArgumentError("--write-logits and --logits-steps: give both or none");
  }
  if (!s.write_logits.empty() && !s.resume) {
    return absl::InvalidArgumentError(
        "--write-logits: is about the checkpoint in --out; give --resume with it");
  }
  if (s.config.vocab > 65536 && !(s.write_logits.empty() && s.teacher.empty())) {
    return absl::InvalidArgumentError("--write-logits and --teacher: hold tokens below 65536 alone");
  }
  if (s.own_pull > 0 && s.config.own_neurons == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--own-pull ", s.own_pull, ": the model has no own neurons; leave the flag out"));
  }
  const bool parts_later = std::any_of(groups.begin(), groups.end(), [&](const NeuronGroup& group) {
    return group.copies > 1 && PartStep(s, group.kind) > 0;
  });
  if (s.part_noise > 0 && !parts_later) {
    return absl::InvalidArgumentError(
        absl::StrCat("--part-noise ", s.part_noise,
                     ": the experts differ from the start; give --shared-steps, or leave the flag out"));
  }
  if (s.eval_every > 0 && s.eval_tokens < s.tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--eval-tokens ", s.eval_tokens, ": a validation needs one segment at least, --seq ", s.tokens));
  }
  if (s.tune > 0 && !s.valid.empty()) {
    return absl::InvalidArgumentError(
        "--tune and --valid: both name the text to validate on; give one of them");
  }
  return absl::OkStatus();
}

Json SettingsJson(const TrainSettings& settings) {
  Json json = Json::object();
  VisitSettings(settings,
                [&](const char* name, const auto& field, OnResume) { json[name] = ToValue(field); });
  return json;
}

Json RecordedSettings(const TrainSettings& settings) {
  Json json = Json::object();
  VisitSettings(settings, [&](const char* name, const auto& field, OnResume rule) {
    if (rule != OnResume::kAny) json[name] = ToValue(field);
  });
  return json;
}

absl::Status CompareSettings(const Json& recorded, const TrainSettings& settings, Json* changes) {
  std::vector<std::string> fixed, defaults;
  VisitSettings(settings, [&](const char* name, const auto& field, OnResume rule) {
    const auto old = recorded.find(name);
    const Json value = ToValue(field);
    if (rule == OnResume::kAny || old == recorded.end() || *old == value) return;
    const std::string difference = absl::StrCat("--", name, " ", Print(*old), ", now ", Print(value));
    if (rule == OnResume::kSame) {
      fixed.push_back(difference);
    } else if (!settings.chosen.contains(name)) {
      defaults.push_back(difference);
    } else {
      (*changes)[name] = value;
    }
  });
  if (!fixed.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the run was started with ", absl::StrJoin(fixed, "; "),
                                                   "; a resumed run cannot change that: give the old value"));
  }
  if (!defaults.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the run was started with ", absl::StrJoin(defaults, "; "),
                     " by default; give the old value, or the new one as a flag"));
  }
  return absl::OkStatus();
}

}  // namespace omni::train
