// The float functions: the reference against double arithmetic, and every variant against the reference, byte
// by byte. Arrays end at unreadable pages.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/op.h"
#include "tests/kernels/testing.h"

namespace omni::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLeast = std::numeric_limits<float>::denorm_min();

std::vector<int64_t> Sizes() {
  std::vector<int64_t> sizes;
  for (int64_t n = 1; n <= 67; ++n) sizes.push_back(n);
  for (int64_t n : {127, 128, 256, 319, 1000, 4096}) sizes.push_back(n);
  return sizes;
}

class FloatsTest : public EveryIsa {};

TEST_P(FloatsTest, DotHasTheFixedShape) {
  Random random(1);
  for (int64_t n : Sizes()) {
    Guarded<float> a(random.Floats(n, -1, 1)), b(random.Floats(n, -1, 1));
    float part[16] = {};
    double exact = 0;
    for (int64_t j = 0; j < n; ++j) {
      part[j % 16] = std::fma(a[j], b[j], part[j % 16]);
      exact += static_cast<double>(a[j]) * b[j];
    }
    for (int half : {8, 4, 2, 1}) {
      for (int i = 0; i < half; ++i) part[i] += part[i + half];
    }
    const float got = ops().dot(a.data(), b.data(), n);
    EXPECT_TRUE(SameFloat(got, part[0])) << n;
    EXPECT_NEAR(got, exact, 1e-6 * static_cast<double>(n)) << n;
  }
  EXPECT_TRUE(SameFloat(ops().dot(nullptr, nullptr, 0), 0.0f));
}

TEST_P(FloatsTest, AbsentElementsLeaveASumOfMinusZeroAlone) {
  // Every product is too small for a float and negative, so all sixteen sums become -0.
  for (int64_t n : {16, 17, 31, 33}) {
    std::vector<float> a(static_cast<size_t>(n), -1e-30f), b(static_cast<size_t>(n), 1e-30f);
    EXPECT_TRUE(SameFloat(ops().dot(a.data(), b.data(), n), -0.0f)) << n;
  }
}

TEST_P(FloatsTest, QuantizeRoundsTiesToEven) {
  std::vector<float> x = {127};  // the scale is 1
  std::vector<int> expected = {127};
  for (int k = -126; k < 126; ++k) {
    x.push_back(static_cast<float>(k) + 0.5f);
    expected.push_back(k % 2 == 0 ? k : k + 1);
  }
  const int64_t n = static_cast<int64_t>(x.size());
  Guarded<int8_t> q(320);
  for (int64_t i = 0; i < 320; ++i) q[i] = 99;
  float scale = 0;
  ops().quantize(x.data(), n, 320, q.data(), &scale);
  EXPECT_EQ(scale, 1.0f);
  for (int64_t i = 0; i < n; ++i)
    EXPECT_EQ(q[i], expected[static_cast<size_t>(i)]) << x[static_cast<size_t>(i)];
  for (int64_t i = n; i < 320; ++i) EXPECT_EQ(q[i], 0) << i;
}

TEST_P(FloatsTest, QuantizeDividesExactly) {
  Random random(2);
  for (int64_t n : Sizes()) {
    for (float range : {1e-42f, 1e-3f, 1.0f, 1e30f}) {
      Guarded<float> x(random.Floats(n, -range, range));
      const int64_t padded = (n + 63) / 64 * 64;
      Guarded<int8_t> q(padded), q_ref(padded);
      float scale = -1, largest = 0;
      ops().quantize(x.data(), n, padded, q.data(), &scale);
      for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
      ASSERT_TRUE(SameFloat(scale, largest / 127.0f));
      for (int64_t i = 0; i < padded; ++i) {
        const float v = i < n && scale > 0 ? std::nearbyint(x[i] / scale) : 0;
        ASSERT_EQ(q[i], static_cast<int>(std::min(std::max(v, -127.0f), 127.0f)))
            << n << " " << i << " " << range;
      }
    }
  }
}

TEST_P(FloatsTest, QuantizeMakesZeroRowsZero) {
  for (float least : {0.0f, -0.0f, kLeast}) {
    std::vector<float> x(70, least);
    std::vector<int8_t> q(128, 5);
    float scale = 1;
    ops().quantize(x.data(), 70, 128, q.data(), &scale);
    EXPECT_TRUE(SameFloat(scale, 0.0f));
    EXPECT_EQ(q, std::vector<int8_t>(128, 0));
  }
}

