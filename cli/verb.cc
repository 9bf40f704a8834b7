#include "cli/verb.h"

#include <charconv>
#include <cstdlib>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/time/time.h>

#include "cli/sizes.h"
#include "cli/words.h"
#include "engine/base/threads.h"

namespace omni::cli {
namespace {

constexpr char kUsagePayload[] = "omni/usage";

// Takes a number in `range`; else says what it is not.
template <typename T>
std::string ReadNumber(const std::string& text, Range<T> range, const char* kind, T& value) {
  std::conditional_t<std::is_floating_point_v<T>, double, T> read{};
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, read);
  if (error == std::errc() && at == end && range.Has(static_cast<T>(read))) {
    value = static_cast<T>(read);
    return {};
  }
  return absl::StrCat("'", text, "' is not ", kind, " ", range.Text());
}

std::string ReadBool(const std::string& text, bool& value) {
  try {
    value = CLI::detail::to_flag_value(text) > 0;
  } catch (const std::invalid_argument&) {
    return absl::StrCat("'", text, "' is neither true nor false");
  }
  return {};
}

bool Taken(const CLI::results_t&) { return true; }  // by the check already

std::string VariableOf(const CLI::Option& option) {
  const std::string name = absl::AsciiStrToUpper(option.get_lnames().front());
  return "OMNI_" + absl::StrReplaceAll(name, {{"-", "_"}});
}

}  // namespace

absl::Status UsageError(const std::string& message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsagePayload, absl::Cord("1"));
  return status;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsagePayload).has_value(); }

// Says of each flag which variable it has, and whether it is required.
class Verb::Help final : public CLI::Formatter {
 public:
  explicit Help(std::shared_ptr<const std::vector<Flag>> flags) : flags_(std::move(flags)) {}

  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text = CLI::Formatter::make_option_opts(option);
    for (const Flag& flag : *flags_) {
      if (flag.option == option)
        absl::StrAppend(&text, flag.required ? " REQUIRED" : "", " (Env:", flag.variable, ")");
    }
    return text;
  }

 private:
  std::shared_ptr<const std::vector<Flag>> flags_;
};

Verb::Verb(CLI::App& root, Invocation& invocation, const std::string& name, const std::string& description,
           const std::string& examples)
    : invocation_(invocation),
      app_(*root.add_subcommand(name, description)),
      flags_(std::make_shared<std::vector<Flag>>()) {
  app_.formatter(std::make_shared<Help>(flags_));
  app_.footer("Examples:\n" + examples +
              "\n\nEvery flag can be given by its environment variable; the command line wins.\n"
              "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.");
}

void Verb::Body(std::function<absl::StatusOr<int>()> body) {
  AddLogFlags();
  app_.callback([&invocation = invocation_, flags = flags_, body = std::move(body)] {
    ReadEnvironment(*flags);
    invocation.body = body;
  });
}

void Verb::AddLogFlags() {
  const auto read_form = [&log = invocation_.log](const std::string& name) -> std::string {
    const auto form = LogFormatNamed(name);
    if (!form) return absl::StrCat("'", name, "' is neither text nor json");
    log.format = *form;
    return {};
  };
  const auto read_level = [&log = invocation_.log](const std::string& name) -> std::string {
    const auto level = LogLevelNamed(name);
    if (!level) return absl::StrCat("'", name, "' is none of error, warning, info, debug");
    log.level = *level;
    return {};
  };
  Value("--log", "FORM", read_form, "Form of the log on stderr: text (default) or json");
  Value("--log-level", "LEVEL", read_level,
        "The least that is logged: error, warning (default), info or debug");
}

void Verb::ReadEnvironment(const std::vector<Flag>& flags) {
  for (const Flag& flag : flags) {
    if (flag.option->count() > 0) continue;
    const char* text = std::getenv(flag.variable.c_str());
    if (text != nullptr && *text != '\0') {
      if (const std::string problem = flag.read(text); !problem.empty())
        throw CLI::ValidationError(flag.variable, problem);
    } else if (flag.required) {
      throw CLI::RequiredError(flag.option->get_name());
    }
  }
}

CLI::Option* Verb::Remember(CLI::Option* option, ReadValue read) {
  flags_->push_back({option, VariableOf(*option), std::move(read)});
  return option;
}

CLI::Option* Verb::Argument(const std::string& name, std::string& value, const std::string& help) {
  return app_.add_option(name, value, help)->type_name("");
}

