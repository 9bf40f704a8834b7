#include "cli/verbs/torus_svg.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace omni::cli {
namespace {

constexpr int64_t kCell = 44, kGap = 28, kTop = 56;
constexpr size_t kMostLines = 400;  // more would hide each other

// White to deep blue by the root of the share, so that rare visits are seen too.
std::string Shade(int64_t count, int64_t most) {
  const double t = most > 0 ? std::sqrt(static_cast<double>(count) / static_cast<double>(most)) : 0;
  const auto mix = [t](int from, int to) { return static_cast<int>(std::lround(from + t * (to - from))); };
  return absl::StrFormat("#%02x%02x%02x", mix(255, 16), mix(255, 66), mix(255, 140));
}

struct Line {
  ExpertId from, to;
  int64_t count;
};

// The steps that are drawn, rare ones first, so that frequent ones lie on top.
std::vector<Line> Lines(const Steps& steps) {
  std::vector<Line> lines;
  for (const auto& [step, count] : steps) {
    if (step.first != step.second) lines.push_back({step.first, step.second, count});
  }
  std::stable_sort(lines.begin(), lines.end(),
                   [](const Line& a, const Line& b) { return a.count < b.count; });
  if (lines.size() > kMostLines)
    lines.erase(lines.begin(), lines.end() - static_cast<std::ptrdiff_t>(kMostLines));
  return lines;
}

// The middle of an expert's cell.
std::pair<int64_t, int64_t> Centre(const ModelConfig& c, ExpertId expert) {
  const int64_t i = expert.value % c.lattice[0], j = expert.value / c.lattice[0] % c.lattice[1],
                k = expert.value / c.lattice[0] / c.lattice[1];
  return {kGap + k * (c.lattice[0] * kCell + kGap) + i * kCell + kCell / 2, kTop + j * kCell + kCell / 2};
}

void DrawLines(const ModelConfig& c, const Steps& steps, std::string* svg) {
  const std::vector<Line> lines = Lines(steps);
  for (const Line& line : lines) {
    const double strength =
        std::sqrt(static_cast<double>(line.count) / static_cast<double>(lines.back().count));
    const auto [x1, y1] = Centre(c, line.from);
    const auto [x2, y2] = Centre(c, line.to);
    absl::StrAppendFormat(svg,
                          "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"#d2601a\" "
                          "stroke-width=\"%.2f\" stroke-opacity=\"%.2f\"><title>expert %d to %d: %d"
                          "</title></line>\n",
                          x1, y1, x2, y2, 0.5 + 3 * strength, 0.15 + 0.6 * strength, line.from.value,
                          line.to.value, line.count);
  }
}

}  // namespace

std::string TorusSvg(const ModelConfig& c, std::span<const int64_t> visits, const Steps& steps) {
  const auto [nx, ny, nz] = c.lattice;
  const int64_t most = visits.empty() ? 0 : *std::max_element(visits.begin(), visits.end());
  int64_t total = 0;
  for (int64_t v : visits) total += v;
  const int64_t width = kGap + nz * (nx * kCell + kGap);
  const int64_t height = kTop + ny * kCell + kGap;
  std::string svg =
      absl::StrCat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", width, " ", height,
                   "\" font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
                   "<text x=\"", kGap, "\" y=\"22\" font-size=\"15\">Experts visited: ", total,
                   " tokens × layers, darkest ", most, "; every axis wraps</text>\n");
  for (int64_t k = 0; k < nz; ++k) {
    const int64_t x0 = kGap + k * (nx * kCell + kGap);
    absl::StrAppend(&svg, "<text x=\"", x0, "\" y=\"", kTop - 8, "\" font-size=\"12\">slice k = ", k,
                    "</text>\n");
    for (int64_t j = 0; j < ny; ++j) {
      for (int64_t i = 0; i < nx; ++i) {
        const int64_t id = i + nx * (j + ny * k);
        const int64_t count = visits[static_cast<size_t>(id)];
        const int64_t x = x0 + i * kCell, y = kTop + j * kCell;
        const char* ink = most > 0 && count * 4 > most ? "#fff" : "#333";
        absl::StrAppend(&svg, "<g><title>expert ", id, " (", i, ",", j, ",", k, "): ", count,
                        "</title><rect x=\"", x, "\" y=\"", y, "\" width=\"", kCell, "\" height=\"", kCell,
                        "\" fill=\"", Shade(count, most), "\" stroke=\"#ccc\"/>");
        if (count > 0) {
          absl::StrAppend(&svg, "<text x=\"", x + kCell / 2, "\" y=\"", y + kCell / 2 + 4,
                          "\" font-size=\"11\" text-anchor=\"middle\" fill=\"", ink, "\">", count, "</text>");
        }
        absl::StrAppend(&svg, "</g>\n");
      }
    }
    for (int64_t j = 0; j < ny; j += c.region[1]) {
      for (int64_t i = 0; i < nx; i += c.region[0]) {
        absl::StrAppend(&svg, "<rect x=\"", x0 + i * kCell, "\" y=\"", kTop + j * kCell, "\" width=\"",
                        c.region[0] * kCell, "\" height=\"", c.region[1] * kCell,
                        "\" fill=\"none\" stroke=\"#555\" stroke-width=\"1.5\"/>\n");
      }
    }
  }
  DrawLines(c, steps, &svg);
  absl::StrAppend(&svg, "</svg>\n");
  return svg;
}

}  // namespace omni::cli
