#include "engine/base/log_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <deque>
#include <vector>

#include <nlohmann/json.hpp>

namespace omni {
namespace {

constexpr double kNanosecondsPerMillisecond = 1e6;

template <typename... Format>
std::string NumberText(Format... number) {
  std::array<char, 400> text;  // the longest double without an exponent has 310 digits
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), number...);
  return error == std::errc() ? std::string(text.data(), end) : "?";
}

double Milliseconds(LogDuration duration) {
  return static_cast<double>(duration.nanoseconds) / kNanosecondsPerMillisecond;
}

struct TextOf {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return NumberText(value); }
  std::string operator()(double value) const { return NumberText(value); }
  std::string operator()(LogDuration value) const {
    return NumberText(Milliseconds(value), std::chars_format::fixed) + " ms";
  }
  std::string operator()(std::string_view value) const { return std::string(value); }
};

std::string Text(const LogValue& value) { return std::visit(TextOf(), value); }

// On one line of a terminal.
std::string Escaped(const std::string& text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      escaped += c;
    } else if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return escaped;
}

// The first bytes of a text, ending with a whole UTF-8 character where the text is UTF-8.
std::string Cut(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return std::string(text);
  size_t end = bytes;
  while (end > 0 && bytes - end < 3 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

struct FilledSentence {
  std::string sentence;
  std::vector<const LogField*> others;  // that the sentence does not name
};

FilledSentence Filled(const LogRecord& record) {
  FilledSentence filled;
  std::vector<bool> named(record.fields.size());
  std::string_view rest = record.sentence;
  while (true) {
    const size_t open = rest.find('{');
    const size_t close = open == rest.npos ? rest.npos : rest.find('}', open);
    if (close == rest.npos) break;
    const std::string_view key = rest.substr(open + 1, close - open - 1);
    const auto field = std::find_if(record.fields.begin(), record.fields.end(),
                                    [key](const LogField& candidate) { return candidate.key == key; });
    const bool found = field != record.fields.end();
    filled.sentence += rest.substr(0, found ? open : close + 1);
    if (found) {
      filled.sentence += Text(field->value);
      named[static_cast<size_t>(field - record.fields.begin())] = true;
    }
    rest.remove_prefix(close + 1);
  }
  filled.sentence += rest;
  for (size_t i = 0; i < named.size(); ++i) {
    if (!named[i]) filled.others.push_back(&record.fields[i]);
  }
  return filled;
}

std::string JsonPayload(const LogRecord& record) {
  nlohmann::ordered_json fields = nlohmann::ordered_json::object();
  for (const LogField& field : record.fields) {
    if (const auto* duration = std::get_if<LogDuration>(&field.value)) {
      fields[std::string(field.key) + "_ms"] = Milliseconds(*duration);
    } else {
      std::visit(
          [&json = fields[std::string(field.key)]](const auto& value) {
            if constexpr (!std::is_same_v<decltype(value), const LogDuration&>) json = value;
          },
          field.value);
    }
  }
  const nlohmann::ordered_json line = {
      {"event", record.event}, {"message", Filled(record).sentence}, {"fields", fields}};
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).substr(1);
}

}  // namespace

std::string LogMessage(const LogRecord& record) {
  FilledSentence filled = Filled(record);
  const char* before = " (";
  for (const LogField* field : filled.others) {
    filled.sentence += before + std::string(field->key) + '=' + Text(field->value);
    before = ", ";
  }
  return filled.sentence + (filled.others.empty() ? "" : ")");
}

std::string LogPayload(LogFormat format, const LogRecord& record, size_t most_bytes) {
  for (const size_t most_text : {size_t{1500}, size_t{150}, size_t{15}}) {
    std::deque<std::string> texts;
    std::vector<LogField> fields(record.fields.begin(), record.fields.end());
    for (LogField& field : fields) {
      if (const auto* text = std::get_if<std::string_view>(&field.value))
        field.value = std::string_view(texts.emplace_back(Cut(*text, most_text)));
    }
    LogRecord cut = record;
    cut.fields = fields;
    std::string payload = format == LogFormat::kJson ? JsonPayload(cut) : Escaped(LogMessage(cut));
    if (payload.size() <= most_bytes) return payload;
  }
  LogRecord bare = record;
  bare.fields = {};
  return format == LogFormat::kJson ? JsonPayload(bare) : Escaped(std::string(record.event));
}

}  // namespace omni
