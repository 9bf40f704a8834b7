#include "store/verify/verify.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/base/threads.h"
#include "store/format/model_files.h"
#include "store/format/region_tiles.h"
#include "store/verify/verify_file.h"
#include "store/verify/verify_shared.h"
#include "store/verify/verify_tiles.h"

namespace omni {
namespace {

constexpr auto kProgressPeriod = std::chrono::milliseconds(200);

// One file, or what else is checked by itself.
struct Job {
  int64_t bytes = 0;
  std::function<void(Defects*)> check;
  Defects defects = {};
};

class Verifier {
 public:
  Verifier(std::string dir, const VerifyOptions& options) : options_(options) { files_.dir = std::move(dir); }

  absl::StatusOr<VerifyReport> Run() {
    const bool manifest = ReadOne(ReadManifest(&files_)), deltas = ReadOne(ReadDeltaManifest(&files_));
    if (manifest) {
      AddDefect(ReadPresentTiles(&files_), &defects_);
      // Holes are no damage, and their bytes have no checksums.
      if (deltas && files_.present.has_value() && !files_.present->complete()) return PartOfModel(files_);
    }
    absl::Status same = manifest && deltas ? CheckSameDatabase(files_) : absl::OkStatus();
    AddDefect(same, &defects_);
    FindFiles(manifest && deltas);
    state_.bytes = files_.manifest_bytes;

    bool database = manifest && deltas && same.ok();
    std::vector<Job> jobs;
    for (const auto& [name, want] : files_.deltas.files) database = AddFile(name, want, &jobs) && database;
    const size_t before = defects_.lines.size();
    RunAll(std::move(jobs));
    database = database && defects_.lines.size() == before && !state_.stop;
    if (manifest) {
      CheckModel(database);
    } else {
      RunAll(HashAll());
    }
    if (!status_.ok()) return status_;
    report_.defects = std::move(defects_.lines);
    report_.refused = defects_.refused;
    report_.bytes = state_.bytes;
    report_.tiles = state_.tiles;
    report_.stopped = state_.stop;
    return std::move(report_);
  }

 private:
  bool ReadOne(const absl::Status& status) {
    AddDefect(status, &defects_);
    ++report_.files;
    return status.ok();
  }

  // Which listed files are there, and how much is to be read. Without both manifests nobody knows what
  // belongs here.
  void FindFiles(bool all_listed) {
    absl::StatusOr<MisplacedFiles> misplaced = FindMisplacedFiles(files_);
    if (!misplaced.ok()) return AddDefect(misplaced.status(), &defects_);
    for (const std::string& name : misplaced->missing) {
      missing_.insert(name);
      AddDefect(MissingFile(files_.PathOf(name)), &defects_);
    }
    if (all_listed) {
      for (const std::string& name : misplaced->unlisted)
        AddDefect(UnlistedFile(files_.PathOf(name)), &defects_);
    }
    total_ = files_.manifest_bytes;
    for (const FileTable* table : {&files_.manifest.files, &files_.deltas.files}) {
      for (const auto& [name, want] : *table) total_ += SizeOf(name);
    }
  }

  int64_t SizeOf(const std::string& name) const {
    return missing_.contains(name) ? 0 : FileSize(files_.PathOf(name)).value_or(0);
  }

  // A job for a listed file, if it is there.
  bool AddJob(const std::string& name, std::function<void(Defects*)> check, std::vector<Job>* jobs) {
    if (missing_.contains(name)) return false;
    ++report_.files;
    jobs->push_back({SizeOf(name), std::move(check)});
    return true;
  }
  // A file of which no more is known than its hash; the database's are read again soon.
  bool AddFile(const std::string& name, const FileDigest& want, std::vector<Job>* jobs) {
    return AddJob(
        name,
        [this, path = files_.PathOf(name), want](Defects* defects) {
          FilePass pass(path, want, &state_, defects);
          if (!pass.Open(0, FileStream::Cache::kUse)) return;
          while (pass.Next(0)) {
          }
          pass.Finish(false);
        },
        jobs);
  }
  std::vector<Job> HashAll() {
    std::vector<Job> jobs;
    for (const auto& [name, want] : files_.manifest.files) AddFile(name, want, &jobs);
    return jobs;
  }

  void CheckModel(bool database) {
    TileCheck tiles(files_);
    if (database) tiles.ReadTables(&defects_);
    std::vector<Job> jobs;
    AddJob(
        kSharedFile, [this](Defects* defects) { VerifyShared(files_, &state_, defects); }, &jobs);
    AddJob(
        kTokenizerFile, [this](Defects* defects) { VerifyTokenizer(defects); }, &jobs);
    for (size_t pack = 0; pack < tiles.packs(); ++pack) {
      AddJob(
          tiles.pack_name(pack),
          [this, &tiles, pack](Defects* defects) { tiles.VerifyPack(pack, &state_, defects); }, &jobs);
    }
    RunAll(std::move(jobs));
  }

  void VerifyTokenizer(Defects* defects) {
    const int64_t bytes = SizeOf(kTokenizerFile), want = files_.manifest.files.at(kTokenizerFile).bytes;
    absl::Status status = bytes == want ? ReadTokenizer(files_, nullptr).status()
                                        : WrongSize(files_.PathOf(kTokenizerFile), bytes, want);
    AddDefect(status, defects);
    state_.bytes += bytes;
  }

  // Runs the jobs, the largest first, and adds their defects in the jobs' order.
  void RunAll(std::vector<Job> jobs) {
    std::vector<Job*> order;
    for (Job& job : jobs) order.push_back(&job);
    std::stable_sort(order.begin(), order.end(),
                     [](const Job* a, const Job* b) { return a->bytes > b->bytes; });
    std::mutex mutex;
    std::condition_variable ended;
    const size_t count = std::min(order.size(), static_cast<size_t>(std::max(1, options_.threads)));
    size_t next = 0, running = count;
    const auto work = [&] {
      std::unique_lock lock(mutex);
      while (next < order.size() && !state_.stop) {
        Job* job = order[next++];
        lock.unlock();
        job->check(&job->defects);
        lock.lock();
      }
      if (--running == 0) ended.notify_one();
    };
    std::vector<std::thread> threads;
    try {
      for (size_t i = 0; i < count; ++i) threads.emplace_back(work);
    } catch (const std::system_error& error) {
      status_.Update(ThreadsRefused(options_.threads, "verify", error.code().value()));
      state_.stop = true;
      const std::lock_guard lock(mutex);
      running -= count - threads.size();
    }
    std::unique_lock lock(mutex);
    while (running > 0) {
      ended.wait_for(lock, kProgressPeriod, [&] { return running == 0; });
      if (options_.progress && !options_.progress(state_.bytes, total_)) state_.stop = true;
    }
    lock.unlock();
    for (std::thread& thread : threads) thread.join();
    for (Job& job : jobs) {
      for (std::string& line : job.defects.lines) defects_.lines.push_back(std::move(line));
      defects_.refused += job.defects.refused;
    }
  }

  const VerifyOptions& options_;
  ModelFiles files_;
  VerifyState state_;
  VerifyReport report_;  // without its defects, which are:
  Defects defects_;
  std::set<std::string> missing_;
  int64_t total_ = 0;
  absl::Status status_;  // not ok: what kept the work from being done
};

}  // namespace

absl::StatusOr<VerifyReport> VerifyModel(const std::string& path, const VerifyOptions& options) {
  absl::StatusOr<std::string> dir = ModelDirectory(path);
  if (!dir.ok()) return dir.status();
  return Verifier(*dir, options).Run();
}

}  // namespace omni
