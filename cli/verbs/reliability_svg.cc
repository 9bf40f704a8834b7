#include "cli/verbs/reliability_svg.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace omni::cli {
namespace {

constexpr double kSide = 420, kLeft = 56, kTop = 24;
constexpr const char* kColours[] = {"#8a8a8a", "#d2601a", "#3a8f4d", "#10428c", "#8c1f6b"};

double X(double value) { return kLeft + value * kSide; }
double Y(double value) { return kTop + (1 - value) * kSide; }

}  // namespace

std::string ReliabilitySvg(const std::vector<std::pair<std::string, const CalibrationReport*>>& methods) {
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
      kLeft + kSide + 16, kTop + kSide + 48);
  for (int i = 0; i <= 5; ++i) {
    const double at = i / 5.0;
    absl::StrAppendFormat(&svg, "<path d=\"M%.1f %.1fH%.1fM%.1f %.1fV%.1f\" stroke=\"#e4e4e4\"/>\n", X(0),
                          Y(at), X(1), X(at), Y(0), Y(1));
    absl::StrAppendFormat(&svg,
                          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.1f</text>"
                          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.1f</text>\n",
                          X(0) - 6, Y(at) + 4, at, X(at), Y(0) + 16, at);
  }
  absl::StrAppendFormat(&svg, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"#555\" stroke-dasharray=\"4 4\"/>\n",
                        X(0), Y(0), X(1), Y(1));
  absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">confidence</text>\n",
                        X(0.5), Y(0) + 36);
  absl::StrAppendFormat(
      &svg,
      "<text transform=\"translate(16 %.1f) rotate(-90)\" text-anchor=\"middle\">share that "
      "is right</text>\n",
      Y(0.5));
  for (size_t m = 0; m < methods.size(); ++m) {
    const auto& [name, report] = methods[m];
    const char* colour = kColours[m % std::size(kColours)];
    std::string points;
    for (const ReliabilityBin& bin : report->reliability)
      absl::StrAppendFormat(&points, "%.1f,%.1f ", X(bin.confidence), Y(bin.accuracy));
    absl::StrAppend(&svg, "<polyline points=\"", points, "\" fill=\"none\" stroke=\"", colour, "\"/>\n");
    for (const ReliabilityBin& bin : report->reliability) {
      absl::StrAppendFormat(&svg,
                            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%s: confidence %.3f, "
                            "right %.3f, %d tokens</title></circle>\n",
                            X(bin.confidence), Y(bin.accuracy), colour, name, bin.confidence, bin.accuracy,
                            bin.tokens);
    }
    absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s, ECE %.4f</text>\n", X(0) + 12,
                          Y(1) + 18 + 16 * static_cast<double>(m), colour, name, report->ece);
  }
  return svg + "</svg>\n";
}

}  // namespace omni::cli
