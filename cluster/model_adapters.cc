#include "cluster/model_adapters.h"

#include <sys/stat.h>

#include <algorithm>
#include <new>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/around/adapter_bytes.h"
#include "engine/base/log.h"

namespace omni {
namespace {

// Ready beside those that sessions hold.
constexpr size_t kMostReady = 16;

}  // namespace

absl::StatusOr<int64_t> MostAdapterBytes(const AdapterFiles& files, const std::string& name, int64_t d) {
  const absl::StatusOr<std::string> bytes = files.Load(name);
  if (!bytes.ok()) return bytes.status();
  const absl::StatusOr<Adapter> adapter = Adapter::Read(*bytes);
  if (!adapter.ok()) return adapter.status();
  return AdapterBytes(*adapter, d) + std::ssize(*bytes);
}

ModelAdapters::ModelAdapters(const ModelConfig& config, std::string model_hash, const std::string& dir)
    : config_(config),
      model_hash_(std::move(model_hash)),
      files_(dir.empty() ? OpenAdapterFiles() : absl::StatusOr<AdapterFiles>(AdapterFiles(dir))) {}

ModelAdapters::Version ModelAdapters::VersionOf(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return {};
  constexpr int64_t kBillion = 1'000'000'000;
  return {st.st_dev, st.st_ino, static_cast<uint64_t>(st.st_size),
          st.st_mtim.tv_sec * kBillion + st.st_mtim.tv_nsec};
}

absl::StatusOr<std::shared_ptr<const ReadyAdapter>> ModelAdapters::Read(const std::string& name) {
  const auto named = [&](const absl::Status& s) {
    return absl::Status(s.code(), absl::StrCat(files_->PathOf(name), ": ", s.message()));
  };
  try {
    absl::StatusOr<std::string> bytes = files_->Load(name);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<Adapter> adapter = Adapter::Read(*bytes);
    if (!adapter.ok()) return named(adapter.status());
    std::string().swap(*bytes);  // its hash takes as many
    if (absl::Status s = adapter->Fits(config_, model_hash_); !s.ok()) return named(s);
    return std::make_shared<const ReadyAdapter>(config_, *std::move(adapter));
  } catch (const std::bad_alloc&) {
    return named(absl::ResourceExhaustedError("no memory for it"));
  }
}

absl::StatusOr<std::shared_ptr<const ReadyAdapter>> ModelAdapters::Take(const AdapterChoice& choice) {
  if (!files_.ok()) return NoAdapter(choice, files_.status());
  if (absl::Status s = CheckAdapterName(choice.name); !s.ok()) return NoAdapter(choice, s);
  // Before it is read: what comes in between is another version, and is read again.
  const Version version = VersionOf(files_->PathOf(choice.name));
  const auto named = [&](const Entry& entry) { return entry.name == choice.name; };
  {
    const std::lock_guard lock(mutex_);
    const auto entry = std::ranges::find_if(entries_, named);
    if (entry != entries_.end() && entry->version == version) {
      entries_.splice(entries_.begin(), entries_, entry);
      return Chosen(choice, entry->adapter);
    }
  }
  absl::StatusOr<std::shared_ptr<const ReadyAdapter>> read = Read(choice.name);
  const std::lock_guard lock(mutex_);
  const auto entry = std::ranges::find_if(entries_, named);
  if (entry != entries_.end()) {
    if (read.ok()) {
      LogInfo("adapter_reloaded", "adapter {name} was read again, and is {hash} now",
              {{"name", choice.name}, {"hash", (*read)->hash()}});
    }
    entries_.erase(entry);
  }
  if (!read.ok()) return NoAdapter(choice, read.status());
  entries_.push_front({choice.name, version, *read});
  if (entries_.size() > kMostReady) entries_.pop_back();
  return Chosen(choice, *std::move(read));
}

absl::StatusOr<std::vector<OfferedAdapter>> ModelAdapters::List() {
  if (!files_.ok()) return files_.status();
  const absl::StatusOr<std::vector<std::string>> names = files_->Names();
  if (!names.ok()) return names.status();
  std::vector<OfferedAdapter> list;
  for (const std::string& name : *names) {
    const absl::StatusOr<std::string> bytes = files_->Load(name);
    if (!bytes.ok()) continue;  // gone meanwhile
    const absl::StatusOr<Adapter> adapter = Adapter::Read(*bytes);
    if (!adapter.ok() || !adapter->Fits(config_, model_hash_).ok()) continue;
    const AdapterOrigin& from = adapter->origin();
    list.push_back({name, adapter->Hash(), adapter->model_hash(), from.tokens, from.held_out_tokens,
                    adapter->size(), from.nats_before > 0 ? 1 - from.nats / from.nats_before : 0});
  }
  return list;
}

}  // namespace omni
