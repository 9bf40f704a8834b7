// What the device does with rows of floats and with states, against the scalar kernels, by the bit.
#include <algorithm>
#include <limits>

#include "tests/kernels/device_testing.h"

namespace omni::kernels::device {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class DeviceFloatsTest : public DeviceTest {
 protected:
  const Ops& ref = *OpsFor(Isa::kScalar);
  Random random{11};

  std::vector<float> Row(int64_t n, float size) { return random.Floats(n, -size, size); }

  void RunNorm(const std::vector<float>& x, int n, int64_t d, bool with_gain) {
    const int64_t padded = Ceil(d, 64) * 64, stride = padded + 4;
    std::vector<float> wide(static_cast<size_t>(n * stride)), gain = random.Floats(d, 0.5f, 1.5f);
    for (int t = 0; t < n; ++t)
      std::copy_n(&x[static_cast<size_t>(t * d)], d, &wide[static_cast<size_t>(t * stride)]);
    const Array<float> in(wide), gains(gain), h(n * stride), scale(n);
    const Array<int8_t> q(n * padded);
    const Array<int32_t> sum(n), sums(std::vector<int32_t>(static_cast<size_t>(n), 5));
    const Array<uint32_t> bits(std::vector<uint32_t>(static_cast<size_t>(n), 5));
    NormQuantize(in.data(), stride, with_gain ? gains.data() : nullptr, n, d, padded, h.data(), stride,
                 {q.data(), padded, scale.data(), sum.data()}, bits.data(), sums.data(), nullptr);
    const std::vector<float> got_h = h.Get(), got_scale = scale.Get();
    const std::vector<int8_t> got_q = q.Get();
    const std::vector<int32_t> got_sum = sum.Get();
    for (int t = 0; t < n; ++t) {
      std::vector<float> row(x.begin() + t * d, x.begin() + (t + 1) * d);
      if (with_gain) ref.rms_norm(row.data(), gain.data(), d, row.data());
      std::vector<int8_t> want_q(static_cast<size_t>(padded));
      float want_scale = 0;
      ref.quantize(row.data(), d, padded, want_q.data(), &want_scale);
      const auto at = got_h.begin() + t * stride;
      EXPECT_TRUE(SameBytes(std::vector<float>(at, at + d), row)) << d;
      EXPECT_EQ(std::vector<int8_t>(got_q.begin() + t * padded, got_q.begin() + (t + 1) * padded), want_q)
          << d;
      EXPECT_TRUE(SameFloat(got_scale[static_cast<size_t>(t)], want_scale)) << d;
      int32_t want_sum = 0;
      for (int8_t v : want_q) want_sum += v;
      EXPECT_EQ(got_sum[static_cast<size_t>(t)], want_sum);
    }
    EXPECT_EQ(bits.Get(), std::vector<uint32_t>(static_cast<size_t>(n)));
    EXPECT_EQ(sums.Get(), std::vector<int32_t>(static_cast<size_t>(n)));
  }
};

TEST_F(DeviceFloatsTest, Norms) {
  for (int64_t d : {1, 2, 15, 16, 17, 100, 192, 1000, 1025, 4096}) {
    for (bool with_gain : {true, false}) RunNorm(Row(3 * d, 2.0f), 3, d, with_gain);
  }
  for (float size : {0.0f, 1e-44f, 1e-30f, 1e18f, 3e38f}) {
    RunNorm(Row(100, size), 1, 100, true);
    RunNorm(Row(100, size), 1, 100, false);
  }
}

TEST_F(DeviceFloatsTest, QuantisationOfAKnownMaximum) {
  for (int64_t padded : {64, 1024, 1088, 4096}) {
    constexpr int kN = 2;
    const std::vector<float> x = Row(kN * padded, 3.0f);
    std::vector<uint32_t> largest;
    std::vector<int8_t> want(static_cast<size_t>(kN * padded));
    std::vector<float> want_scale(kN);
    std::vector<int32_t> want_sum(kN);
    for (int t = 0; t < kN; ++t) {
      float most = 0;
      for (int64_t i = 0; i < padded; ++i)
        most = std::max(most, std::fabs(x[static_cast<size_t>(t * padded + i)]));
      largest.push_back(std::bit_cast<uint32_t>(most));
      ref.quantize(&x[static_cast<size_t>(t * padded)], padded, padded,
                   &want[static_cast<size_t>(t * padded)], &want_scale[static_cast<size_t>(t)]);
      for (int64_t i = 0; i < padded; ++i)
        want_sum[static_cast<size_t>(t)] += want[static_cast<size_t>(t * padded + i)];
    }
    const Array<float> in(x), scale(kN);
    const Array<uint32_t> bits(largest);
    const Array<int8_t> q(kN * padded);
    const Array<int32_t> sum(std::vector<int32_t>(kN, 0));
    QuantizeKnown(in.data(), padded, kN, padded, bits.data(), {q.data(), padded, scale.data(), sum.data()},
                  nullptr);
    EXPECT_EQ(q.Get(), want);
    EXPECT_TRUE(SameBytes(scale.Get(), want_scale));
    EXPECT_EQ(sum.Get(), want_sum);
  }
}

TEST_F(DeviceFloatsTest, Embeddings) {
  constexpr int64_t kVocab = 9, kD = 100, kStride = 128;
  std::vector<int8_t> weights(kVocab * kStride);
  for (int8_t& w : weights) w = static_cast<int8_t>(random.Below(255) - 127);
  const std::vector<float> scale = Row(kVocab, 1.0f);
  const std::vector<int32_t> tokens = {8, 0, 3};
  const Array<int8_t> device_weights(weights);
  const Array<float> device_scale(scale), x(3 * kStride);
  const Array<int32_t> device_tokens(tokens);
  Embed({device_weights.data(), kStride, kStride, kVocab}, device_scale.data(), device_tokens.data(), 3, kD,
        x.data(), kStride, nullptr);
  const std::vector<float> got = x.Get();
  for (size_t t = 0; t < 3; ++t) {
    const auto token = static_cast<size_t>(tokens[t]);
    for (size_t i = 0; i < kD; ++i)
      EXPECT_EQ(got[t * kStride + i], static_cast<float>(weights[token * kStride + i]) * scale[token]);
  }
}

struct States {
  std::vector<Segment> segments;
  std::vector<int32_t> row_segment;
};

// Segments of these many rows at these positions, each with `floats` of its own at states.
States MakeSegments(const std::vector<std::pair<int, int64_t>>& rows_at, float* states, int64_t floats,
                    uint16_t* rings, int64_t ring) {
  States made;
  int32_t first = 0;
  for (const auto& [count, position] : rows_at) {
    const auto s = static_cast<int64_t>(made.segments.size());
    Segment segment;
    segment.first_row = first;
    segment.count = count;
    segment.position = position;
    segment.pdr = segment.slow = states == nullptr ? nullptr : states + s * floats;
    segment.ring = rings == nullptr ? nullptr : rings + s * ring;
    made.segments.push_back(segment);
    made.row_segment.insert(made.row_segment.end(), static_cast<size_t>(count), static_cast<int32_t>(s));
    first += count;
  }
  return made;
}

TEST_F(DeviceFloatsTest, RecurrenceAndRenormalisation) {
  for (int64_t r : {1, 12, 16, 40, 64, 100, 256, 300}) {
    constexpr int kN = 5;
    constexpr int64_t kD = 37, kOffset = 8;
    const int64_t k_stride = r + 3, floats = kOffset + kD * r;
    const float floor = 0.0067f;
    const std::vector<float> p = Row(kN * kD, 6.0f), v = Row(kN * kD, 20.0f), k = Row(kN * k_stride, 1.0f),
                             q = Row(kN * k_stride, 1.0f), bias = Row(kD, 2.0f),
                             start = Row(2 * floats, 4.0f);
    const Array<float> dp(p), dv(v), dk(k), dq(q), db(bias), state(start), out(kN * kD), norms(2 * kD);
    const States made = MakeSegments({{3, 0}, {2, 9}}, state.data(), floats, nullptr, 0);
    const Array<Segment> segments(made.segments);
    const Array<Stretch> stretches(std::vector<Stretch>{{0, 0, 3, 1}, {1, 3, 2, 0}});
    const PdrInputs in{dp.data(), dv.data(), dk.data(), dq.data(), db.data(), kD,
                       k_stride,  floor,     kD,        r,         kOffset};
    PdrStep(in, segments.data(), stretches.data(), 2, out.data(), kD, nullptr);

    std::vector<float> want = start, want_out(kN * kD);
    for (int t = 0; t < kN; ++t) {
      float* S = &want[static_cast<size_t>((t < 3 ? 0 : floats) + kOffset)];
      std::vector<float> gamma(p.begin() + t * kD, p.begin() + (t + 1) * kD);
      ref.decay(gamma.data(), bias.data(), floor, kD, gamma.data());
      ref.pdr_step(S, gamma.data(), &v[static_cast<size_t>(t * kD)], &k[static_cast<size_t>(t * k_stride)],
                   &q[static_cast<size_t>(t * k_stride)], kD, r, &want_out[static_cast<size_t>(t * kD)]);
    }
    EXPECT_TRUE(SameBytes(out.Get(), want_out)) << r;
    EXPECT_TRUE(SameBytes(state.Get(), want)) << r;

    PdrNormalize(in, segments.data(), stretches.data(), 2, norms.data(), nullptr);
    float* S = &want[kOffset];
    std::vector<float> row_norms, ones(kD, 1.0f);
    for (int64_t i = 0; i < kD; ++i) row_norms.push_back(ref.dot(S + i * r, S + i * r, r));
    const float norm = std::sqrt(ref.dot(row_norms.data(), ones.data(), kD));
    const float limit = std::sqrt(static_cast<float>(kD * r));
    ASSERT_GT(norm, limit);
    for (int64_t i = 0; i < kD * r; ++i) S[i] *= limit / norm;
    EXPECT_TRUE(SameBytes(state.Get(), want)) << r;
    // What is within the limit by now stays.
    PdrNormalize(in, segments.data(), stretches.data(), 1, norms.data(), nullptr);
    if (std::sqrt(ref.dot(S, S, kD * r)) < 0.999f * limit) {
      EXPECT_TRUE(SameBytes(state.Get(), want)) << r;
    }
  }
}

class DeviceAttentionTest : public DeviceFloatsTest {
 protected:
  // Rows of several sessions, some of which have gone round the ring, against one after the other.
  void RunAttention(int64_t heads, int64_t kv_heads, int64_t h, int64_t window,
                    const std::vector<std::pair<int, int64_t>>& rows_at) {
    int n = 0;
    for (const auto& [count, position] : rows_at) n += count;
    const int64_t d = heads * h, kv = kv_heads * h, ring = 2 * window * kv + 16, offset = 16;
    const std::vector<float> q = Row(n * d, 2.0f), k = Row(n * kv, 2.0f), v = Row(n * kv, 2.0f),
                             cos = Row(n * h / 2, 1.0f), sin = Row(n * h / 2, 1.0f);
    std::vector<uint16_t> start(rows_at.size() * static_cast<size_t>(ring));
    for (uint16_t& x : start) x = ToFp16(random.Uniform(-2.0f, 2.0f));
    const Array<float> dq(q), dk(k), dv(v), dc(cos), ds(sin), out(n * d);
    const Array<float> scores(n * heads * window);
    const Array<uint32_t> largest(n * heads);
    const Array<uint16_t> keys(n * kv), values(n * kv), rings(start);
    States made = MakeSegments(rows_at, nullptr, 0, rings.data(), ring);
    for (Segment& segment : made.segments) segment.slot = static_cast<int32_t>(segment.position % window);
    const Array<Segment> segments(made.segments);
    const Array<int32_t> row_segment(made.row_segment);
    const float scale = 1.0f / std::sqrt(static_cast<float>(h));
    const Attention a{dq.data(), dk.data(),   dv.data(),     dc.data(),     ds.data(),     d,
                      kv,        keys.data(), values.data(), heads,         kv_heads,      h,
                      window,    offset,      scale,         scores.data(), largest.data()};
    RotateRows(a, n, nullptr);
    Attend(a, segments.data(), row_segment.data(), n, out.data(), d, nullptr);
    StoreRing(a, segments.data(), static_cast<int>(rows_at.size()), n, nullptr);

    std::vector<float> want(static_cast<size_t>(n * d)), rotated = q, keys_of = k;
    std::vector<float> scratch(static_cast<size_t>(window + 16));
    for (int row = 0; row < n; ++row) {
      const auto s = static_cast<size_t>(made.row_segment[static_cast<size_t>(row)]);
      const Segment& segment = made.segments[s];
      const int64_t position = segment.position + row - segment.first_row, slot = position % window;
      const int64_t len = std::min(position + 1, window);
      const float* c = &cos[static_cast<size_t>(row * h / 2)];
      const float* sn = &sin[static_cast<size_t>(row * h / 2)];
      for (int64_t head = 0; head < heads; ++head)
        ref.rope(&rotated[static_cast<size_t>(row * d + head * h)], c, sn, h);
      for (int64_t head = 0; head < kv_heads; ++head) {
        float* key = &keys_of[static_cast<size_t>(row * kv + head * h)];
        ref.rope(key, c, sn, h);
        uint16_t* key_ring =
            &start[s * static_cast<size_t>(ring) + static_cast<size_t>(offset + head * window * h)];
        ref.to_fp16(key, h, key_ring + slot * h);
        ref.to_fp16(&v[static_cast<size_t>(row * kv + head * h)], h,
                    key_ring + kv_heads * window * h + slot * h);
      }
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t kv_head = head / (heads / kv_heads);
        const uint16_t* key_ring =
            &start[s * static_cast<size_t>(ring) + static_cast<size_t>(offset + kv_head * window * h)];
        const auto at = static_cast<size_t>(row * d + head * h);
        ref.attend(&rotated[at], key_ring, key_ring + kv_heads * window * h, h, len, scale, scratch.data(),
                   &want[at]);
      }
    }
    EXPECT_TRUE(SameBytes(out.Get(), want)) << h << ", " << window;
    EXPECT_EQ(rings.Get(), start) << h << ", " << window;
  }
};

