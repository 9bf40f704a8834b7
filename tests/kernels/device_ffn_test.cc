// The device's SwiGLU layers against the scalar kernels, by the bit: the shared one, and experts from their
// tiles.
#include <algorithm>

#include "tests/kernels/device_testing.h"

namespace omni::kernels::device {
namespace {

// As TileLayout (engine/model/weights.h), which this folder may not know.
struct Layout {
  explicit Layout(int64_t width) : d(width), d_pad(Ceil(width, 64) * 64) {}
  int64_t d, d_pad;
  int64_t down_offset() const { return 26 * d_pad; }
  int64_t gate_scale_offset() const { return down_offset() + Ceil(d, 5) * 64; }
  int64_t up_scale_offset() const { return gate_scale_offset() + 256; }
  int64_t bytes() const { return up_scale_offset() + 256; }
};

class DeviceFfnTest : public DeviceTest {
 protected:
  const Ops& ref = *OpsFor(Isa::kScalar);
  Random random{13};

  std::vector<uint8_t> MakeTile(const Layout& layout) {
    std::vector<uint8_t> tile(static_cast<size_t>(layout.bytes()));
    for (int64_t i = 0; i < layout.gate_scale_offset(); ++i)
      tile[static_cast<size_t>(i)] = static_cast<uint8_t>(random.Below(243));
    const std::vector<float> scales = random.Floats(128, -0.02f, 0.02f);
    std::memcpy(&tile[static_cast<size_t>(layout.gate_scale_offset())], scales.data(), 512);
    return tile;
  }
  DeviceRows MakeRows(int n, int64_t cols) {
    const int64_t stride = Ceil(cols, 64) * 64;
    std::vector<int8_t> x(static_cast<size_t>(n * stride));
    for (int t = 0; t < n; ++t) {
      for (int64_t j = 0; j < cols; ++j)
        x[static_cast<size_t>(t * stride + j)] = static_cast<int8_t>(random.Below(255) - 127);
    }
    return DeviceRows(n, stride, x, random.Floats(n, 0.001f, 0.02f));
  }

  void RunExperts(int64_t d, int64_t tiles, const std::vector<int32_t>& routes, bool streamed) {
    constexpr int64_t kExperts = 3;
    const Layout layout(d);
    const int n = static_cast<int>(routes.size());
    const int64_t f = 64 * tiles;
    std::vector<std::vector<uint8_t>> host;
    std::vector<std::unique_ptr<Array<uint8_t>>> bytes;
    std::vector<const uint8_t*> table;
    for (int64_t i = 0; i < kExperts * tiles; ++i) {
      host.push_back(MakeTile(layout));
      bytes.push_back(std::make_unique<Array<uint8_t>>(host.back()));
      table.push_back(bytes.back()->data());
    }
    const DeviceRows x = MakeRows(n, d);
    const Array<const uint8_t*> device_table(table);
    const Array<int32_t> device_routes(routes);
    const std::vector<float> before = random.Floats(n * layout.d_pad, -1.0f, 1.0f);
    const Array<float> a(n * f), a_scale(n), residual(before);
    const Array<int8_t> a_q(n * f);
    const Array<int32_t> a_sum(std::vector<int32_t>(static_cast<size_t>(n)));
    const Array<uint32_t> largest(std::vector<uint32_t>(static_cast<size_t>(n)));
    const Quantized qa{a_q.data(), f, a_scale.data(), a_sum.data()};
    Experts experts{device_table.data(),
                    tiles,
                    tiles,
                    d,
                    layout.d_pad,
                    layout.down_offset(),
                    layout.gate_scale_offset(),
                    layout.up_scale_offset(),
                    -1};
    const auto each = [&](auto run) {
      for (int32_t e = 0; e < (streamed ? kExperts : 1); ++e) {
        if (streamed) {
          experts.table = device_table.data() + e * tiles;
          experts.only = static_cast<int32_t>(e);
        }
        run();
      }
    };
    each([&] {
      ExpertGateUp(experts, device_routes.data(), x.rows, n, a.data(), f, largest.data(), nullptr);
    });
    QuantizeKnown(a.data(), f, n, f, largest.data(), qa, nullptr);
    each([&] { ExpertDown(experts, device_routes.data(), qa, n, residual.data(), layout.d_pad, nullptr); });

    std::vector<float> want = before, want_a(static_cast<size_t>(n * f));
    for (int t = 0; t < n; ++t) {
      float* row_a = &want_a[static_cast<size_t>(t * f)];
      std::vector<const uint8_t*> down;
      for (int64_t i = 0; i < tiles; ++i) {
        const std::vector<uint8_t>& tile =
            host[static_cast<size_t>(routes[static_cast<size_t>(t)] * tiles + i)];
        TernaryMatrix rows;
        rows.base = tile.data();
        rows.group_stride = layout.d_pad;
        rows.num_blocks = layout.d_pad / 64;
        rows.num_groups = 26;
        std::vector<int32_t> sums(130);
        ref.ternary(rows, &x.host[static_cast<size_t>(t * layout.d_pad)], layout.d_pad, 1, sums.data(), 130,
                    0, 26);
        const auto* scales = reinterpret_cast<const float*>(tile.data() + layout.gate_scale_offset());
        ref.swiglu(sums.data(), sums.data() + 1, 2, scales, scales + 64, x.host_scale[static_cast<size_t>(t)],
                   64, row_a + 64 * i);
        down.push_back(tile.data() + layout.down_offset());
      }
      std::vector<int8_t> q(static_cast<size_t>(f));
      float scale = 0;
      ref.quantize(row_a, f, f, q.data(), &scale);
      TernaryMatrix columns;
      columns.table = down.data();
      columns.group_stride = 64;
      columns.num_blocks = tiles;
      columns.num_groups = Ceil(d, 5);
      std::vector<int32_t> sums(static_cast<size_t>(columns.num_groups * 5));
      ref.ternary(columns, q.data(), f, 1, sums.data(), columns.num_groups * 5, 0, columns.num_groups);
      for (int64_t i = 0; i < d; ++i)
        want[static_cast<size_t>(t * layout.d_pad + i)] +=
            static_cast<float>(sums[static_cast<size_t>(i)]) * scale;
    }
    EXPECT_TRUE(SameBytes(a.Get(), want_a)) << d;
    EXPECT_TRUE(SameBytes(residual.Get(), want)) << d;
  }

