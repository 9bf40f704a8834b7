#include "engine/around/adapter_source.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/around/adapter.h"
#include "engine/base/quoted.h"

namespace omni {

absl::StatusOr<std::string> AdapterSource::Hash(const AdapterChoice& choice) {
  const absl::StatusOr<std::shared_ptr<const ReadyAdapter>> held = Take(choice);
  if (!held.ok()) return held.status();
  return (*held)->hash();
}

absl::StatusOr<std::shared_ptr<const ReadyAdapter>> Chosen(const AdapterChoice& choice,
                                                           std::shared_ptr<const ReadyAdapter> adapter) {
  if (choice.hash.empty() || choice.hash == adapter->hash()) return adapter;
  return absl::FailedPreconditionError(
      absl::StrCat("adapter: this goes on with the adapter ", Quoted(choice.name), " of hash ", choice.hash,
                   ", and the one of that name here is ", adapter->hash(),
                   "; put the file of it back that it began with, or begin anew"));
}

// What goes on with an adapter does so with none but that one; what is only asked for may be mistaken.
absl::Status NoAdapter(const AdapterChoice& choice, const absl::Status& why) {
  const auto code =
      choice.hash.empty() ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kFailedPrecondition;
  return absl::Status(code, absl::StrCat("adapter: ", why.message()));
}

}  // namespace omni