TEST_F(DeviceAttentionTest, OneRow) {
  for (int64_t h : {2, 10, 16, 48, 64, 128, 130, 258}) {
    RunAttention(4, 2, h, 16, {{1, 0}});
    RunAttention(4, 2, h, 16, {{1, 5}});
    RunAttention(2, 2, h, 16, {{1, 99}});
  }
  RunAttention(4, 1, 64, 512, {{1, 700}});
}

TEST_F(DeviceAttentionTest, ManyRowsOfSeveralSessions) {
  RunAttention(4, 2, 10, 7, {{20, 0}, {1, 3}, {9, 40}});
  RunAttention(2, 1, 48, 64, {{30, 0}, {30, 50}});
  RunAttention(2, 1, 16, 1, {{5, 0}});
}

TEST_F(DeviceFloatsTest, SlowStates) {
  constexpr int64_t kD = 200, kOffset = 3;
  const std::vector<float> h = Row(5 * kD, 2.0f), start = Row(2 * (kD + kOffset), 1.0f);
  const Array<float> dh(h), state(start), before(5 * kD);
  const States made = MakeSegments({{4, 0}, {1, 2}}, state.data(), kD + kOffset, nullptr, 0);
  const Array<Segment> segments(made.segments);
  SlowStep(segments.data(), 2, kOffset, dh.data(), kD, 1, 0, kD, 0.0625f, before.data(), nullptr);
  std::vector<float> want = start, want_before;
  for (int t = 0; t < 5; ++t) {
    float* u = &want[static_cast<size_t>((t < 4 ? 0 : kD + kOffset) + kOffset)];
    want_before.insert(want_before.end(), u, u + kD);
    ref.slow_step(u, &h[static_cast<size_t>(t * kD)], 0.0625f, kD);
  }
  EXPECT_TRUE(SameBytes(before.Get(), want_before));
  EXPECT_TRUE(SameBytes(state.Get(), want));
}