  void RunShared(int64_t d, int64_t f, int n) {
    const int64_t blocks = Ceil(d, 64), groups = Ceil(f, 4), stride = Ceil(f, 64) * 64;
    std::vector<uint8_t> gate(static_cast<size_t>(groups * blocks * 64)), up(gate.size());
    for (uint8_t& byte : gate) byte = static_cast<uint8_t>(random.Below(256));
    for (uint8_t& byte : up) byte = static_cast<uint8_t>(random.Below(256));
    const std::vector<float> gate_scale = random.Floats(f, -0.02f, 0.02f),
                             up_scale = random.Floats(f, -0.02f, 0.02f);
    const DeviceRows x = MakeRows(n, d);
    const Array<uint8_t> dgate(gate), dup(up);
    const Array<float> dgs(gate_scale), dus(up_scale), a(std::vector<float>(static_cast<size_t>(n * stride)));
    const Array<uint32_t> largest(std::vector<uint32_t>(static_cast<size_t>(n)));
    GateUp({dgate.data(), blocks, groups}, {dup.data(), blocks, groups}, dgs.data(), dus.data(), x.rows, n, f,
           a.data(), stride, largest.data(), nullptr);
    std::vector<float> want(static_cast<size_t>(n * stride));
    std::vector<uint32_t> want_largest;
    for (int t = 0; t < n; ++t) {
      std::vector<int32_t> g(static_cast<size_t>(groups * 4)), u(g.size());
      const int8_t* row = &x.host[static_cast<size_t>(t * blocks * 64)];
      ref.two_bit({gate.data(), blocks, groups}, row, blocks * 64, 1, g.data(), groups * 4, 0, groups);
      ref.two_bit({up.data(), blocks, groups}, row, blocks * 64, 1, u.data(), groups * 4, 0, groups);
      float* out = &want[static_cast<size_t>(t * stride)];
      ref.swiglu(g.data(), u.data(), 1, gate_scale.data(), up_scale.data(),
                 x.host_scale[static_cast<size_t>(t)], f, out);
      float most = 0;
      for (int64_t i = 0; i < f; ++i) most = std::max(most, std::fabs(out[i]));
      want_largest.push_back(std::bit_cast<uint32_t>(most));
    }
    EXPECT_TRUE(SameBytes(a.Get(), want)) << d << " x " << f;
    EXPECT_EQ(largest.Get(), want_largest);
  }
};

TEST_F(DeviceFfnTest, ExpertsInMemory) {
  RunExperts(64, 1, {0}, false);
  RunExperts(100, 2, {2}, false);
  RunExperts(192, 3, {2, 0, 2, 2, 1, 2, 2, 0}, false);
  RunExperts(1000, 9, {1, 1}, false);
}

TEST_F(DeviceFfnTest, ExpertsOneAfterTheOther) {
  RunExperts(100, 2, {2}, true);
  RunExperts(192, 3, {2, 0, 2, 2, 1, 2, 2, 0}, true);
}

TEST_F(DeviceFfnTest, SharedFfn) {
  RunShared(64, 64, 1);
  RunShared(100, 130, 1);
  RunShared(100, 130, 13);
  RunShared(1000, 6, 8);
}

}  // namespace
}  // namespace omni::kernels::device
