#include "tests/testing/simulation/toy_model.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "engine/base/splitmix.h"

namespace omni::simulation {
namespace {

constexpr int64_t kWidth = 64;

uint64_t Mix(uint64_t a, uint64_t b) { return SplitMix64(a * 0x9e3779b97f4a7c15u + b); }

// A row's state of a layer: in the first two floats of the session's.
uint64_t Load(const float* at) {
  uint64_t value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}
void Store(float* at, uint64_t value) { std::memcpy(at, &value, sizeof value); }

}  // namespace

const ModelConfig& ToyConfig() {
  static const ModelConfig config = [] {
    ModelConfig c;
    c.layers = 2;
    c.d = kWidth;
    c.r = 1;
    c.f = 64;
    c.heads = c.kv_heads = c.window = 1;
    c.vocab = 257;
    c.lattice = {8, 1, 1};
    c.region = {2, 1, 1};
    return c;
  }();
  return config;
}

const Tokenizer& ToyTokenizer() {
  static const Tokenizer tokenizer = *Tokenizer::Train("the end of the day", ToyConfig().vocab);
  return tokenizer;
}

std::shared_ptr<RegionReply> ToyAnswer(const RegionRequest& request) {
  auto reply = std::make_shared<RegionReply>();
  reply->request_id = request.id;
  reply->region = request.region;
  reply->epoch = request.epoch;
  reply->attempt = request.attempt;
  reply->statuses.resize(request.experts.size());
  reply->output.assign(static_cast<size_t>(request.rows * kWidth), 0.0f);
  int64_t row = 0;
  for (const RegionRequest::Expert& expert : request.experts) {
    for (int32_t i = 0; i < expert.rows; ++i, ++row) {
      uint64_t h =
          Mix(static_cast<uint64_t>(request.layer.value), static_cast<uint64_t>(expert.expert.value));
      for (int64_t w = 0; w < kWidth; w += 8) {
        uint64_t word = 0;
        std::memcpy(&word, request.q() + row * request.width + w, sizeof word);
        h = Mix(h, word);
      }
      uint32_t scale = 0;
      std::memcpy(&scale, request.scale() + row, sizeof scale);
      h = Mix(h, scale);
      float* out = reply->output.data() + row * kWidth;
      for (int j = 0; j < 4; ++j) out[j] = static_cast<float>(h >> (16 * j) & 0xffff);
    }
  }
  return reply;
}

absl::Status ToyDecoder::Begin(std::span<const BatchRow> rows) {
  rows_.assign(rows.begin(), rows.end());
  x_.assign(rows.size(), 0);
  std::map<const SessionState*, uint64_t> position;
  for (size_t i = 0; i < rows.size(); ++i) {
    auto [at, fresh] = position.try_emplace(rows[i].state, 0);
    if (fresh) at->second = static_cast<uint64_t>(rows[i].state->position());
    x_[i] = Mix(static_cast<uint64_t>(rows[i].token.value), at->second++);
  }
  return absl::OkStatus();
}

bool ToyDecoder::StartLayer(LayerId layer, const Done&) {
  layer_ = layer;
  q_.resize(rows_.size() * kWidth);
  scale_.resize(rows_.size());
  routes_.resize(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    float* state = rows_[i].state->pdr(layer);
    const uint64_t s = Mix(Load(state), x_[i]);
    Store(state, s);
    x_[i] = Mix(x_[i], s);
    for (size_t w = 0; w < kWidth; w += 8) {
      const uint64_t word = Mix(x_[i], w);
      std::memcpy(q_.data() + i * kWidth + w, &word, sizeof word);
    }
    // -128 is no quantised value.
    for (size_t w = 0; w < kWidth; ++w)
      if (q_[i * kWidth + w] == -128) q_[i * kWidth + w] = -127;
    scale_[i] = static_cast<float>(x_[i] & 0xffff) + 1;
    routes_[i] =
        ExpertId(static_cast<int32_t>((x_[i] >> 20) % static_cast<uint64_t>(ToyConfig().num_experts())));
  }
  return true;
}

absl::StatusOr<std::vector<ExpertJob>> ToyDecoder::TakeJobs() {
  std::vector<ExpertJob> jobs;
  for (int32_t e = 0; e < static_cast<int32_t>(ToyConfig().num_experts()); ++e) {
    ExpertJob job{layer_, ExpertId(e), {}, q_.data(), kWidth, scale_.data()};
    for (size_t i = 0; i < rows_.size(); ++i)
      if (routes_[i] == job.expert) job.rows.push_back(static_cast<int32_t>(i));
    if (!job.rows.empty()) jobs.push_back(std::move(job));
  }
  return jobs;
}

void ToyDecoder::AddExpertOutput(const ExpertJob& job, const float* out) {
  ++outputs_;
  for (size_t j = 0; j < job.rows.size(); ++j) {
    uint64_t h = 0;
    for (int k = 0; k < 4; ++k) h = h << 16 | static_cast<uint64_t>(out[j * kWidth + static_cast<size_t>(k)]);
    if (static_cast<size_t>(job.rows[j]) >= x_.size()) return;  // of another batch: only a planted fault
    uint64_t& x = x_[static_cast<size_t>(job.rows[j])];
    x = Mix(x, h);
  }
}

bool ToyDecoder::StartHidden(const Done&) {
  hidden_.clear();
  for (size_t i = 0; i < rows_.size(); ++i) {
    SessionState& state = *rows_[i].state;
    state.set_position(state.position() + 1);
    if (!rows_[i].want_logits) continue;
    hidden_.resize(hidden_.size() + kWidth);
    hidden_[hidden_.size() - kWidth] =
        static_cast<float>((x_[i] >> 13) % static_cast<uint64_t>(ToyConfig().vocab));
  }
  return true;
}

std::span<float> ToyDecoder::hidden(int64_t i) {
  return std::span(hidden_).subspan(static_cast<size_t>(i) * kWidth, kWidth);
}

absl::StatusOr<std::span<const float>> ToyDecoder::logits() {
  logits_.resize(hidden_.size() / kWidth * static_cast<size_t>(ToyConfig().vocab));
  return std::span<const float>(logits_);
}

bool ToyChoice::Run(std::span<TokenRow> rows, const Done&) {
  for (TokenRow& row : rows) row.choice = Sampled{TokenId(static_cast<int32_t>(row.hidden[0])), 1};
  return true;
}

std::vector<TokenId> ToyReference(const std::vector<TokenId>& prompt, int64_t tokens) {
  ToyDecoder decoder;
  SessionState state(ToyConfig());
  std::vector<TokenId> all = prompt, answer;
  for (size_t i = 0; static_cast<int64_t>(answer.size()) < tokens; ++i) {
    const BatchRow row{&state, all[i], i + 1 == all.size()};
    if (!decoder.Begin({&row, 1}).ok()) break;
    for (int32_t l = 0; l < ToyConfig().layers; ++l) {
      decoder.StartLayer(LayerId(l), {});
      const absl::StatusOr<std::vector<ExpertJob>> jobs = decoder.TakeJobs();
      for (const ExpertJob& job : *jobs) {
        RegionRequest request;
        request.layer = LayerId(l);
        request.experts.push_back({job.expert, 1});
        request.rows = 1;
        request.width = kWidth;
        std::copy_n(job.q, kWidth, request.AllocateRows());
        *request.mutable_scale() = job.scale[0];
        decoder.AddExpertOutput(job, ToyAnswer(request)->output.data());
      }
    }
    decoder.StartHidden({});
    if (!row.want_logits) continue;
    answer.push_back(TokenId(static_cast<int32_t>(decoder.hidden(0)[0])));
    all.push_back(answer.back());
  }
  return answer;
}

}  // namespace omni::simulation