TEST_F(DeviceFloatsTest, SlowStatesOfManyLayersAtOnce) {
  constexpr int64_t kD = 200, kLayers = 3, kStride = 256;
  const std::vector<float> h = Row(kLayers * kStride, 2.0f), start = Row(kLayers * kD, 1.0f);
  const Array<float> dh(h), state(start);
  const States made = MakeSegments({{1, 0}}, state.data(), kLayers * kD, nullptr, 0);
  const Array<Segment> segments(made.segments);
  SlowStep(segments.data(), 1, 0, dh.data(), kStride, kLayers, kStride, kD, 0.0625f, nullptr, nullptr);
  std::vector<float> want = start;
  for (int64_t l = 0; l < kLayers; ++l) {
    ref.slow_step(&want[static_cast<size_t>(l * kD)], &h[static_cast<size_t>(l * kStride)], 0.0625f, kD);
  }
  EXPECT_TRUE(SameBytes(state.Get(), want));
}

// Items of pinned memory in any order, of one word, of less than a block's unit and of several.
TEST_F(DeviceFloatsTest, GathersFromTheHost) {
  for (const int64_t bytes : {16, 4096, 16384, 40016}) {
    constexpr int64_t kItems = 7;
    const int64_t stride = (bytes + 255) / 256 * 256;
    void *source = nullptr, *list = nullptr;
    ASSERT_FALSE(AllocatePinned(kItems * stride, &source));
    ASSERT_FALSE(AllocatePinned(kItems * 8, &list));
    auto* const host = static_cast<uint8_t*>(source);
    for (int64_t i = 0; i < kItems * stride; ++i) host[i] = static_cast<uint8_t>(i * 31 + i / 251);
    const auto from = static_cast<const uint8_t**>(list);
    std::vector<uint8_t> want(static_cast<size_t>(kItems * stride), 0xee);
    for (int64_t i = 0; i < kItems; ++i) {
      from[i] = host + i * 3 % kItems * stride;
      std::copy_n(from[i], bytes, &want[static_cast<size_t>(i * stride)]);
    }
    const Array<uint8_t> to(std::vector<uint8_t>(static_cast<size_t>(kItems * stride), 0xee));
    Gather(from, kItems, bytes, to.data(), stride, nullptr);
    EXPECT_EQ(to.Get(), want) << bytes;
    FreePinned(list);
    FreePinned(source);
  }
}