TEST_P(FloatsTest, QuantizeKeepsSubnormalRowsWithinRange) {
  // 190 least subnormals: the scale rounds from 1.5 to 1 of them, and 190 does not fit.
  const std::vector<float> x = {190 * kLeast, -190 * kLeast, kLeast};
  int8_t q[64];
  float scale = 0;
  ops().quantize(x.data(), 3, 64, q, &scale);
  EXPECT_EQ(scale, kLeast);
  EXPECT_EQ(q[0], 127);
  EXPECT_EQ(q[1], -127);
  EXPECT_EQ(q[2], 1);
}

TEST_P(FloatsTest, RmsNormMatchesReferenceAndDoubles) {
  Random random(3);
  for (int64_t n : Sizes()) {
    Guarded<float> x(random.Floats(n, -2, 2)), g(random.Floats(n, 0, 2)), y(n);
    ops().rms_norm(x.data(), g.data(), n, y.data());
    std::vector<float> expected(static_cast<size_t>(n));
    ref().rms_norm(x.data(), g.data(), n, expected.data());
    ASSERT_TRUE(SameBytes(y.Copy(), expected));
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
    const double inv = 1 / std::sqrt(sum / static_cast<double>(n) + 1e-6);
    for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(y[i], x[i] * inv * g[i], 1e-5);
    ops().rms_norm(x.data(), g.data(), n, x.data());
    ASSERT_TRUE(SameBytes(x.Copy(), expected)) << "in place";
  }
}

TEST_P(FloatsTest, ScaleRowsMatchesReference) {
  Random random(4);
  for (int64_t n : Sizes()) {
    Guarded<int32_t> acc(n);
    for (int64_t i = 0; i < n; ++i) acc[i] = static_cast<int32_t>(random.Next());
    Guarded<float> s(random.Floats(n, 0, 1)), y(n);
    ops().scale_rows(acc.data(), s.data(), 0.37f, n, y.data());
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_TRUE(SameFloat(y[i], static_cast<float>(acc[i]) * (0.37f * s[i]))) << n << " " << i;
    }
  }
}

TEST_P(FloatsTest, DecayIsTheFlooredSigmoid) {
  const float floor = 0x1.b993fep-8f;  // exp(-5)
  Random random(5);
  for (int64_t n : Sizes()) {
    Guarded<float> p(random.Floats(n, -20, 20)), b(random.Floats(n, -1, 1)), gamma(n);
    if (n > 3) {
      p[0] = kInf;
      p[1] = -kInf;
      p[2] = 200;
      p[3] = -200;
    }
    ops().decay(p.data(), b.data(), floor, n, gamma.data());
    for (int64_t i = 0; i < n; ++i) {
      const float s = Sigmoid(p[i] + b[i]);
      ASSERT_TRUE(SameFloat(gamma[i], s < floor ? floor : s)) << p[i] + b[i];
      const double exact = 1 / (1 + std::exp(-static_cast<double>(p[i] + b[i])));
      ASSERT_NEAR(gamma[i], std::max<double>(exact, floor), 2e-7);
    }
  }
}

TEST_P(FloatsTest, PdrStepMatchesReferenceAndDoubles) {
  Random random(6);
  for (int64_t r : {1, 15, 16, 17, 32, 40, 64, 256}) {
    for (int64_t rows : {1, 2, 3, 4, 5, 7, 8, 33}) {
      Guarded<float> S(random.Floats(rows * r, -1, 1)), gamma(random.Floats(rows, 0, 1));
      Guarded<float> v(random.Floats(rows, -1, 1)), k(random.Floats(r, -1, 1)), q(random.Floats(r, -1, 1)),
          out(rows);
      std::vector<float> S_ref = S.Copy(), out_ref(static_cast<size_t>(rows));
      const std::vector<float> before = S_ref;
      for (int step = 0; step < 3; ++step) {
        const std::vector<float> unread = S.Copy();
        Guarded<float> read(rows);
        ops().pdr_read(S.data(), gamma.data(), v.data(), k.data(), q.data(), rows, r, read.data());
        ASSERT_TRUE(SameBytes(S.Copy(), unread));
        ops().pdr_step(S.data(), gamma.data(), v.data(), k.data(), q.data(), rows, r, out.data());
        ASSERT_TRUE(SameBytes(read.Copy(), out.Copy()));
        ref().pdr_step(S_ref.data(), gamma.data(), v.data(), k.data(), q.data(), rows, r, out_ref.data());
        ASSERT_TRUE(SameBytes(S.Copy(), S_ref));
        ASSERT_TRUE(SameBytes(out.Copy(), out_ref));
        if (step > 0) continue;
        for (int64_t i = 0; i < rows; ++i) {
          double sum = 0;
          for (int64_t j = 0; j < r; ++j) {
            const double s =
                static_cast<double>(gamma[i]) * before[i * r + j] + static_cast<double>(v[i]) * k[j];
            ASSERT_NEAR(S[i * r + j], s, 3e-7);
            sum += s * q[j];
          }
          ASSERT_NEAR(out[i], sum, 1e-6 * static_cast<double>(r));
        }
      }
    }
  }
}

