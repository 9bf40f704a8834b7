#include "cli/chat/chat.h"

#include <algorithm>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/output.h"
#include "cli/terminal.h"
#include "engine/base/quoted.h"

namespace omni::cli {
namespace {

constexpr char kPrompt[] = "> ", kMorePrompt[] = ". ";
constexpr std::string_view kBlock = "\"\"\"";
constexpr size_t kMostMessage = size_t{8} << 20;  // bytes

absl::Status Wrong(const std::string& why) { return absl::InvalidArgumentError(why); }

std::string CountOr(const std::optional<int64_t>& count, const char* otherwise) {
  return count.has_value() ? absl::StrCat(*count) : otherwise;
}

}  // namespace

const Chat::Command Chat::kCommands[] = {
    {"/help", "", "this list", &Chat::Help},
    {"/clear", "", "forget what was said, but for the system's message", &Chat::Clear},
    {"/system", "TEXT", "what the model is told before all else; without a text nothing", &Chat::System},
    {"/temp", "X", "the temperature from now on; 0 always takes the likeliest", &Chat::Temperature},
    {"/seed", "N", "the seed from now on", &Chat::Seed},
    {"/retry", "", "another answer to the last message, with the next seed", &Chat::Retry},
    {"/undo", "", "forget the last message and its answer", &Chat::Undo},
    {"/save", "FILE", "keep the chat and the model's state", &Chat::Save},
    {"/load", "FILE", "go on with a chat that was kept", &Chat::LoadCommand},
    {"/tokens", "", "how many the chat has", &Chat::Tokens},
    {"/exit", "", "end; so does Ctrl-D", &Chat::Exit},
};

void Chat::SetSystem(const std::string& text) {
  if (!messages_.empty() && messages_[0].role == "system") messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), {"system", text});
}

absl::Status Chat::Load(const std::string& path) {
  absl::StatusOr<ChatSession> session = LoadChat(path);
  if (!session.ok()) return session.status();
  messages_ = std::move(session->messages);
  settings_ = std::move(session->settings);
  last_ = {};
  const absl::Status kept = session->state.empty() ? absl::OkStatus() : model_.RestoreState(session->state);
  Note(absl::StrCat(path, ": ", messages_.size(), " messages",
                    kept.ok() ? "" : absl::StrCat("; their tokens are computed anew: ", kept.message())));
  return absl::OkStatus();
}

absl::Status Chat::Run(const std::string& first) {
  std::string text = first;
  for (bool more = !text.empty() || ReadMessage(text); more; more = !over_ && ReadMessage(text)) {
    absl::Status status;
    if (text.size() > kMostMessage) {
      status = Wrong(absl::StrCat("a message of ", text.size(), " bytes is more than ", kMostMessage));
    } else if (text.starts_with("/") && !text.starts_with("//")) {
      status = Obey(text);
    } else if (!absl::StripAsciiWhitespace(text).empty()) {
      status = Say(text.starts_with("//") ? text.substr(1) : text);
    }
    if (!FlushOutput()) break;  // nobody reads any more; FinishOutput says so
    if (status.ok()) continue;
    if (!options_.person) return status;
    Note(std::string(status.message()));
  }
  return absl::OkStatus();
}

// A line; more of them where one ends with a backslash, or between lines of three quotes.
bool Chat::ReadMessage(std::string& text) {
  text.clear();
  std::string line;
  bool block = false;
  while (true) {
    const bool first = text.empty() && !block;
    if (first && options_.before_message) options_.before_message();
    switch (lines_.Read(first ? kPrompt : kMorePrompt, line)) {
      case LineReader::End::kNoMore:
        return !text.empty();
      case LineReader::End::kInterrupted:
        if (first) Note("(Ctrl-D or /exit ends the chat)");
        text.clear();
        block = false;
        continue;
      case LineReader::End::kLine:
        break;
    }
    if (first && line.starts_with(kBlock)) {
      block = true;
      line.erase(0, kBlock.size());
    }
    const bool ends_block = block && line.ends_with(kBlock);
    if (ends_block) line.erase(line.size() - kBlock.size());
    const bool goes_on = block ? !ends_block : line.ends_with('\\');
    if (goes_on && !block) line.pop_back();
    text += line;
    if (!goes_on || text.size() > kMostMessage) return true;
    text += '\n';
  }
}

absl::Status Chat::Obey(const std::string& line) {
  const size_t space = std::min(line.find_first_of(" \t\n"), line.size());
  std::string name = line.substr(0, space);
  const std::string argument(absl::StripAsciiWhitespace(line.substr(space)));
  if (name == "/quit" || name == "/bye") name = "/exit";
  if (name == "/?") name = "/help";
  for (const Command& command : kCommands) {
    if (name != command.name) continue;
    if (*command.argument == '\0' && !argument.empty())
      return Wrong(absl::StrCat(name, " takes nothing behind it"));
    return (this->*command.run)(argument);
  }
  return Wrong(
      absl::StrCat(Quoted(name), " is no command; /help lists them, and // begins a message with a /"));
}

absl::Status Chat::Say(const std::string& text) {
  messages_.push_back({"user", text});
  bool answered = false;
  const absl::Status status = Answer(answered);
  if (answered) return status;
  messages_.pop_back();  // as if it had not been said
  if (status.ok()) Note("stopped before the answer began; the message is forgotten");
  return status;
}