TEST_F(DeviceFloatsTest, Routes) {
  for (int64_t experts : {1, 6, 128, 500}) {
    constexpr int64_t kD = 100;
    constexpr int kN = 12;
    std::vector<float> route = Row(3 * kD, 0.3f), h = Row(kN * kD, 2.0f),
                       positions = random.Floats(3 * experts, 0, 0.999f);
    // Two experts at one place: the lower id wins.
    if (experts > 100) std::copy_n(positions.begin(), 3 * 50, positions.begin() + 3 * 50);
    const std::vector<float> bias = Row(experts, 0.05f);
    std::vector<uint8_t> members(20);
    for (uint8_t& m : members) m = static_cast<uint8_t>(random.Below(2));
    std::vector<int32_t> expert_at(static_cast<size_t>(2 * experts)), tokens(kN);
    for (int32_t& e : expert_at) e = random.Below(static_cast<int>(experts));
    for (int32_t& token : tokens) token = random.Below(20);
    h[5] = kInfinity;  // a point that is no number goes to expert 0
    const Array<float> droute(route), dh(h), dpositions(positions), dbias(bias);
    const Array<uint8_t> dmembers(members);
    const Array<int32_t> dtable(expert_at), dtokens(tokens), routes(kN);
    for (const bool with_bias : {false, true}) {
      for (const bool with_members : {false, true}) {
        const Router router{droute.data(),
                            dpositions.data(),
                            with_bias ? dbias.data() : nullptr,
                            with_members ? dmembers.data() : nullptr,
                            dtable.data(),
                            experts,
                            2,
                            kD};
        Route(router, dh.data(), kD, dtokens.data(), kN, routes.data(), nullptr);
        std::vector<int32_t> want;
        for (int t = 0; t < kN; ++t) {
          float z[3];
          for (int axis = 0; axis < 3; ++axis) {
            const float dot =
                ref.dot(&route[static_cast<size_t>(axis * kD)], &h[static_cast<size_t>(t * kD)], kD);
            const float f = dot - std::floor(dot);
            z[axis] = f == 1.0f ? 0.0f : f;
          }
          float best = kInfinity;
          int32_t nearest = 0;
          for (int64_t e = 0; e < experts; ++e) {
            float square[3];
            for (int axis = 0; axis < 3; ++axis) {
              const float direct = std::fabs(z[axis] - positions[static_cast<size_t>(3 * e + axis)]);
              const float shortest = std::min(direct, 1.0f - direct);
              square[axis] = shortest * shortest;
            }
            float distance = (square[0] + square[1]) + square[2];
            if (with_bias) distance = distance - bias[static_cast<size_t>(e)];
            if (distance < best) {
              best = distance;
              nearest = static_cast<int32_t>(e);
            }
          }
          if (with_members) {
            const uint8_t member = members[static_cast<size_t>(tokens[static_cast<size_t>(t)])];
            nearest = expert_at[static_cast<size_t>(2 * nearest + member)];
          }
          want.push_back(nearest);
        }
        EXPECT_EQ(routes.Get(), want) << experts;
        // The same rows as the slow states of as many layers, of one token.
        std::vector<RouterAhead> ahead;
        for (int t = 0; t < kN; ++t) ahead.push_back({router, t * kD, kN - 1 - t});
        const States made = MakeSegments({{1, 0}}, dh.data(), kN * kD, nullptr, 0);
        const Array<Segment> segments(made.segments);
        const Array<RouterAhead> routers(ahead);
        const Array<int32_t> there(kN);
        RouteAhead(routers.data(), kN, segments.data(), dtokens.data(), there.data(), nullptr);
        for (int t = 0; t < (with_members ? 1 : kN); ++t)
          EXPECT_EQ(there.Get()[static_cast<size_t>(kN - 1 - t)], want[static_cast<size_t>(t)]) << t;
      }
    }
  }
}

TEST_F(DeviceFloatsTest, LargestLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto arg_max = [](const std::vector<float>& logits) {
    const Array<float> device(logits);
    const Array<int32_t> token(1);
    const auto vocab = static_cast<int64_t>(logits.size());
    ArgMax(device.data(), vocab, vocab, 1, token.data(), nullptr);
    return token.Get()[0];
  };
  EXPECT_EQ(arg_max({1.5f, 2.5f, 2.5f, -1.0f}), 1);
  EXPECT_EQ(arg_max({-0.0f, 0.0f, -1.0f}), 0);
  EXPECT_EQ(arg_max({nan, -kInfinity, -3.0f}), 2);
  EXPECT_EQ(arg_max({nan, nan}), 0);
  EXPECT_EQ(arg_max({1.0f, std::numeric_limits<float>::max(), kInfinity}), 1);
  for (int64_t vocab : {257, 4096, 5001}) {
    const std::vector<float> logits = Row(vocab, 9.0f);
    EXPECT_EQ(arg_max(logits), std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
}

}  // namespace
}  // namespace omni::kernels::device