TEST_P(FloatsTest, RopeTurnsPairs) {
  Random random(7);
  for (int64_t h : {2, 4, 16, 30, 32, 34, 64, 66, 128}) {
    Guarded<float> x(random.Floats(h, -1, 1));
    std::vector<float> cosine, sine;
    for (int64_t i = 0; i < h / 2; ++i) {
      const double angle = 3.7 * static_cast<double>(i + 1);
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
    Guarded<float> c(cosine), s(sine);
    const std::vector<float> before = x.Copy();
    ops().rope(x.data(), c.data(), s.data(), h);
    for (int64_t i = 0; i < h / 2; ++i) {
      const float a = before[i], b = before[i + h / 2];
      ASSERT_TRUE(SameFloat(x[i], a * c[i] - b * s[i])) << h;
      ASSERT_TRUE(SameFloat(x[i + h / 2], a * s[i] + b * c[i])) << h;
    }
  }
}

TEST_P(FloatsTest, AttendMatchesReferenceAndDoubles) {
  Random random(8);
  for (int64_t h : {1, 8, 16, 30, 32, 64, 128}) {
    for (int64_t len : {1, 2, 3, 4, 5, 15, 16, 17, 20, 33, 128, 512}) {
      Guarded<float> q(random.Floats(h, -3, 3)), scratch(len + 16), out(h);
      Guarded<uint16_t> k(len * h), v(len * h);
      for (int64_t i = 0; i < len * h; ++i) {
        k[i] = ToFp16(random.Uniform(-2, 2));
        v[i] = ToFp16(random.Uniform(-2, 2));
      }
      const float scale = 1.0f / std::sqrt(static_cast<float>(h));
      ops().attend(q.data(), k.data(), v.data(), h, len, scale, scratch.data(), out.data());
      std::vector<float> scratch_ref(static_cast<size_t>(len + 16)), out_ref(static_cast<size_t>(h));
      ref().attend(q.data(), k.data(), v.data(), h, len, scale, scratch_ref.data(), out_ref.data());
      ASSERT_TRUE(SameBytes(out.Copy(), out_ref)) << h << " " << len;
      std::vector<double> weight(static_cast<size_t>(len)), mix(static_cast<size_t>(h));
      double total = 0;
      for (int64_t j = 0; j < len; ++j) {
        double score = 0;
        for (int64_t i = 0; i < h; ++i) score += static_cast<double>(q[i]) * FromFp16(k[j * h + i]);
        weight[j] = std::exp(score * scale);
        total += weight[j];
      }
      for (int64_t j = 0; j < len; ++j) {
        for (int64_t i = 0; i < h; ++i) mix[i] += weight[j] / total * FromFp16(v[j * h + i]);
      }
      for (int64_t i = 0; i < h; ++i) ASSERT_NEAR(out[i], mix[i], 2e-5) << h << " " << len;
    }
  }
}

TEST_P(FloatsTest, SwigluMatchesReferenceAndDoubles) {
  Random random(9);
  for (int64_t n : Sizes()) {
    for (int64_t stride : {1, 2, 3, 10}) {
      const int64_t ints = (n - 1) * stride + 1;
      Guarded<int32_t> gate(ints), up(ints);
      for (int64_t i = 0; i < ints; ++i) {
        gate[i] = random.Below(200001) - 100000;
        up[i] = random.Below(200001) - 100000;
      }
      Guarded<float> gate_scale(random.Floats(n, 0, 0.02f)), up_scale(random.Floats(n, 0, 0.02f)), out(n);
      std::vector<float> expected(static_cast<size_t>(n));
      const float x_scale = 0.01f;
      ops().swiglu(gate.data(), up.data(), stride, gate_scale.data(), up_scale.data(), x_scale, n,
                   out.data());
      ref().swiglu(gate.data(), up.data(), stride, gate_scale.data(), up_scale.data(), x_scale, n,
                   expected.data());
      ASSERT_TRUE(SameBytes(out.Copy(), expected)) << n << " stride " << stride;
      for (int64_t i = 0; i < n; ++i) {
        const double g = static_cast<double>(gate[i * stride]) * x_scale * gate_scale[i];
        const double u = static_cast<double>(up[i * stride]) * x_scale * up_scale[i];
        const double exact = u * g / (1 + std::exp(-g));
        ASSERT_NEAR(out[i], exact, 1e-6 * std::fabs(exact) + 1e-9);
      }
    }
  }
}

TEST_P(FloatsTest, AddAdds) {
  Random random(10);
  for (int64_t n : Sizes()) {
    Guarded<float> x(random.Floats(n, -1, 1)), y(random.Floats(n, -1, 1));
    const std::vector<float> before = x.Copy();
    ops().add(x.data(), y.data(), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_TRUE(SameFloat(x[i], before[i] + y[i]));
  }
}

TEST_P(FloatsTest, SlowStepMovesByAShareOfTheDifference) {
  Random random(12);
  for (int64_t n : Sizes()) {
    for (const float rate : {1.0f, 0.0625f, 0.3f}) {
      Guarded<float> u(random.Floats(n, -3, 3)), h(random.Floats(n, -3, 3));
      const std::vector<float> before = u.Copy();
      ops().slow_step(u.data(), h.data(), rate, n);
      for (int64_t i = 0; i < n; ++i) {
        const float difference = h[i] - before[static_cast<size_t>(i)];
        ASSERT_TRUE(SameFloat(u[i], std::fma(rate, difference, before[static_cast<size_t>(i)]))) << n;
      }
    }
  }
}

TEST_P(FloatsTest, ExpSumMatchesReference) {
  Random random(11);
  for (int64_t n : Sizes()) {
    Guarded<float> x(random.Floats(n, -30, 50)), e(n);
    if (n > 2) x[n / 2] = -kInf;
    std::vector<float> e_ref(static_cast<size_t>(n));
    float max = 0, max_ref = 0;
    const float sum = ops().exp_sum(x.data(), n, e.data(), &max);
    const float sum_ref = ref().exp_sum(x.data(), n, e_ref.data(), &max_ref);
    ASSERT_TRUE(SameFloat(sum, sum_ref)) << n;
    ASSERT_TRUE(SameFloat(max, max_ref)) << n;
    ASSERT_TRUE(SameBytes(e.Copy(), e_ref));
    double exact = 0;
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_LE(x[i], max);
      exact += std::exp(static_cast<double>(x[i]) - max);
    }
    ASSERT_NEAR(sum, exact, 1e-6 * exact);
  }
}

TEST_P(FloatsTest, SumOfMLogMMatchesReference) {
  Random random(12);
  for (int64_t n : Sizes()) {
    Guarded<float> p(random.Floats(n, 0, 1)), q(random.Floats(n, 0, 1));
    if (n > 2) p[n / 2] = q[n / 2] = 0;
    const float sum = ops().m_log_m(p.data(), q.data(), n);
    ASSERT_TRUE(SameFloat(sum, ref().m_log_m(p.data(), q.data(), n))) << n;
    double exact = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double m = (static_cast<double>(p[i]) + static_cast<double>(q[i])) / 2;
      if (m > 0) exact += m * std::log(m);
    }
    ASSERT_NEAR(sum, exact, 1e-6 * (1 + std::fabs(exact))) << n;
    Guarded<float> y(n);
    ops().log(p.data(), n, y.data());
    for (int64_t i = 0; i < n; ++i) ASSERT_TRUE(SameFloat(y[i], Log(p[i]))) << n;
    ops().log(p.data(), n, p.data());
    ASSERT_TRUE(SameBytes(p.Copy(), y.Copy())) << n;
  }
}

TEST_P(FloatsTest, MaximumOfZerosIsPlusZeroInAnyOrder) {
  for (int64_t n : {2, 16, 17, 40}) {
    std::vector<float> x(static_cast<size_t>(n), -0.0f), e(static_cast<size_t>(n));
    float max = 1;
    ops().exp_sum(x.data(), n, e.data(), &max);
    EXPECT_TRUE(SameFloat(max, 0.0f));
    x[static_cast<size_t>(n - 1)] = 0.0f;
    ops().exp_sum(x.data(), n, e.data(), &max);
    EXPECT_TRUE(SameFloat(max, 0.0f));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, FloatsTest, EachIsa(), IsaTestName);

}  // namespace
}  // namespace omni::kernels