absl::Status Chat::Answer(bool& answered) {
  if (options_.before_answer) options_.before_answer();
  ChatReply reply;
  bool begun = false;
  const absl::Status status = model_.Answer(
      messages_, settings_,
      [&](std::string_view text) {
        // What stands between the template's last word and the answer's first is for the model.
        if (!begun) text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
        begun = begun || !text.empty();
        Print(text);
        const bool written = FlushOutput();
        return written && !(options_.interrupted && options_.interrupted());
      },
      reply);
  // Also one that came as the answer ended by itself.
  const bool interrupted = options_.interrupted && options_.interrupted();
  if (options_.after_answer) options_.after_answer();
  if (begun) Print("\n");
  if (!status.ok()) {
    if (!begun) return status;
    return absl::Status(status.code(), absl::StrCat(status.message(), "; ", reply.message.content.size(),
                                                    " bytes of the answer came before, and are forgotten"));
  }
  if ((interrupted || reply.reason == "cancelled") && !options_.person) over_ = interrupted_ = true;
  answered = reply.reason != "cancelled" || !reply.message.content.empty();
  if (!answered) return absl::OkStatus();
  messages_.push_back(reply.message);
  last_ = std::move(reply);
  if (options_.stats) {
    const double rest = std::chrono::duration<double>(last_.rest).count();
    const int64_t generated = last_.generated.value_or(0);
    Note(absl::StrCat(
        "prompt ", CountOr(last_.computed, "?"), " tokens, ", CountOr(last_.kept, "0"),
        " kept · first text after ",
        absl::StrFormat("%.2f s", std::chrono::duration<double>(last_.first).count()), " · answer ",
        CountOr(last_.generated, "?"), " tokens",
        generated > 1 && rest > 0
            ? absl::StrCat(" at ", OneDecimal(static_cast<double>(generated - 1) / rest), " tok/s")
            : "",
        " · stopped: ", last_.reason));
    for (const std::string& line : last_.around) Note(line);
  }
  return absl::OkStatus();
}

bool Chat::HasExchange() const { return messages_.size() >= 2 && messages_.back().role == "assistant"; }

absl::Status Chat::Help(const std::string&) {
  for (const Command& command : kCommands)
    Note(absl::StrFormat("%-14s %s", absl::StrCat(command.name, " ", command.argument), command.help));
  Note("A line that ends with \\ goes on with the next; \"\"\" begins and ends a message of many lines.");
  Note("Ctrl-C stops an answer; what has come of it stays.");
  return absl::OkStatus();
}

absl::Status Chat::Clear(const std::string&) {
  const bool system = !messages_.empty() && messages_[0].role == "system";
  messages_.resize(system ? 1 : 0);
  last_ = {};
  return absl::OkStatus();
}

absl::Status Chat::System(const std::string& text) {
  SetSystem(text);
  return absl::OkStatus();
}

absl::Status Chat::Temperature(const std::string& value) {
  float x = 0;
  if (!absl::SimpleAtof(value, &x) || !kTemperatures.Has(x))
    return Wrong(absl::StrCat("/temp takes a number ", kTemperatures.Text(), "; it is ",
                              settings_.sampler.temperature, " now"));
  settings_.sampler.temperature = x;
  return absl::OkStatus();
}

absl::Status Chat::Seed(const std::string& value) {
  uint64_t seed = 0;
  if (!absl::SimpleAtoi(value, &seed) || seed > uint64_t{INT64_MAX})
    return Wrong(absl::StrCat("/seed takes a whole number from 0 to ", INT64_MAX, "; it is ",
                              settings_.sampler.seed, " now"));
  settings_.sampler.seed = seed;
  return absl::OkStatus();
}

absl::Status Chat::Retry(const std::string&) {
  if (!HasExchange()) return Wrong("there is no answer yet that could be given again");
  // The same seed would give the same answer.
  settings_.sampler.seed = (settings_.sampler.seed + 1) & uint64_t{INT64_MAX};
  const ChatMessage before = messages_.back();
  messages_.pop_back();
  bool answered = false;
  const absl::Status status = Answer(answered);
  if (!answered) messages_.push_back(before);
  return status;
}

absl::Status Chat::Undo(const std::string&) {
  if (!HasExchange()) return Wrong("there is nothing to be forgotten");
  messages_.resize(messages_.size() - 2);
  last_ = {};
  return absl::OkStatus();
}

absl::Status Chat::Save(const std::string& path) {
  if (path.empty()) return Wrong("/save takes the name of a file");
  if (absl::Status s = SaveChat(path, {messages_, settings_, model_.SaveState(messages_)}); !s.ok()) return s;
  Note(absl::StrCat(path, ": ", messages_.size(), " messages"));
  return absl::OkStatus();
}

absl::Status Chat::LoadCommand(const std::string& path) {
  if (path.empty()) return Wrong("/load takes the name of a file");
  return Load(path);
}

absl::Status Chat::Tokens(const std::string&) {
  if (!last_.computed.has_value()) {
    Note("nothing has been answered yet since the chat began, or whoever answers does not count");
    return absl::OkStatus();
  }
  const int64_t kept = last_.kept.value_or(0), generated = last_.generated.value_or(0);
  Note(absl::StrCat(kept + *last_.computed + generated, " tokens: ", kept, " known before the last message, ",
                    *last_.computed, " computed for it, ", generated, " answered"));
  return absl::OkStatus();
}

absl::Status Chat::Exit(const std::string&) {
  over_ = true;
  return absl::OkStatus();
}

}  // namespace omni::cli
