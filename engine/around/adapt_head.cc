#include "engine/around/adapt_head.h"

#include <algorithm>
#include <cmath>

#include "engine/decode/head_change.h"

namespace omni {

void HeadLoss::Logits(const HeadChange* head, std::span<const float> y, float* logits) {
  const int64_t d = weights_.config.d, vocab = weights_.config.vocab, padded = weights_.embedding.cols_padded;
  rows_ = std::ssize(y) / d;
  float* changed = changed_.Reserve(rows_ * d);
  int8_t* q = q_.Reserve(rows_ * padded);
  float* scale = scale_.Reserve(rows_);
  pool_.Run(rows_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(y.data() + i * d, d, changed + i * d);
      if (head != nullptr) ChangeHidden(*head, ops_, d, changed + i * d);
      ops_.quantize(changed + i * d, d, padded, q + i * padded, scale + i);
    }
  });
  int32_t* acc = acc_.Reserve(rows_ * vocab);
  pool_.Run(vocab, 64, [&](int64_t begin, int64_t end) {
    ops_.int8(weights_.embedding, q, padded, static_cast<int>(rows_), acc, vocab, begin, end);
    for (int64_t i = 0; i < rows_; ++i) {
      const int64_t at = i * vocab + begin;
      ops_.scale_rows(acc + at, weights_.embedding_scale + begin, scale[i], end - begin, logits + at);
      if (head != nullptr && head->bias != nullptr) ops_.add(logits + at, head->bias + begin, end - begin);
    }
  });
  bytes_ = std::max(bytes_, rows_ * (vocab * 12 + padded + d * 16));
}

double HeadLoss::Loss(const Adapter& at, std::span<const float> y, std::span<const TokenId> targets) {
  const int64_t vocab = weights_.config.vocab;
  const RowAdapter view = at.View();
  float* logits = logits_.Reserve(std::ssize(targets) * vocab);
  Logits(&view.head, y, logits);
  nats_.resize(targets.size());
  pool_.Run(rows_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float *row = logits + i * vocab, largest;
      const size_t target = targets[static_cast<size_t>(i)].index();
      const float its = row[target];
      const float sum = ops_.exp_sum(row, vocab, row, &largest);
      nats_[static_cast<size_t>(i)] =
          std::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(its);
      for (int64_t v = 0; v < vocab; ++v) row[v] /= sum;
      row[target] -= 1.0f;
    }
  });
  double nats = 0;
  for (double one : nats_) nats += one;
  return nats;
}

double HeadLoss::Divergence(const Adapter& at, std::span<const float> y, std::span<const float> y_plain) {
  const int64_t vocab = weights_.config.vocab, rows = std::ssize(y) / weights_.config.d;
  const RowAdapter view = at.View();
  float* plain = plain_.Reserve(rows * vocab);
  float* logits = logits_.Reserve(rows * vocab);
  Logits(nullptr, y_plain, plain);
  Logits(&view.head, y, logits);
  nats_.resize(static_cast<size_t>(rows));
  pool_.Run(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float *p = plain + i * vocab, *q = logits + i * vocab, most_p, most_q;
      const float sum_p = ops_.exp_sum(p, vocab, p, &most_p), sum_q = ops_.exp_sum(q, vocab, q, &most_q);
      double nats = 0;
      for (int64_t v = 0; v < vocab; ++v) {
        p[v] /= sum_p;
        q[v] /= sum_q;
        if (p[v] > 0) nats += static_cast<double>(p[v]) * std::log(p[v] / std::max(q[v], 1e-37f));
        q[v] -= p[v];
      }
      nats_[static_cast<size_t>(i)] = nats;
    }
  });
  double nats = 0;
  for (double one : nats_) nats += one;
  return nats;
}

