#include "cli/verbs/capacity_svg.h"

#include <cmath>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace omni::cli {
namespace {

constexpr double kWidth = 560, kHeight = 320, kLeft = 56, kTop = 24;
constexpr int kSteps = 200;  // of theory's lines

}  // namespace

std::string CapacitySvg(const std::vector<CapacityPoint>& points) {
  const double low = std::log10(static_cast<double>(points.front().items)),
               high = std::log10(static_cast<double>(points.back().items));
  const auto x = [&](double items) { return kLeft + (std::log10(items) - low) / (high - low) * kWidth; };
  const auto y = [](double share) { return kTop + (1 - share) * kHeight; };
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
      kLeft + kWidth + 40, kTop + kHeight + 48);
  for (int i = 0; i <= 5; ++i) {
    absl::StrAppendFormat(&svg,
                          "<path d=\"M%.1f %.1fh%.1f\" stroke=\"#e4e4e4\"/>"
                          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%d %%</text>\n",
                          kLeft, y(i / 5.0), kWidth, kLeft - 6, y(i / 5.0) + 4, 20 * i);
  }
  for (const CapacityPoint& p : points) {
    const double at = x(static_cast<double>(p.items));
    absl::StrAppendFormat(&svg,
                          "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#e4e4e4\"/>"
                          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%dk</text>\n",
                          at, y(0), y(1), at, y(0) + 16, p.items / 1000);
  }
  absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">associations</text>\n",
                        kLeft + kWidth / 2, y(0) + 36);
  absl::StrAppendFormat(&svg,
                        "<text transform=\"translate(14 %.1f) rotate(-90)\" text-anchor=\"middle\">values "
                        "that come back</text>\n",
                        y(0.5));
  const double banks = static_cast<double>(points.back().items) / points.back().load;
  for (const bool noisy : {false, true}) {
    const char* colour = noisy ? "#d2601a" : "#10428c";
    std::string line;
    for (int i = 0; i <= kSteps; ++i) {
      const double items = std::pow(10, low + (high - low) * i / kSteps);
      absl::StrAppendFormat(&line, "%.1f,%.1f ", x(items), y(ExpectedRecall(items / banks, noisy ? 0.1 : 0)));
    }
    absl::StrAppend(&svg, "<polyline points=\"", line, "\" fill=\"none\" stroke=\"", colour, "\"/>\n");
    for (const CapacityPoint& p : points) {
      const double share = noisy ? p.noisy : p.exact;
      absl::StrAppendFormat(
          &svg,
          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%d associations: %.3f %%, "
          "theory %.3f %%</title></circle>\n",
          x(static_cast<double>(p.items)), y(share), colour, p.items, 100 * share,
          100 * (noisy ? p.noisy_expected : p.exact_expected));
    }
    absl::StrAppendFormat(
        &svg, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s: measured (points), theory (line)</text>\n",
        kLeft + 12, y(noisy ? 0.12 : 0.2), colour, noisy ? "a tenth of the key's bits wrong" : "exact keys");
  }
  return svg + "</svg>\n";
}

}  // namespace omni::cli
