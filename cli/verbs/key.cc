#include <chrono>
#include <memory>
#include <string>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "cli/door_flags.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/access_keys.h"
#include "engine/base/json.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

struct KeyArgs {
  std::string action, id, name, scope, keys;
  std::chrono::milliseconds expires{0};  // 0: never
  bool json = false;
  GivenFlags of_create;
};

KeyTime Now() { return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()); }

// All but the hash.
Json ToJson(const AccessKey& key) {
  Json scopes = Json::array();
  for (const Scope scope : kScopes) {
    if (key.scopes.Has(scope)) scopes.push_back(ScopeName(scope));
  }
  return {{"id", key.id},
          {"name", key.name},
          {"scopes", std::move(scopes)},
          {"created", KeyTimeText(key.created)},
          {"expires", key.expires.has_value() ? Json(KeyTimeText(*key.expires)) : Json(nullptr)},
          {"expired", key.expires.has_value() && *key.expires <= Now()}};
}

void Print(const Json& json) {
  PrintF("%s\n", JsonText(json));
  FlushOutput();
}

absl::StatusOr<int> Create(const KeyArgs& args, const std::string& file) {
  if (args.name.empty() || args.scope.empty()) {
    return UsageError(
        "omni key create wants --name, whose key it is, and --scope, what may be done with it: infer, tasks, "
        "admin, or several with commas between");
  }
  const absl::StatusOr<Scopes> scopes = Scopes::Parse(args.scope);
  if (!scopes.ok()) return UsageError(absl::StrCat("--scope: ", scopes.status().message()));
  std::optional<std::chrono::seconds> valid;
  if (args.expires.count() > 0) valid = std::chrono::ceil<std::chrono::seconds>(args.expires);
  const absl::StatusOr<NewKey> made = CreateKey(file, args.name, *scopes, valid, Now());
  if (absl::IsInvalidArgument(made.status())) return UsageError(std::string(made.status().message()));
  if (!made.ok()) return made.status();
  if (args.json) {
    Json json = ToJson(made->entry);
    json["key"] = made->key;
    json["file"] = file;
    Print(json);
    return kExitOk;
  }
  PrintF("%s\n", made->key);
  FlushOutput();
  Note(absl::StrCat("key ", made->entry.id, " of ", made->entry.name, " for ", made->entry.scopes.Text(),
                    made->entry.expires.has_value()
                        ? absl::StrCat(" until ", KeyTimeText(*made->entry.expires))
                        : std::string(", which does not expire"),
                    "; it is shown this once, ", file, " keeps its hash alone"));
  return kExitOk;
}

absl::StatusOr<int> List(const KeyArgs& args, const std::string& file) {
  const absl::StatusOr<std::vector<AccessKey>> keys = ReadKeys(file);
  if (!keys.ok()) return keys.status();
  if (args.json) {
    Json list = Json::array();
    for (const AccessKey& key : *keys) list.push_back(ToJson(key));
    Print({{"file", file}, {"keys", std::move(list)}});
    return kExitOk;
  }
  PrintF("%-12s  %-24s %-18s %-20s  %s\n", "id", "name", "scopes", "created", "expires");
  for (const AccessKey& key : *keys) {
    const bool over = key.expires.has_value() && *key.expires <= Now();
    PrintF("%-12s  %-24s %-18s %-20s  %s%s\n", key.id, key.name, key.scopes.Text(), KeyTimeText(key.created),
           key.expires.has_value() ? KeyTimeText(*key.expires) : "never", over ? ", so it is over" : "");
  }
  FlushOutput();
  return kExitOk;
}

absl::StatusOr<int> Revoke(const KeyArgs& args, const std::string& file) {
  if (args.id.empty()) return UsageError("omni key revoke wants the key's ID; omni key list shows it");
  const absl::StatusOr<AccessKey> revoked = RevokeKey(file, args.id);
  if (!revoked.ok()) return revoked.status();
  if (args.json) {
    Print({{"revoked", ToJson(*revoked)}, {"file", file}});
    return kExitOk;
  }
  PrintF("revoked %s of %s\n", revoked->id, revoked->name);
  FlushOutput();
  return kExitOk;
}

absl::StatusOr<int> RunKey(const KeyArgs& args) {
  if (args.action != "create" && args.action != "list" && args.action != "revoke")
    return UsageError(absl::StrCat("omni key knows create, list and revoke, not '", args.action, "'"));
  if (args.action != "create") {
    if (const std::string idle = args.of_create.First(); !idle.empty())
      return UsageError(absl::StrCat(idle, " does nothing for omni key ", args.action, "; leave it out"));
  }
  if (args.action != "revoke" && !args.id.empty())
    return UsageError(
        absl::StrCat("omni key ", args.action, " takes no further word; leave '", args.id, "' out"));
  if (args.keys == kNoKeys) {
    return UsageError(
        "--keys none is omni serve's word for no keys, and no file; leave it out, or say ./none for a file "
        "of "
        "that name");
  }
  std::string file = args.keys;
  if (file.empty()) {
    absl::StatusOr<std::string> path = DefaultKeysFile();
    if (!path.ok()) {
      return absl::Status(path.status().code(),
                          absl::StrCat(path.status().message(), "; or name a file with --keys"));
    }
    file = *std::move(path);
  }
  if (args.action == "create") return Create(args, file);
  return args.action == "list" ? List(args, file) : Revoke(args, file);
}

}  // namespace

void AddKey(CLI::App& root, Invocation& invocation) {
  Verb verb(root, invocation, "key", "Make, list and revoke the keys of omni serve's callers",
            "  omni key create --name notebook --scope infer --expires 90d\n"
            "  omni key create --name prometheus --scope admin --json | jq -r .key\n"
            "  omni key list\n"
            "  omni key revoke 5f1c0a9be2d4                   # heeded within a second, without a restart");
  auto args = std::make_shared<KeyArgs>();
  verb.Require(verb.Argument("ACTION", args->action, "create, list, or revoke ID"));
  verb.Argument("ID", args->id, "Of revoke: the key's id, as list shows it");
  args->of_create.Add(
      verb.Text("--name", args->name, "Of create: whose key it is; keys of one name share its limits"));
  args->of_create.Add(verb.Text("--scope", args->scope,
                                "Of create: what may be done with it, of infer, tasks and admin, with commas "
                                "between"));
  args->of_create.Add(
      verb.Duration("--expires", args->expires, "Of create: for how long it is good (default: for ever)"));
  verb.Path("--keys", args->keys, "The file of keys (default: keys.json below $XDG_STATE_HOME/omni)");
  verb.Json(args->json);
  verb.Body([args] { return RunKey(*args); });
}

}  // namespace omni::cli
