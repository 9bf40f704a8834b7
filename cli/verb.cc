#include "cli/verb.h"

#include <charconv>
#include <cmath>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include "cli/sizes.h"
#include "engine/base/threads.h"

namespace omni::cli {
namespace {

constexpr char kUsagePayload[] = "omni/usage";

// The message of a value that is not a number from low to high; empty if it is one.
template <typename T, typename Bound>
std::string NumberProblem(const std::string& text, Bound low, Bound high, const char* kind) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  bool good = error == std::errc() && at == end;
  if constexpr (std::is_floating_point_v<T>) good = good && std::isfinite(value);
  if (good && value >= low && value <= high) return {};
  return absl::StrCat("'", text, "' is not ", kind, " from ", low, " to ", high);
}

}  // namespace

absl::Status UsageError(const std::string& message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsagePayload, absl::Cord("1"));
  return status;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsagePayload).has_value(); }

Verb::Verb(CLI::App& root, Invocation& invocation, const std::string& name, const std::string& description,
           const std::string& examples)
    : invocation_(invocation), app_(*root.add_subcommand(name, description)) {
  app_.footer("Examples:\n" + examples +
              "\n\nEvery flag can be given by its environment variable; the command line wins.\n"
              "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.");
}

void Verb::Body(std::function<absl::StatusOr<int>()> body) {
  AddLogFlags();
  app_.callback([this_invocation = &invocation_, body = std::move(body)] { this_invocation->body = body; });
}

void Verb::AddLogFlags() {
  // The values have been checked when these are called.
  const auto set_format = [&log = invocation_.log](const std::string& name) {
    log.format = LogFormatNamed(name).value_or(log.format);
  };
  const auto set_level = [&log = invocation_.log](const std::string& name) {
    log.level = LogLevelNamed(name).value_or(log.level);
  };
  const auto check_format = [](const std::string& name) -> std::string {
    return LogFormatNamed(name) ? "" : absl::StrCat("'", name, "' is neither text nor json");
  };
  const auto check_level = [](const std::string& name) -> std::string {
    return LogLevelNamed(name) ? "" : absl::StrCat("'", name, "' is none of error, warning, info, debug");
  };
  Twin(app_.add_option_function<std::string>("--log", set_format,
                                             "Form of the log on stderr: text (default) or json"))
      ->type_name("FORM")
      ->check(CLI::Validator(check_format, ""));
  Twin(app_.add_option_function<std::string>(
           "--log-level", set_level, "The least that is logged: error, warning (default), info or debug"))
      ->type_name("LEVEL")
      ->check(CLI::Validator(check_level, ""));
}

CLI::Option* Verb::Twin(CLI::Option* option) {
  if (invocation_.verb == app_.get_name() && !option->get_lnames().empty()) {
    std::string name = absl::AsciiStrToUpper(option->get_lnames().front());
    option->envname("OMNI_" + absl::StrReplaceAll(name, {{"-", "_"}}));
  }
  return option;
}

CLI::Option* Verb::Text(const std::string& names, std::string& value, const std::string& help) {
  return Twin(app_.add_option(names, value, help))->type_name("TEXT");
}

CLI::Option* Verb::Texts(const std::string& names, std::vector<std::string>& values,
                         const std::string& help) {
  return Twin(app_.add_option(names, values, help))->type_name("TEXT")->type_size(1)->expected(1)->take_all();
}

CLI::Option* Verb::Bool(const std::string& names, bool& value, const std::string& help) {
  return Twin(app_.add_flag(names, value, help));
}

CLI::Option* Verb::Path(const std::string& names, std::string& value, const std::string& help) {
  return Twin(app_.add_option(names, value, help))->type_name("PATH");
}

CLI::Option* Verb::Number(const std::string& names, int64_t& value, int64_t low, int64_t high,
                          const std::string& help) {
  const auto check = [low, high](const std::string& text) {
    return NumberProblem<int64_t>(text, low, high, "a whole number");
  };
  return Twin(app_.add_option(names, value, help))->type_name("N")->check(CLI::Validator(check, ""));
}

CLI::Option* Verb::Size(const std::string& names, int64_t& value, const std::string& help) {
  const auto to_bytes = [](std::string& text) -> std::string {
    const absl::StatusOr<int64_t> bytes = ParseSize(text);
    if (!bytes.ok()) return std::string(bytes.status().message());
    text = absl::StrCat(*bytes);
    return {};
  };
  return Twin(app_.add_option(names, value, help))
      ->type_name("SIZE")
      ->transform(CLI::Validator(to_bytes, ""));
}

CLI::Option* Verb::Real(const std::string& names, float& value, double low, double high,
                        const std::string& help) {
  const auto check = [low, high](const std::string& text) {
    return NumberProblem<double>(text, low, high, "a number");
  };
  return Twin(app_.add_option(names, value, help))->type_name("X")->check(CLI::Validator(check, ""));
}

CLI::Option* Verb::Model(std::string& value) {
  return Path("-m,--model", value, "Packed model directory (default: the model shipped with Omni)");
}

CLI::Option* Verb::Threads(int64_t& value) {
  return Number("-t,--threads", value, 0, 1024,
                "Threads that compute; 0: one per core that this process may use (default)");
}

int ThreadsOrDefault(int64_t given) { return given > 0 ? static_cast<int>(given) : DefaultThreads(); }

CLI::Option* Verb::Json(bool& value) { return Bool("--json", value, "Print one JSON object"); }

}  // namespace omni::cli