CLI::Option* Verb::Files(const std::string& name, std::vector<std::string>& values, const std::string& help) {
  const CLI::callback_t take = [&values](const CLI::results_t& texts) {
    values = texts;
    return true;
  };
  return app_.add_option(name, take, help)->type_name("")->expected(1, -1)->allow_extra_args();
}

CLI::Option* Verb::Value(const std::string& names, const std::string& type, ReadValue read,
                         const std::string& help) {
  CLI::Option* option = app_.add_option(names, CLI::callback_t(Taken), help)->type_name(type);
  return Remember(option->check([read](const std::string& text) { return read(text); }), read);
}

CLI::Option* Verb::Switch(const std::string& names, ReadValue read, const std::string& help) {
  CLI::Option* option = app_.add_flag_function(
      names, [](int64_t) {}, help);
  return Remember(option->check([read](const std::string& text) { return read(text); }), read);
}

CLI::Option* Verb::Text(const std::string& names, std::string& value, const std::string& help) {
  const auto read = [&value](const std::string& text) {
    value = text;
    return std::string();
  };
  return Value(names, "TEXT", read, help);
}

CLI::Option* Verb::Texts(const std::string& names, std::vector<std::string>& values,
                         const std::string& help) {
  const auto read = [&values](const std::string& text) -> std::string {
    if (text.empty()) return "a text is empty; leave it out";
    values.push_back(text);
    return {};
  };
  return Value(names, "TEXT", read, help)->take_all();
}

CLI::Option* Verb::Choice(const std::string& names, std::string& value,
                          const std::vector<std::string>& choices, const std::string& help) {
  const auto read = [&value, choices](const std::string& text) -> std::string {
    for (const std::string& choice : choices) {
      if (text != choice) continue;
      value = text;
      return {};
    }
    return absl::StrCat("'", text, "' is none of ", absl::StrJoin(choices, ", "));
  };
  return Value(names, "{" + absl::StrJoin(choices, ",") + "}", read, help);
}

CLI::Option* Verb::Bool(const std::string& names, bool& value, const std::string& help) {
  return Switch(
      names, [&value](const std::string& text) { return ReadBool(text, value); }, help);
}

CLI::Option* Verb::Bool(const std::string& names, std::optional<bool>& value, const std::string& help) {
  const auto read = [&value](const std::string& text) {
    bool on = false;
    std::string problem = ReadBool(text, on);
    if (problem.empty()) value = on;
    return problem;
  };
  return Switch(names, read, help);
}

CLI::Option* Verb::Path(const std::string& names, std::string& value, const std::string& help) {
  const auto read = [&value](const std::string& text) -> std::string {
    if (text.empty()) return "the path is empty; leave the flag out, or name a file or directory";
    value = text;
    return {};
  };
  return Value(names, "PATH", read, help);
}

CLI::Option* Verb::Number(const std::string& names, int64_t& value, Range<int64_t> range,
                          const std::string& help) {
  const auto read = [&value, range](const std::string& text) {
    return ReadNumber(text, range, "a whole number", value);
  };
  return Value(names, "N", read, help);
}

CLI::Option* Verb::Size(const std::string& names, int64_t& value, const std::string& help) {
  const auto read = [&value](const std::string& text) -> std::string {
    const absl::StatusOr<int64_t> bytes = ParseSize(text);
    if (!bytes.ok()) return std::string(bytes.status().message());
    value = *bytes;
    return {};
  };
  return Value(names, "SIZE", read, help);
}

CLI::Option* Verb::Duration(const std::string& names, std::chrono::milliseconds& value,
                            const std::string& help) {
  const auto read = [&value](const std::string& text) -> std::string {
    constexpr int kMostDays = 3652;
    absl::Duration duration;
    int days = 0;
    const bool in_days =
        text.ends_with('d') && absl::SimpleAtoi(text.substr(0, text.size() - 1), &days) && days <= kMostDays;
    if (in_days) duration = days * absl::Hours(24);
    if ((!in_days && !absl::ParseDuration(text, &duration)) || duration < absl::Seconds(1) ||
        duration > kMostDays * absl::Hours(24)) {
      return absl::StrCat("'", text.substr(0, 40),
                          "' is not a time from 1s to ten years; give it as 90s, 10m, 1h30m or 7d");
    }
    value = absl::ToChronoMilliseconds(duration);
    return {};
  };
  return Value(names, "TIME", read, help);
}

