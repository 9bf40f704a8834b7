// The memory over gRPC, and what it keeps: whatever messages come one after the other, whoever sends them,
// each does what it says or is an error that can be shown, and nobody meets what another was told.
//
// An input is calls: a byte that says which and whose, two that say how long, the message. A plain list of
// all that was added stands beside the memory and says what must come of it.
#include "cluster/memory_calls.h"

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <google/protobuf/stubs/logging.h>

#include "engine/around/memory_vector.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

namespace pb = ::omni::memory::v1;

const int kRuns = 1500;
// The tables of a scope take 8 MiB, whatever is in it, and several may be in memory at once, and held; the
// database has 16 MiB of writes in memory.
const size_t kBaseBytes = size_t{160} << 20;

namespace {

enum Deed : uint8_t { kAdd, kAsk, kForget, kStats, kBeginImport, kImport, kHold, kRecord, kDeeds };
constexpr uint8_t kOther = 0x80;  // of a deed: it is another's

std::string Call(uint8_t deed, const std::string& message) {
  std::string call(1, static_cast<char>(deed));
  call += static_cast<char>(message.size() & 255);
  call += static_cast<char>(message.size() >> 8);
  return call + message;
}

std::string Facts(const std::string& scope, const std::vector<Association>& facts) {
  pb::AddRequest request;
  request.set_scope(scope);
  for (const Association& fact : facts) {
    pb::Association& one = *request.add_associations();
    one.set_key(fact.key);
    one.set_value(fact.value);
  }
  return request.SerializeAsString();
}
std::string Question(const std::string& scope, const std::string& key) {
  pb::AskRequest request;
  request.set_scope(scope);
  request.set_key(key);
  return request.SerializeAsString();
}
std::string Forgetting(const std::string& scope, const std::optional<std::string>& key) {
  pb::ForgetRequest request;
  request.set_scope(scope);
  if (key.has_value()) {
    request.set_key(*key);
  } else {
    request.set_all(true);
  }
  return request.SerializeAsString();
}
std::string Record(const std::string& key, const std::string& value) {
  return std::string(1, static_cast<char>(key.size())) + key + value;
}

}  // namespace

std::vector<std::string> Seeds() {
  const std::string captain = Facts("s", {{"the captain's name", "Ahab"}, {"the ship", "Pequod"}});
  std::string many;
  for (int i = 0; i < 40; ++i) many += Call(kAdd, Facts("", {{"key " + std::to_string(i), "v"}}));
  const std::string number(8, '\1');
  return {
      Call(kAdd, captain) + Call(kAsk, Question("s", "THE captain's name?")) +
          Call(kAsk | kOther, Question("s", "the ship")) + Call(kForget, Forgetting("s", "the ship")) +
          Call(kStats, "") + Call(kForget, Forgetting("s", std::nullopt)),
      Call(kAdd, captain) + Call(kAdd, Facts("t", {{"the ship", "Rachel"}, {"the ship", "Samuel Enderby"}})) +
          Call(kHold, "s") + Call(kHold, "s\n1-0") + Call(kAsk, Question("t", "the ship")),
      Call(kBeginImport, "") + Call(kImport, captain) +
          Call(kImport, Facts("", {{"a", std::string(3, '\0')}})) + Call(kImport, Facts("t", {{"b", ""}})) +
          Call(kStats, ""),
      Call(kAdd | kOther, captain) + Call(kStats | kOther, "") + Call(kStats, "") + Call(kHold | kOther, "s"),
      many + Call(kStats, "") + Call(kForget, Forgetting("", "key 7")),
      Call(kAdd, Facts("no/scope", {{"a", "b"}})) + Call(kAdd, Facts("s", {{"?!", "b"}})) +
          Call(kAdd, Facts("s", {{"", ""}})) + Call(kAsk, Question("s", "")),
      Call(kRecord, Record("a/s/" + number, std::string("\1\0\0\0kv", 6))) +
          Call(kRecord, Record("a/61~s/" + number, std::string("\1\0\0\0kv", 6))),
  };
}

namespace {

std::vector<Association> All(const pb::AddRequest& request) {
  std::vector<Association> all;
  for (const pb::Association& a : request.associations()) all.push_back({a.key(), a.value()});
  return all;
}

void RequireRefused(const absl::Status& status) {
  RequireReadable(status);
  Require(absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status),
          "what is wrong is the client's error");
}

