#include "store/format/model_files.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/format/chat_template_file.h"
#include "store/format/region_tiles.h"
#include "store/format/table_reader.h"

namespace omni {
namespace {

// What was fitted to the model's outputs, by and for whoever decodes with it, and what writes it; and its
// polytopes.
constexpr char kCalibration[] = "calibration.json", kPolytopes[] = "polytopes.omni";

namespace fs = std::filesystem;

constexpr int64_t kMaxManifestBytes = int64_t{64} << 20;
constexpr int64_t kMaxTokenizerBytes = int64_t{1} << 30;
constexpr int64_t kMaxPresentBytes = int64_t{1} << 30;

// model.json may list these files and no others, packs numbered without a gap.
absl::Status CheckNames(const std::string& path, const Manifest& manifest) {
  std::set<std::string> want = {kSharedFile, kTokenizerFile};
  for (uint32_t pack = 0; manifest.files.contains(PackName(pack)); ++pack) want.insert(PackName(pack));
  for (const std::string& name : want) {
    if (!manifest.files.contains(name)) {
      return absl::DataLossError(absl::StrCat(path, ": does not list ", name, kDamagedCure));
    }
  }
  for (const auto& [name, digest] : manifest.files) {
    if (want.count(name) == 0) {
      return absl::DataLossError(
          absl::StrCat(path, ": lists ", name, ", which is no part of a model", kDamagedCure));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ModelDirectory(const std::string& path) {
  std::string dir = path;
  while (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  std::error_code error;
  const fs::file_status status = fs::status(dir, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(dir, ": no such directory; give the path of a packed model"));
  }
  if (error) return SystemError(dir, "open", error.value());
  if (status.type() != fs::file_type::directory) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, ": not a directory; give the path of a packed model"));
  }
  if (fs::exists(dir + "/" + kModelFile, error)) return dir;
  if (error) return SystemError(dir, "look into it", error.value());
  const bool empty = fs::is_empty(dir, error);
  if (error) return SystemError(dir, "list", error.value());
  if (empty)
    return absl::NotFoundError(absl::StrCat(dir, ": the directory is empty; pack a model into it first"));
  if (fs::exists(dir + "/" + kPartialFolder, error)) {
    return absl::FailedPreconditionError(absl::StrCat(
        dir, ": the beginning of a part of a model, whose tile tables have not all come yet; let `omni node ",
        "--join HOST:PORT` go on with it"));
  }
  if (fs::exists(dir + "/model.safetensors", error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, ": a training checkpoint, not a packed model; pack it first"));
  }
  return absl::NotFoundError(absl::StrCat(dir, ": there is no ", kModelFile, "; this is not a packed model"));
}

absl::Status ReadManifest(ModelFiles* files) {
  const std::string path = files->PathOf(kModelFile);
  absl::StatusOr<std::string> text = ReadText(path, kMaxManifestBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<Manifest> manifest = Manifest::Parse(path, *text);
  if (!manifest.ok()) return manifest.status();
  files->manifest = *std::move(manifest);
  files->manifest_bytes += static_cast<int64_t>(text->size());
  return CheckNames(path, files->manifest);
}

absl::Status ReadDeltaManifest(ModelFiles* files) {
  const std::string path = files->PathOf(kDeltasFile);
  absl::StatusOr<std::string> text = ReadText(path, kMaxManifestBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<DeltaManifest> deltas = DeltaManifest::Parse(path, *text);
  if (!deltas.ok()) return deltas.status();
  files->deltas = *std::move(deltas);
  files->manifest_bytes += static_cast<int64_t>(text->size());
  return CheckDeltaNames(path, files->deltas);
}

absl::Status CheckDeltaNames(const std::string& path, const DeltaManifest& deltas) {
  const std::string folder = absl::StrCat(kDeltasFolder, "/");
  for (const auto& [name, digest] : deltas.files) {
    const std::string_view in_folder = std::string_view(name).substr(std::min(folder.size(), name.size()));
    if (name.starts_with(folder) && !in_folder.empty() && in_folder != "." &&
        in_folder.find('/') == std::string_view::npos) {
      continue;
    }
    return absl::DataLossError(
        absl::StrCat(path, ": lists ", name, ", which is no file of ", folder, kDamagedCure));
  }
  return absl::OkStatus();
}

absl::Status ReadPresentTiles(ModelFiles* files) {
  if (!IsDirectory(files->PathOf(kPartialFolder))) return absl::OkStatus();
  const std::string path = files->PathOf(kPresentFile);
  absl::StatusOr<std::string> bytes = ReadText(path, kMaxPresentBytes);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<PresentTiles> present = PresentTiles::Parse(path, *bytes, files->manifest.ModelHash());
  if (!present.ok()) return present.status();
  files->present.emplace(*std::move(present));
  return absl::OkStatus();
}

absl::Status CheckSameDatabase(const ModelFiles& files) {
  if (files.deltas.delta_digest == files.manifest.delta_digest) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(files.PathOf(kDeltasFolder), ": the database of another model; ",
                                          "copy the whole model directory again or pack the model again"));
}

absl::StatusOr<MisplacedFiles> FindMisplacedFiles(const ModelFiles& files) {
  absl::StatusOr<std::vector<std::string>> names = ListFiles(files.dir);
  if (!names.ok()) return names.status();
  MisplacedFiles misplaced;
  const std::set<std::string> found(names->begin(), names->end());
  for (const FileTable* table : {&files.manifest.files, &files.deltas.files}) {
    for (const auto& [name, digest] : *table) {
      if (found.count(name) == 0) misplaced.missing.push_back(name);
    }
  }
  const std::string empty_packs = absl::StrCat(kPacksFolder, "/"),
                    partial = absl::StrCat(kPartialFolder, "/");
  for (const std::string& name : found) {
    if (name == kModelFile || name == kDeltasFile || name == kChatTemplateFile ||
        name.starts_with(kCalibration) || name.starts_with(kPolytopes) || name == empty_packs ||
        files.manifest.files.contains(name) || files.deltas.files.contains(name) ||
        (files.present.has_value() && name.starts_with(partial))) {
      continue;
    }
    misplaced.unlisted.push_back(name);
  }
  return misplaced;
}

absl::Status MissingFile(const std::string& path) {
  return absl::NotFoundError(absl::StrCat(
      path, ": the file is missing; copy the whole model directory again or pack the model again"));
}

absl::Status UnlistedFile(const std::string& path) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": no part of the model; move it elsewhere"));
}

absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& path, const ModelPart& wanted) {
  absl::StatusOr<std::string> dir = ModelDirectory(path);
  if (!dir.ok()) return dir.status();
  ModelFiles files;
  files.dir = *std::move(dir);
  if (absl::Status s = ReadManifest(&files); !s.ok()) return s;
  if (absl::Status s = ReadDeltaManifest(&files); !s.ok()) return s;
  if (absl::Status s = CheckSameDatabase(files); !s.ok()) return s;
  if (absl::Status s = ReadPresentTiles(&files); !s.ok()) return s;
  absl::StatusOr<MisplacedFiles> misplaced = FindMisplacedFiles(files);
  if (!misplaced.ok()) return misplaced.status();
  for (const std::string& name : misplaced->missing) {
    if (!files.present.has_value() || (name != kSharedFile && name != kTokenizerFile))
      return MissingFile(files.PathOf(name));
    if (!wanted.shared) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        files.PathOf(name), ": is not there, since the directory holds a part of the model, for ",
        "a node that serves experts alone; take a directory that has all of the model"));
  }
  if (files.present.has_value() && wanted.tiles && !files.present->complete()) return PartOfModel(files);
  if (!misplaced->unlisted.empty()) return UnlistedFile(files.PathOf(misplaced->unlisted.front()));
  return files;
}

absl::Status CheckDeltaFiles(const ModelFiles& files) {
  for (const auto& [name, want] : files.deltas.files) {
    const std::string path = files.PathOf(name);
    absl::StatusOr<FileDigest> digest = DigestFile(path);
    if (!digest.ok()) return digest.status();
    if (digest->bytes != want.bytes || digest->hash != want.hash) {
      return absl::DataLossError(absl::StrCat(path, ": fails its checksum", kDamagedCure));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Tokenizer> ReadTokenizer(const ModelFiles& files, std::string* bytes) {
  const std::string path = files.PathOf(kTokenizerFile);
  absl::StatusOr<std::string> text = ReadText(path, kMaxTokenizerBytes);
  if (!text.ok()) return text.status();
  if (ContentHash(*text) != files.manifest.files.at(kTokenizerFile).hash) {
    return absl::DataLossError(absl::StrCat(path, ": fails its checksum", kDamagedCure));
  }
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(*text);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(), absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  const int64_t vocab = files.manifest.config.vocab;
  if (tokenizer->vocab() > vocab) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", tokenizer->vocab(), " tokens, the model has ",
                                                   vocab, "; pack the model again"));
  }
  if (bytes != nullptr) *bytes = *std::move(text);
  return tokenizer;
}

