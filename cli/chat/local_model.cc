#include "cli/chat/local_model.h"

#include <span>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cli/around_request.h"
#include "engine/base/quoted.h"
#include "engine/text/prompt.h"

namespace omni::cli {
namespace {

constexpr size_t kMostKept = 2;

// The last token has been drawn and not been computed.
SnapshotPtr WithoutTheLast(const SessionSnapshot& snapshot) {
  SessionSnapshot cut = snapshot.Clone();
  cut.tokens.resize(static_cast<size_t>(cut.state.position()));
  cut.generated = 0;
  return std::make_shared<const SessionSnapshot>(std::move(cut));
}

}  // namespace

// Where the text goes on otherwise than the last token says (it ended the answer, or overshot a stop), the
// state goes on without it.
LocalModel::Match LocalModel::Longest(std::string_view text) const {
  Match longest;
  for (const Kept& kept : kept_) {
    const SessionSnapshot& snapshot = *kept.snapshot;
    if (text.size() > kept.text.size() && kept.text.size() >= longest.bytes && text.starts_with(kept.text) &&
        snapshot.tokens.back() != Tokenizer::kEndOfText) {
      longest = {&kept, true, kept.text.size()};
      continue;
    }
    const auto seen = static_cast<size_t>(snapshot.state.position());
    const std::string computed = node_.model().tokenizer().Decode(std::span(snapshot.tokens).first(seen));
    if (seen == 0 || text.size() <= computed.size() || computed.size() < longest.bytes ||
        !text.starts_with(computed))
      continue;
    longest = {&kept, false, computed.size()};
  }
  return longest;
}

void LocalModel::Keep(SnapshotPtr snapshot) {
  if (snapshot == nullptr) return;
  std::string text = node_.model().tokenizer().Decode(snapshot->tokens);
  kept_.push_back({std::move(snapshot), std::move(text)});
  if (kept_.size() > kMostKept) kept_.pop_front();
}

absl::Status LocalModel::Answer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                                const OnText& on_text, ChatReply& reply) {
  const std::string text = chat_.Render(messages);
  const Tokenizer& tokenizer = node_.model().tokenizer();
  const Match known = Longest(text);
  SnapshotPtr from;
  if (known.kept != nullptr)
    from = known.whole ? known.kept->snapshot : WithoutTheLast(*known.kept->snapshot);
  GenerateRequest request = asks_;
  TokenReport report;
  const absl::StatusOr<HeldMemory> held = HoldAround(node_, request, report);
  if (!held.ok()) return held.status();
  request.prompt =
      from == nullptr ? PromptTokens(tokenizer, text) : tokenizer.Encode(text.substr(known.bytes));
  request.max_tokens = settings.max_tokens;
  request.sampler = settings.sampler;
  request.stops = chat_.stops();
  request.stops.insert(request.stops.end(), settings.stops.begin(), settings.stops.end());
  request.keep = true;
  reply.message = {"assistant", "", true};
  const int64_t context =
      std::ssize(request.prompt) + (from == nullptr ? int64_t{0} : std::ssize(from->tokens));
  absl::StatusOr<GenerateResult> result = node_.swarm().Generate(
      std::move(request),
      [&](const GenerateEvent& event) {
        report.Add(event);
        reply.message.content += event.text;
        return on_text(event.text);
      },
      from);
  if (!result.ok()) return result.status();
  reply.reason = StopReasonName(result->reason);
  reply.computed = result->timings.prompt_tokens;
  reply.kept = context - *reply.computed;
  reply.generated = result->timings.generated_tokens;
  reply.first = result->timings.prefill;
  reply.rest = result->timings.decode;
  report.SetAdapter(result->adapter.name, result->adapter.hash);  // which may have learned more meanwhile
  reply.around = report.Lines();
  Keep(std::move(result->snapshot));
  return absl::OkStatus();
}

std::string LocalModel::SaveState(const std::vector<ChatMessage>& messages) {
  std::vector<ChatMessage> next = messages;
  next.push_back({"user", ""});
  const Match known = Longest(chat_.Render(next));
  return known.kept == nullptr ? std::string() : known.kept->snapshot->Save(node_.model().hash());
}

absl::Status LocalModel::SameAdapter(const AdapterChoice& of_state) {
  if (of_state.name != asks_.adapter.name) {
    return absl::FailedPreconditionError(
        of_state.name.empty() ? "they were answered without an adapter"
                              : absl::StrCat("they were answered with the adapter ", Quoted(of_state.name)));
  }
  if (of_state.name.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> hash = node_.adapters().Hash(asks_.adapter);
  if (!hash.ok()) return hash.status();
  if (*hash == of_state.hash) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the adapter ", Quoted(of_state.name), " was ",
                                                    of_state.hash, " then, and is ", *hash, " now"));
}

absl::Status LocalModel::RestoreState(std::string_view bytes) {
  absl::StatusOr<SessionSnapshot> snapshot =
      SessionSnapshot::Restore(node_.model().config(), node_.model().hash(), bytes);
  if (!snapshot.ok()) return snapshot.status();
  if (absl::Status s = SameAdapter(snapshot->request.adapter); !s.ok()) return s;
  kept_.clear();
  Keep(std::make_shared<const SessionSnapshot>(*std::move(snapshot)));
  return absl::OkStatus();
}

}  // namespace omni::cli