// A folder in memory, which goes with it.
class Folder {
 public:
  Folder() {
    for (const char* root : {"/dev/shm", "/tmp"}) {
      path_ = std::string(root) + "/omni-fuzz-XXXXXX";
      if (mkdtemp(path_.data()) != nullptr) return;
    }
    Require(false, "a folder can be made in memory");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string memory() const { return path_ + "/memory"; }

 private:
  std::string path_;
};

// What one caller has added to a scope, in order.
struct Told {
  std::string key, value;
  size_t words;
  HyperVector vector;
};
using Scopes = std::map<std::pair<std::string, std::string>, std::vector<Told>>;  // by owner and scope

class Fuzzed {
 public:
  Fuzzed() {
    Open();
    // What the database keeps for the process is made before this is, and so outlives it.
    const std::vector<Association> one = {{"a", "b"}};
    Require(memory_->Add("s", one).ok(), "it can be used");
    Require(memory_->Forget("s", "a").ok(), "it can be used");
  }

  void Run(Input input) {
    std::optional<ImportCall> imports[2];
    while (!input.rest().empty()) {
      const uint8_t what = input.Byte();
      const bool other = (what & kOther) != 0;
      const auto size = input.Value<uint16_t>();
      const std::string message(input.Bytes(size));
      const std::string owner = other ? "o" : "";
      switch ((what & ~kOther) % kDeeds) {
        case kAdd:
          Add(owner, message);
          break;
        case kAsk:
          Ask(owner, message);
          break;
        case kForget:
          Forget(owner, message);
          break;
        case kStats:
          Stats(owner);
          break;
        case kBeginImport:
          imports[other].emplace(owner);
          break;
        case kImport:
          if (imports[other].has_value() && !Import(owner, *imports[other], message)) imports[other].reset();
          break;
        case kHold:
          Hold(owner, message);
          break;
        default:
          ReadRecord(message);
      }
    }
    held_.clear();
    if (++runs_ % 50 == 0) Open();  // what is on the disk is what is in memory
    for (const char* owner : {"", "o"}) Stats(owner);
    for (const auto& [of, told] : told_) {
      Require(*memory_->Forget(of.second, std::nullopt, of.first) == static_cast<int64_t>(told.size()),
              "all of a scope can be forgotten");
    }
    told_.clear();
    Require(memory_->AllStats()->empty(), "nothing is left");
    if (runs_ % 2000 == 0) {
      memory_ = nullptr;
      folder_ = std::make_unique<Folder>();
      Open();
    }
  }

 private:
  void Open() {
    memory_ = nullptr;
    // One scope is in memory at a time: whoever asks for another reads it from the disk.
    memory_ = omni::Memory::At(folder_->memory(), {.scope_bytes = 1, .held_versions = 2});
  }

  void Note(const std::string& owner, const pb::AddRequest& request, const std::string& scope) {
    for (const Association& a : All(request)) {
      told_[{owner, scope}].push_back({a.key, a.value, TextWords(a.key).size(), TextVector(a.key)});
      Require(told_[{owner, scope}].back().words > 0, "a key has a word");
    }
  }
  void Add(const std::string& owner, const std::string& message) {
    pb::AddRequest request;
    pb::AddResponse response;
    if (!request.ParseFromString(message)) return;
    const absl::Status status = AddCall(*memory_, owner, request, response);
    if (absl::IsResourceExhausted(status)) {
      RequireReadable(status);
      Require(held_.size() >= 2, "versions are only in the way where answers hold them");
      return;
    }
    if (!status.ok()) return RequireRefused(status);
    Require(response.added() == static_cast<uint64_t>(request.associations_size()), "all are added");
    if (request.associations_size() > 0) Note(owner, request, ScopeOrDefault(request.scope()));
  }
  // False: it has ended.
  bool Import(const std::string& owner, ImportCall& import, const std::string& message) {
    pb::AddRequest request;
    if (!request.ParseFromString(message)) return false;
    const uint64_t before = import.added();
    const absl::Status status = import.Take(*memory_, request);
    if (!status.ok()) {
      if (!absl::IsResourceExhausted(status)) RequireRefused(status);
      return false;
    }
    Require(import.added() == before + static_cast<uint64_t>(request.associations_size()), "all are added");
    if (request.associations_size() > 0) Note(owner, request, import.scope());
    return true;
  }

  // The values that the scope's keys have now, by key.
  std::vector<std::pair<HyperVector, std::string>> Current(const std::string& owner,
                                                           const std::string& scope) const {
    std::vector<std::pair<HyperVector, std::string>> current;
    const auto told = told_.find({owner, scope});
    if (told == told_.end()) return current;
    for (const Told& one : told->second) {
      const auto there =
          std::find_if(current.begin(), current.end(), [&](const auto& c) { return c.first == one.vector; });
      if (there != current.end()) {
        there->second = one.value;
      } else {
        current.emplace_back(one.vector, one.value);
      }
    }
    return current;
  }

