#include "store/plan/speeds.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmath>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/replace_file.h"
#include "engine/base/threads.h"
#include "store/file/files.h"
#include "store/plan/machine.h"
#include "store/state/state_dir.h"
#include "store/state/state_file.h"

namespace omni {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

constexpr char kFormat[] = "omni-speeds";
constexpr int64_t kMaxFileBytes = 1 << 20;

Json Empty() { return {{"format", kFormat}, {"version", 1}, {"speeds", Json::object()}}; }

bool HasSpeeds(const Json& file) {
  return file.value("format", Json()) == kFormat && file.value("version", Json()) == 1 &&
         file.value("speeds", Json()).is_object();
}

Json Read(const std::string& path) {
  const absl::StatusOr<std::string> text = path.empty() ? std::string() : ReadText(path, kMaxFileBytes);
  absl::StatusOr<Json> json = text.ok() ? ParseJson<Json>(*text) : text.status();
  return json.ok() && json->is_object() && HasSpeeds(*json) ? *std::move(json) : Empty();
}

// The entry, if it is this machine's and fresh.
std::optional<Json> Find(const std::string& path, const std::string& key, const std::string& cpu,
                         int64_t now) {
  const Json file = Read(path);
  const auto it = file["speeds"].find(key);
  if (it == file["speeds"].end() || !it->is_object() || it->value("cpu", Json()) != cpu) return std::nullopt;
  const Json time = it->value("time", Json());
  if (!time.is_number_integer()) return std::nullopt;
  const auto t = time.get<int64_t>();
  if (t < 0 || t > now || now - t > SpeedFile::kMaxAgeSeconds) return std::nullopt;
  return *it;
}

bool TakeSpeed(const Json& entry, const char* key, double* value) {
  const Json j = entry.value(key, Json());
  if (!j.is_number()) return false;
  *value = j.get<double>();
  return std::isfinite(*value) && *value > 0;
}

bool TakeCount(const Json& entry, const char* key, int64_t* value) {
  const Json j = entry.value(key, Json());
  if (!j.is_number_integer()) return false;
  *value = j.get<int64_t>();
  return *value >= 0;
}

std::string DateText(int64_t time) {
  const auto t = static_cast<std::time_t>(time);
  std::tm utc{};
  char text[32] = "";
  if (gmtime_r(&t, &utc) != nullptr) std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

absl::Status Write(const std::string& path, const std::string& key, Json entry) {
  if (path.empty()) return absl::NotFoundError("there is no state directory");
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (error) return SystemError(path, "create the directory", error.value());
  absl::StatusOr<Json> kept = ReadStateFile(path, kMaxFileBytes, HasSpeeds);
  if (!kept.ok()) return kept.status();
  Json file = kept->is_null() ? Empty() : *std::move(kept);
  file["speeds"][key] = std::move(entry);
  return ReplaceFile(path, file.dump(2, ' ', true, Json::error_handler_t::replace) + "\n");
}

void LogIfNotKept(const absl::Status& kept) {
  if (kept.ok()) return;
  LogWarning("speeds_not_kept", "measured speeds are not kept, and are measured again next time: {reason}",
             {{"reason", kept.message()}});
}

std::string MemoryKey(int threads) { return absl::StrCat("memory, ", threads, " threads"); }
std::string DiskKey(const std::string& device, int64_t block_bytes) {
  return absl::StrCat("disk ", device, ", blocks of ", block_bytes);
}

}  // namespace

SpeedFile::SpeedFile(std::string path, std::string cpu, int64_t now)
    : path_(std::move(path)), cpu_(std::move(cpu)), now_(now) {}

std::optional<Dated<MemorySpeed>> SpeedFile::Memory(int threads) const {
  const std::optional<Json> entry = Find(path_, MemoryKey(threads), cpu_, now_);
  Dated<MemorySpeed> dated;
  MemorySpeed& speed = dated.speed;
  speed.threads = threads;
  if (!entry || !TakeSpeed(*entry, "bytes_per_s", &speed.bytes_per_s) ||
      !TakeCount(*entry, "buffer_bytes", &speed.buffer_bytes) || !TakeCount(*entry, "time", &dated.time)) {
    return std::nullopt;
  }
  return dated;
}

std::optional<Dated<DiskSpeed>> SpeedFile::Disk(const std::string& device, int64_t block_bytes) const {
  const std::optional<Json> entry = Find(path_, DiskKey(device, block_bytes), cpu_, now_);
  Dated<DiskSpeed> dated;
  DiskSpeed& speed = dated.speed;
  int64_t in_flight = 0;
  if (!entry || !TakeSpeed(*entry, "random_bytes_per_s", &speed.random_bytes_per_s) ||
      !TakeSpeed(*entry, "sequential_bytes_per_s", &speed.sequential_bytes_per_s) ||
      !TakeCount(*entry, "reads_in_flight", &in_flight) || in_flight > 256 ||
      !TakeCount(*entry, "span_bytes", &speed.span_bytes) || !entry->value("direct", Json()).is_boolean() ||
      !TakeCount(*entry, "time", &dated.time)) {
    return std::nullopt;
  }
  speed.block_bytes = block_bytes;
  speed.reads_in_flight = static_cast<int>(in_flight);
  speed.direct = entry->value("direct", false);
  return dated;
}

absl::Status SpeedFile::Keep(const MemorySpeed& speed) const {
  return Write(path_, MemoryKey(speed.threads),
               {{"cpu", cpu_},
                {"time", now_},
                {"date", DateText(now_)},
                {"threads", speed.threads},
                {"bytes_per_s", speed.bytes_per_s},
                {"buffer_bytes", speed.buffer_bytes}});
}

absl::Status SpeedFile::Keep(const std::string& device, const DiskSpeed& speed) const {
  return Write(path_, DiskKey(device, speed.block_bytes),
               {{"cpu", cpu_},
                {"time", now_},
                {"date", DateText(now_)},
                {"device", device},
                {"block_bytes", speed.block_bytes},
                {"random_bytes_per_s", speed.random_bytes_per_s},
                {"sequential_bytes_per_s", speed.sequential_bytes_per_s},
                {"reads_in_flight", speed.reads_in_flight},
                {"span_bytes", speed.span_bytes},
                {"direct", speed.direct}});
}

SpeedFile StateSpeedFile() {
  const absl::StatusOr<std::string> dir = StateDir();
  return SpeedFile(dir.ok() ? (fs::path(*dir) / "speeds.json").string() : std::string(),
                   Machine().CpuModel().value_or("unknown"), static_cast<int64_t>(std::time(nullptr)));
}

absl::StatusOr<Dated<MemorySpeed>> CurrentMemorySpeed(const SpeedFile& file, bool refresh) {
  const int threads = DefaultThreads();
  if (!refresh) {
    if (std::optional<Dated<MemorySpeed>> kept = file.Memory(threads)) return *kept;
  }
  const absl::StatusOr<MemorySpeed> speed =
      MeasureMemorySpeed(threads, Machine().FreeMemory().value_or(INT64_MAX));
  if (!speed.ok()) return speed.status();
  LogIfNotKept(file.Keep(*speed));
  return Dated<MemorySpeed>{*speed, file.now()};
}

absl::StatusOr<Dated<DiskSpeed>> CurrentDiskSpeed(const SpeedFile& file, const std::string& path,
                                                  int64_t block_bytes, bool refresh) {
  DiskSpeedOptions options;
  options.block_bytes = (block_bytes + 4095) / 4096 * 4096;
  options.free_bytes = Machine().FreeMemory().value_or(INT64_MAX);
  struct stat st {};
  const bool known = ::stat(path.c_str(), &st) == 0;
  const std::string device = known ? absl::StrCat(major(st.st_dev), ":", minor(st.st_dev)) : "";
  if (!refresh && known) {
    if (std::optional<Dated<DiskSpeed>> kept = file.Disk(device, options.block_bytes)) return *kept;
  }
  const absl::StatusOr<DiskSpeed> speed = MeasureDiskSpeed(path, options);
  if (!speed.ok()) return speed.status();
  if (known) LogIfNotKept(file.Keep(device, *speed));
  return Dated<DiskSpeed>{*speed, file.now()};
}

}  // namespace omni