CLI::Option* Verb::Real(const std::string& names, float& value, Range<float> range, const std::string& help) {
  const auto read = [&value, range](const std::string& text) {
    return ReadNumber(text, range, "a number", value);
  };
  return Value(names, "X", read, help);
}

std::function<bool()> Verb::OnCommandLine(const CLI::Option* option) {
  return [option] { return option->count() > 0; };
}

void Verb::Require(CLI::Option* option) {
  for (Flag& flag : *flags_) flag.required = flag.required || flag.option == option;
}

CLI::Option* Verb::Model(std::string& value) {
  return Path("-m,--model", value, "Packed model directory (default: the model shipped with Omni)");
}

CLI::Option* Verb::Threads(int64_t& value) {
  return Number("-t,--threads", value, {0, 1024},
                "Threads that compute; 0: one per core that this process may use (default)");
}

CLI::Option* Verb::Json(bool& value) { return Bool("--json", value, "Print one JSON object"); }

void GivenFlags::Add(const CLI::Option* option) {
  flags_.push_back({option->get_name(), Verb::OnCommandLine(option)});
}

std::string GivenFlags::First() const {
  for (const auto& [name, on_command_line] : flags_) {
    if (on_command_line()) return name;
  }
  return "";
}

int ThreadsOrDefault(int64_t given) { return given > 0 ? static_cast<int>(given) : DefaultThreads(); }

void AddTask(CLI::App& root, Invocation& invocation);  // cli/verbs/task.cc

void AddVerbs(CLI::App& root, Invocation& invocation) {
  AddRun(root, invocation);
  AddChat(root, invocation);
  AddPack(root, invocation);
  AddSynth(root, invocation);
  AddInspect(root, invocation);
  AddVerify(root, invocation);
  AddPlan(root, invocation);
  AddDoctor(root, invocation);
  AddEval(root, invocation);
  AddTrace(root, invocation);
  AddBench(root, invocation);
  AddTrain(root, invocation);
  AddServe(root, invocation);
  AddNode(root, invocation);
  AddCluster(root, invocation);
  AddKey(root, invocation);
  AddMemory(root, invocation);
  AddSafety(root, invocation);
  AddAdapt(root, invocation);
  AddMcp(root, invocation);
  AddTask(root, invocation);
  AddCompletion(root, invocation);
}

namespace {

// What takes any number of words without a name; null: nothing does.
const CLI::Option* ListOf(const CLI::App& verb) {
  const auto lists = verb.get_options(
      [](const CLI::Option* option) { return option->get_positional() && option->get_allow_extra_args(); });
  return lists.empty() ? nullptr : lists.front();
}

// A word that is no flag and no flag's value, as the parser leaves it alone.
std::string LiteralArgument(const CLI::Option* list, const std::string& word) {
  const bool splits = list != nullptr && word.starts_with('[') && word.ends_with(']');
  return splits ? LiteralWord(*list, word) : word;
}

}  // namespace

std::vector<std::string> LiteralWords(const CLI::App& root, const std::vector<std::string>& words) {
  const auto verbs = root.get_subcommands(
      [&](const CLI::App* verb) { return !words.empty() && verb->get_name() == words[0]; });
  if (verbs.empty()) return words;
  const CLI::App* verb = verbs.front();
  const auto takes_value = [&](const std::string& name) {
    const CLI::Option* option = name.starts_with('-') ? verb->get_option_no_throw(name) : nullptr;
    return option != nullptr && option->get_items_expected_max() > 0;
  };
  const CLI::Option* list = ListOf(*verb);
  const bool takes_words = list != nullptr && IsWords(*list);
  std::vector<std::string> result = {words[0]};
  bool flags = true;  // until "--"
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    const bool mark = flags && word == "--";
    flags = flags && !mark;
    // After it the parser gives nothing more to a list that has something.
    if (mark && takes_words) continue;
    if (!flags && takes_words && word.starts_with('-')) {
      result.push_back(LiteralWord(*list, word));
    } else if (!flags || !word.starts_with('-')) {
      result.push_back(LiteralArgument(list, word));
    } else if (takes_value(word)) {  // its value follows, whatever it looks like
      result.push_back(word);
      if (++i < words.size()) result.push_back(words[i]);
    } else if (word.starts_with("--") && word.ends_with('=') &&
               takes_value(word.substr(0, word.size() - 1))) {
      result.push_back(word.substr(0, word.size() - 1));
      result.emplace_back();
    } else {
      result.push_back(word);
    }
  }
  return result;
}

}  // namespace omni::cli