  void Ask(const std::string& owner, const std::string& message) {
    pb::AskRequest request;
    pb::AskResponse response;
    if (!request.ParseFromString(message)) return;
    const absl::Status status = AskCall(*memory_, owner, request, response);
    if (!status.ok()) return RequireRefused(status);
    const auto current = Current(owner, ScopeOrDefault(request.scope()));
    const auto has = [&](const auto& c) { return c.second == response.value(); };
    Require(!response.found() || std::any_of(current.begin(), current.end(), has),
            "what is recalled is a value that a key of the scope has");
    // A key that is no other's neighbour has its own value.
    constexpr int64_t kFar = 2000;
    const HyperVector vector = TextVector(request.key());
    const std::string* value = nullptr;
    for (const auto& [key, its] : current) {
      if (key == vector) {
        value = &its;
      } else if (Distance(key, vector) < kFar) {
        return;
      }
    }
    if (value == nullptr || current.size() > 1000) return;
    Require(response.found() && response.value() == *value, "a key that was added has its value");
  }

  void Forget(const std::string& owner, const std::string& message) {
    pb::ForgetRequest request;
    pb::ForgetResponse response;
    if (!request.ParseFromString(message)) return;
    const absl::Status status = ForgetCall(*memory_, owner, request, response);
    if (!status.ok()) return RequireRefused(status);
    const HyperVector vector = TextVector(request.key());
    const size_t words = TextWords(request.key()).size();
    const auto told = told_.find({owner, ScopeOrDefault(request.scope())});
    size_t forgotten = 0;
    if (told != told_.end()) {
      forgotten = std::erase_if(told->second, [&](const Told& one) {
        return request.all() || (one.words == words && one.vector == vector);
      });
      if (told->second.empty()) told_.erase(told);
    }
    Require(response.forgotten() == forgotten, "what was added under the key is forgotten, and nothing else");
  }

  void Stats(const std::string& owner) {
    pb::StatsResponse response;
    const absl::Status status = StatsCall(*memory_, owner, response);
    Require(status.ok(), "a memory can be counted");
    int scopes = 0;
    for (const auto& [of, told] : told_) scopes += of.first == owner;
    Require(response.scopes_size() == scopes, "a caller sees the scopes that are the caller's");
    for (const pb::Scope& scope : response.scopes()) {
      const auto told = told_.find({owner, scope.scope()});
      Require(told != told_.end(), "a scope that something was added to");
      Require(scope.keys() == Current(owner, scope.scope()).size(), "of the keys each is counted once");
      Require(scope.version().starts_with(std::to_string(told->second.size()) + "-"),
              "a version counts the records");
    }
  }

  // "SCOPE" or "SCOPE\nVERSION"; kept until the input ends.
  void Hold(const std::string& owner, const std::string& message) {
    const size_t cut = std::min(message.find('\n'), message.size());
    const MemoryChoice choice{message.substr(0, cut), message.substr(std::min(cut + 1, message.size()))};
    absl::StatusOr<HeldMemory> held = memory_->Hold(owner, choice);
    if (!held.ok()) return RequireRefused(held.status());
    Require(choice.version.empty() || held->version == choice.version, "it is the version asked for");
    if (held_.size() < 4) held_.push_back(*std::move(held));
  }

  // A length, the key, the value.
  static void ReadRecord(const std::string& message) {
    if (message.empty()) return;
    const auto size = static_cast<uint8_t>(message[0]);
    const std::string key = message.substr(1, size);
    const std::string value = message.substr(std::min<size_t>(1 + size, message.size()));
    const std::optional<MemoryRecord> record = ReadMemoryRecord(key, value);
    if (!record.has_value()) return;
    Require(WriteMemoryRecord(*record) == std::pair(key, value), "what is read is written as the same bytes");
    Require(CheckAssociation(record->association).ok(), "what is read could have been added");
  }

  std::unique_ptr<Folder> folder_ = std::make_unique<Folder>();
  std::unique_ptr<omni::Memory> memory_;
  Scopes told_;
  std::vector<HeldMemory> held_;
  int64_t runs_ = 0;
};

Fuzzed& TheFuzzed() {
  static Fuzzed fuzzed;
  return fuzzed;
}

}  // namespace
}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni::fuzz;
  const google::protobuf::LogSilencer quiet;
  TheFuzzed().Run(Input(data, size));
  return 0;
}