// dz = E^T (what the loss's derivative by the logits is).
void HeadLoss::Backward() {
  const int64_t d = weights_.config.d, vocab = weights_.config.vocab;
  const float* delta = logits_.data();
  float* dz = dz_.Reserve(rows_ * d);
  pool_.Run(rows_, std::max<int64_t>(1, rows_ / pool_.threads()), [&](int64_t begin, int64_t end) {
    std::vector<float> embedding(static_cast<size_t>(d));
    std::fill(dz + begin * d, dz + end * d, 0.0f);
    for (int64_t v = 0; v < vocab; ++v) {
      const int8_t* codes = weights_.embedding.base + v * weights_.embedding.stride;
      for (int64_t j = 0; j < d; ++j)
        embedding[static_cast<size_t>(j)] = static_cast<float>(codes[j]) * weights_.embedding_scale[v];
      for (int64_t i = begin; i < end; ++i) {
        const float share = delta[i * vocab + v];
        float* to = dz + i * d;
        for (int64_t j = 0; j < d; ++j) to[j] += share * embedding[static_cast<size_t>(j)];
      }
    }
  });
}

void HeadLoss::AddGradient(const Adapter& at, std::span<const float> y, float weight, Adapter& gradient) {
  const int64_t d = weights_.config.d, vocab = weights_.config.vocab;
  const std::span<float> bias = gradient.values(AdapterBlock::kBias),
                         gain = gradient.values(AdapterBlock::kGain),
                         map = gradient.values(AdapterBlock::kMap);
  const float *delta = logits_.data(), *dz = dz_.data();
  pool_.Run(std::ssize(bias), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t v = begin; v < end; ++v) bias[static_cast<size_t>(v)] += weight * delta[i * vocab + v];
    }
  });
  if (gain.empty() && map.empty()) return;
  Backward();
  dz = dz_.data();
  for (int64_t i = 0; i < rows_ && !gain.empty(); ++i) {
    for (int64_t j = 0; j < d; ++j)
      gain[static_cast<size_t>(j)] += weight * dz[i * d + j] * y[static_cast<size_t>(i * d + j)];
  }
  if (map.empty()) return;
  const HeadChange head = at.View().head;
  float* inner = inner_.Reserve(rows_ * head.rank);
  pool_.Run(rows_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) HeadInner(head, ops_, d, y.data() + i * d, inner + i * head.rank);
  });
  pool_.Run(d, 16, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      float* to = map.data() + j * head.rank;
      for (int64_t i = 0; i < rows_; ++i) {
        const float share = weight * dz[i * d + j];
        for (int64_t k = 0; k < head.rank; ++k) to[k] += share * inner[i * head.rank + k];
      }
    }
  });
}

void HeadLoss::HiddenGradients(const Adapter& at) {
  const int64_t d = weights_.config.d;
  Backward();
  const HeadChange head = at.View().head;
  float* dy = dy_.Reserve(rows_ * d);
  pool_.Run(rows_, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> through(static_cast<size_t>(head.rank));
    for (int64_t i = begin; i < end; ++i) {
      const float* dz = dz_.data() + i * d;
      float* to = dy + i * d;
      for (int64_t j = 0; j < d; ++j) to[j] = dz[j] * (1.0f + (head.gain == nullptr ? 0.0f : head.gain[j]));
      if (head.map == nullptr) continue;
      std::ranges::fill(through, 0.0f);
      for (int64_t j = 0; j < d; ++j) {
        for (int64_t k = 0; k < head.rank; ++k)
          through[static_cast<size_t>(k)] += dz[j] * head.map[j * head.rank + k];
      }
      for (int64_t k = 0; k < head.rank; ++k) {
        if (head.basis == nullptr) {
          to[k] += through[static_cast<size_t>(k)];
          continue;
        }
        for (int64_t j = 0; j < d; ++j) to[j] += through[static_cast<size_t>(k)] * head.basis[k * d + j];
      }
    }
  });
}

std::span<const float> HeadLoss::hidden_gradient(int64_t row) const {
  return {dy_.data() + row * weights_.config.d, static_cast<size_t>(weights_.config.d)};
}

}  // namespace omni