absl::Status WrongSize(const std::string& path, int64_t bytes, int64_t want) {
  return absl::DataLossError(absl::StrCat(path, ": ", bytes, " bytes long, should be ", want, kDamagedCure));
}

absl::StatusOr<int64_t> FileSize(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (error) return SystemError(path, "open", error.value());
  if (status.type() != fs::file_type::regular) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) return SystemError(path, "examine", error.value());
  return static_cast<int64_t>(bytes);
}

absl::StatusOr<PackHeader> ParsePackHeader(const ModelFiles& files, const std::string& name,
                                           std::string_view start) {
  const std::string path = files.PathOf(name);
  if (start.size() < PackHeader::kBytes) {
    return absl::DataLossError(absl::StrCat(path, ": shorter than its header", kDamagedCure));
  }
  absl::StatusOr<PackHeader> header = PackHeader::Parse(path, reinterpret_cast<const uint8_t*>(start.data()),
                                                        TileLayout(files.manifest.config.d).payload());
  const int64_t want = files.manifest.files.at(name).bytes;
  if (header.ok() && header->file_bytes() != want) {
    return absl::DataLossError(absl::StrCat(path, ": ", want, " bytes long, ", header->count, " tiles make ",
                                            header->file_bytes(), kDamagedCure));
  }
  return header;
}

absl::StatusOr<std::vector<PackHeader>> StatedPackHeaders(const ModelFiles& files) {
  const Manifest& manifest = files.manifest;
  const TableNumbers numbers(manifest.config);
  if (absl::Status s = CheckTableCount(files, numbers); !s.ok()) return s;
  const int64_t alignment = manifest.counts.tile_alignment;
  const auto bad = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(files.PathOf(kModelFile), ": ", what, kDamagedCure));
  };
  std::vector<PackHeader> headers;
  if (!manifest.files.contains(PackName(0))) return headers;
  if (alignment < 64 || alignment > (int64_t{1} << 30) || (alignment & (alignment - 1)) != 0)
    return bad(absl::StrCat("a tile alignment of ", alignment));
  int64_t tiles = 0;
  for (uint32_t pack = 0; manifest.files.contains(PackName(pack)); ++pack) {
    PackHeader header = PackHeader::For(TileLayout(manifest.config.d).payload(), alignment);
    const int64_t bytes = manifest.files.at(PackName(pack)).bytes;
    header.count = (bytes - header.first_offset) / header.stride;
    if (bytes < header.first_offset || header.file_bytes() != bytes)
      return bad(absl::StrCat(PackName(pack), " of ", bytes, " bytes, which no number of tiles has"));
    tiles += header.count;
    // Every tile belongs to an expert; what a size says is not believed beyond that.
    if (header.count > numbers.tables() * numbers.tiles() || tiles > numbers.tables() * numbers.tiles() ||
        tiles > UINT32_MAX)
      return bad("more tiles than the experts have");
    headers.push_back(header);
  }
  return headers;
}

absl::StatusOr<PackHeader> ReadPackHeader(const ModelFiles& files, const std::string& name) {
  absl::StatusOr<std::string> start = ReadStart(files.PathOf(name), PackHeader::kBytes);
  if (!start.ok()) return start.status();
  return ParsePackHeader(files, name, *start);
}

absl::StatusOr<std::vector<PackHeader>> ReadPackHeaders(const ModelFiles& files) {
  std::vector<PackHeader> headers;
  for (uint32_t number = 0; files.manifest.files.contains(PackName(number)); ++number) {
    const std::string name = PackName(number);
    absl::StatusOr<int64_t> bytes = FileSize(files.PathOf(name));
    if (!bytes.ok()) return bytes.status();
    const int64_t want = files.manifest.files.at(name).bytes;
    if (*bytes != want) return WrongSize(files.PathOf(name), *bytes, want);
    absl::StatusOr<PackHeader> header = ReadPackHeader(files, name);
    if (!header.ok()) return header.status();
    headers.push_back(*header);
  }
  return headers;
}

}  // namespace omni
