#include "engine/train/plot.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "engine/base/replace_file.h"

namespace omni::train {
namespace {

struct Point {
  double tokens, nats;
};

constexpr double kWidth = 860, kHeight = 420, kLeft = 64, kRight = 20, kTop = 24, kBottom = 48;

struct Axes {
  double max_tokens, low, high;
  double x(double tokens) const { return kLeft + (kWidth - kLeft - kRight) * tokens / max_tokens; }
  double y(double nats) const { return kTop + (kHeight - kTop - kBottom) * (high - nats) / (high - low); }
};

std::string Polyline(const Axes& axes, const std::vector<Point>& points, const char* colour) {
  std::string out = "<polyline fill=\"none\" stroke-width=\"1.5\" stroke=\"";
  absl::StrAppend(&out, colour, "\" points=\"");
  for (const Point& p : points) {
    absl::StrAppendFormat(&out, "%.1f,%.1f ", axes.x(p.tokens), axes.y(std::min(p.nats, axes.high)));
  }
  return out + "\"/>\n";
}

}  // namespace

absl::Status PlotLog(const std::string& log_path, const std::string& svg_path) {
  std::ifstream in(log_path);
  if (!in) return absl::NotFoundError(absl::StrCat(log_path, ": cannot be read"));
  std::vector<Point> train, valid;
  for (std::string line; std::getline(in, line);) {
    const auto entry = nlohmann::json::parse(line, nullptr, false);
    if (!entry.is_object()) continue;
    const auto number = [&](const char* key) -> std::optional<double> {
      const auto it = entry.find(key);
      return it != entry.end() && it->is_number() ? std::optional(it->get<double>()) : std::nullopt;
    };
    const std::optional<double> tokens = number("tokens"), loss = number("loss"),
                                nats = number("valid_nats_per_token");
    if (tokens && loss) train.push_back({*tokens, *loss});
    if (tokens && nats) valid.push_back({*tokens, *nats});
  }
  if (train.empty())
    return absl::InvalidArgumentError(absl::StrCat(log_path, ": holds no training step yet"));
  Axes axes{1, 1e9, -1e9};
  for (const auto* series : {&train, &valid}) {
    for (const Point& p : *series) {
      axes.max_tokens = std::max(axes.max_tokens, p.tokens);
      axes.low = std::min(axes.low, p.nats);
    }
  }
  // The first steps fall from log V; the picture is of what follows them.
  axes.high = std::max(axes.low + 0.5, train[train.size() / 20].nats);
  axes.low -= 0.05;
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      kWidth, kHeight);
  for (int i = 0; i <= 5; ++i) {
    const double nats = axes.low + (axes.high - axes.low) * i / 5, tokens = axes.max_tokens * i / 5;
    absl::StrAppendFormat(&svg, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
                          kLeft, kWidth - kRight, axes.y(nats), axes.y(nats));
    absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.2f</text>\n", kLeft - 6,
                          axes.y(nats) + 4, nats);
    absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.1f M</text>\n",
                          axes.x(tokens), kHeight - kBottom + 18, tokens / 1e6);
  }
  svg += Polyline(axes, train, "#4477aa") + Polyline(axes, valid, "#cc3311");
  absl::StrAppendFormat(&svg,
                        "<text x=\"%.1f\" y=\"%.1f\">nats per token over tokens trained: training (blue), "
                        "validation (red)</text>\n</svg>\n",
                        kLeft, kHeight - 8);
  return ReplaceFile(svg_path, svg);
}

}  // namespace omni::train
