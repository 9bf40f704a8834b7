#include "cli/perspective_flag.h"

#include <string>

namespace omni::cli {
namespace {

constexpr const char* kValue = "KIND[,...]";

}  // namespace

CLI::Option* AddPerspectives(Verb& verb, PerspectiveSettings& settings) {
  return verb.Value(
      "--perspectives", kValue,
      [&settings](const std::string& text) {
        const absl::StatusOr<PerspectiveSettings> read = ParsePerspectives(text);
        if (!read.ok()) return std::string(read.status().message());
        settings = *read;
        return std::string();
      },
      "Which three routings stand beside the router's own: near or far, and settings of them");
}

CLI::Option* AddPerspectives(Verb& verb, std::optional<PerspectiveSettings>& settings) {
  return verb.Value(
      "--perspectives", kValue,
      [&settings](const std::string& text) {
        if (text == "off") {
          settings.reset();
          return std::string();
        }
        const absl::StatusOr<PerspectiveSettings> read = ParsePerspectives(text);
        if (!read.ok()) return std::string(read.status().message()) + "; or off";
        settings = *read;
        return std::string();
      },
      "Look at tokens from four routings: off (default), near or far, then any of ,use=confidence|majority|"
      "average ,every=N ,examine=N ,below=P ,above=NATS ,tau=NATS");
}

}  // namespace omni::cli
