#include "engine/model/checkpoint.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <xxhash.h>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/base/json.h"
#include "engine/base/open_file.h"
#include "engine/base/quoted.h"
#include "engine/base/replace_file.h"
#include "engine/base/system_error.h"

namespace omni {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensors are mapped as the file holds them: little endian");

using Json = nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100 << 20;  // the format's own limit
constexpr int64_t kDataAlignment = 64;          // of the first tensor: whole cache lines, and any dtype
constexpr const char* kMetadataKey = "__metadata__";
constexpr const char* kDigestKey =
    "header_xxh3";  // in the metadata: of the header's canonical text without this key

struct DTypeInfo {
  DType dtype;
  const char* name;
  int64_t bytes;
};
constexpr DTypeInfo kDTypes[] = {
    {DType::kF32, "F32", 4}, {DType::kI64, "I64", 8}, {DType::kU8, "U8", 1}, {DType::kF16, "F16", 2}};

const DTypeInfo& Info(DType dtype) { return kDTypes[static_cast<int>(dtype)]; }

std::string Describe(const TensorView& t) {
  return absl::StrCat(Info(t.dtype).name, " [", absl::StrJoin(t.shape, ", "), "]");
}

// The product of a shape and the size of its type, or -1 if a dimension is negative or the product leaves
// int64.
int64_t CheckedBytes(const std::vector<int64_t>& shape, int64_t element_bytes) {
  int64_t total = element_bytes;
  bool empty = false;
  for (int64_t n : shape) {
    if (n < 0) return -1;
    empty |= n == 0;
    if (n > 0 && __builtin_mul_overflow(total, n, &total)) return -1;
  }
  return empty ? 0 : total;
}

bool TakeInt(const Json& value, int64_t* out) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) return false;
  *out = value.get<int64_t>();
  return true;
}

struct Extent {
  int64_t begin = 0, end = 0;
  std::string name;
};

// Reads one entry of the header; what is wrong with it, or an empty string.
std::string ReadTensor(const Json& entry, int64_t data_bytes, TensorView* view, Extent* extent) {
  if (!entry.is_object() || entry.size() != 3) return "is not an object of dtype, shape and data_offsets";
  const auto dtype = entry.find("dtype"), shape = entry.find("shape"), offsets = entry.find("data_offsets");
  if (dtype == entry.end() || shape == entry.end() || offsets == entry.end()) {
    return "lacks dtype, shape or data_offsets";
  }
  if (!dtype->is_string()) return "has a dtype that is not a string";
  const auto& name = dtype->get_ref<const std::string&>();
  const auto* info =
      std::find_if(std::begin(kDTypes), std::end(kDTypes), [&](const auto& i) { return name == i.name; });
  if (info == std::end(kDTypes)) return "has an unsupported dtype; F32, I64, F16 and U8 can be read";
  view->dtype = info->dtype;
  if (!shape->is_array() || shape->size() > 16)
    return "has a shape that is not a list of at most 16 dimensions";
  for (const Json& dimension : *shape) {
    int64_t n = 0;
    if (!TakeInt(dimension, &n)) return "has a dimension that is not a whole number in [0, 2^63)";
    view->shape.push_back(n);
  }
  if (!offsets->is_array() || offsets->size() != 2 || !TakeInt((*offsets)[0], &extent->begin) ||
      !TakeInt((*offsets)[1], &extent->end)) {
    return "has data_offsets that are not two whole numbers";
  }
  if (extent->begin > extent->end || extent->end > data_bytes) {
    return absl::StrCat("has data_offsets [", extent->begin, ", ", extent->end, "], outside the file's ",
                        data_bytes, " bytes of data");
  }
  const int64_t want = CheckedBytes(view->shape, info->bytes);
  if (want != extent->end - extent->begin) {
    return absl::StrCat("is ", Describe(*view), " but has ", extent->end - extent->begin, " bytes of data");
  }
  if (extent->begin % info->bytes != 0) return "begins at an offset that is no multiple of its element size";
  return "";
}

// The extents must tile the data area: neither gaps nor overlaps.
absl::Status CheckContiguous(std::vector<Extent> extents, int64_t data_bytes, const std::string& path) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t at = 0;
  for (const Extent& e : extents) {
    if (e.begin != at) {
      return absl::DataLossError(
          absl::StrCat(path, ": tensor ", Quoted(e.name), " begins at byte ", e.begin, " of the data, ",
                       e.begin < at ? "inside another tensor" : "after a gap", "; ", at, " was expected"));
    }
    at = e.end;
  }
  if (at == data_bytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path, ": the tensors take ", at, " bytes, but the file has ",
                                          data_bytes, " bytes of data"));
}

absl::StatusOr<Json> ParseHeader(const char* text, int64_t bytes, const std::string& path) {
  absl::StatusOr<Json> header = ParseJson<Json>({text, static_cast<size_t>(bytes)});
  if (!header.ok()) {
    return absl::DataLossError(absl::StrCat(path, ": the header ", header.status().message()));
  }
  if (!header->is_object())
    return absl::DataLossError(absl::StrCat(path, ": the header is not a JSON object"));
  return header;
}

std::string Digest(const Json& header) {
  const std::string text = header.dump();
  return absl::StrCat(absl::Hex(XXH3_64bits(text.data(), text.size()), absl::kZeroPad16));
}

// Compares the header with the digest in its metadata and removes that; a file of another writer may have
// none.
absl::Status TakeDigest(Json* header, const std::string& path) {
  const auto metadata = header->find(kMetadataKey);
  if (metadata == header->end() || !metadata->is_object()) return absl::OkStatus();
  const auto digest = metadata->find(kDigestKey);
  if (digest == metadata->end()) return absl::OkStatus();
  const Json recorded = *digest;
  metadata->erase(digest);
  if (recorded == Digest(*header)) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, ": the header does not match its checksum; the file is damaged"));
}

// The header's text; `order` receives the tensors as their data follow each other: by falling element size,
// so that every one is aligned, then by name.
absl::StatusOr<std::string> MakeHeader(const std::string& path,
                                       const absl::btree_map<std::string, TensorView>& tensors,
                                       const absl::btree_map<std::string, std::string>& metadata,
                                       std::vector<const TensorView*>* order) {
  Json header = Json::object();
  header[kMetadataKey] = Json::object();
  for (const auto& [key, value] : metadata) header[kMetadataKey][key] = value;
  int64_t offset = 0;
  for (int64_t size : {8, 4, 2, 1}) {
    for (const auto& [name, tensor] : tensors) {
      if (Info(tensor.dtype).bytes != size) continue;
      const int64_t bytes = CheckedBytes(tensor.shape, size);
      if (name == kMetadataKey || bytes < 0 || (bytes > 0 && tensor.data == nullptr)) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, ": tensor ", Quoted(name), ", ", Describe(tensor),
            ", cannot be written: it needs data, sizes >= 0 and a name ", "other than ", kMetadataKey));
      }
      header[name] = {{"dtype", Info(tensor.dtype).name},
                      {"shape", tensor.shape},
                      {"data_offsets", {offset, offset + bytes}}};
      offset += bytes;
      order->push_back(&tensor);
    }
  }
  try {
    header[kMetadataKey][kDigestKey] = Digest(header);
    return header.dump();
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a tensor's name or a metadata entry is not UTF-8"));
  }
}

}  // namespace

int64_t TensorView::count() const {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

int64_t TensorView::bytes() const { return count() * Info(dtype).bytes; }

absl::Status WriteSafetensors(const std::string& path,
                              const absl::btree_map<std::string, TensorView>& tensors,
                              const absl::btree_map<std::string, std::string>& metadata) {
  std::vector<const TensorView*> order;
  absl::StatusOr<std::string> header_text = MakeHeader(path, tensors, metadata, &order);
  if (!header_text.ok()) return header_text.status();
  std::string& text = *header_text;
  const int64_t unpadded = kLengthBytes + static_cast<int64_t>(text.size());
  text.append(static_cast<size_t>((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment), ' ');
  const uint64_t length = text.size();
  if (static_cast<int64_t>(length) > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": a header of ", length,
                                                   " bytes is over the format's limit of ", kMaxHeaderBytes));
  }

  absl::StatusOr<FileReplacement> file = FileReplacement::Begin(path);
  if (!file.ok()) return file.status();
  absl::Status status = file->Append(&length, kLengthBytes);
  if (status.ok()) status = file->Append(text);
  for (const TensorView* tensor : order) {
    if (status.ok()) status = file->Append(tensor->data, tensor->bytes());
  }
  return status.ok() ? file->Commit() : status;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  const absl::StatusOr<FileDescriptor> file = OpenRegular(path);
  if (!file.ok()) return file.status();
  struct stat info = {};
  if (fstat(file->get(), &info) != 0) return SystemError(path, "examine", errno);
  const int64_t size = info.st_size;
  if (size < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat(path, ": ", size, " bytes are too few for a safetensors file; is it cut?"));
  }

  SafetensorsFile result;
  result.path_ = path;
  void* map = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, file->get(), 0);
  if (map == MAP_FAILED) return SystemError(path, "map", errno);
  result.map_ = map;
  result.map_bytes_ = static_cast<size_t>(size);

  uint64_t length = 0;
  std::memcpy(&length, map, kLengthBytes);
  if (length > static_cast<uint64_t>(std::min(kMaxHeaderBytes, size - kLengthBytes))) {
    return absl::DataLossError(absl::StrCat(path, ": the header is said to be ", length,
                                            " bytes long, but the file has ", size, " and the format allows ",
                                            kMaxHeaderBytes, "; is it cut?"));
  }
  const char* text = static_cast<const char*>(map) + kLengthBytes;
  const char* data = text + length;
  const int64_t data_bytes = size - kLengthBytes - static_cast<int64_t>(length);
  absl::StatusOr<Json> header = ParseHeader(text, static_cast<int64_t>(length), path);
  if (!header.ok()) return header.status();

  if (absl::Status status = TakeDigest(&*header, path); !status.ok()) return status;
  std::vector<Extent> extents;
  for (auto it = header->begin(); it != header->end(); ++it) {
    if (it.key() == kMetadataKey) {
      if (!it->is_object())
        return absl::DataLossError(absl::StrCat(path, ": ", kMetadataKey, " is not an object"));
      for (auto entry = it->begin(); entry != it->end(); ++entry) {
        if (!entry->is_string()) {
          return absl::DataLossError(
              absl::StrCat(path, ": ", kMetadataKey, " ", Quoted(entry.key()), " is not a string"));
        }
        result.metadata_[entry.key()] = entry->get<std::string>();
      }
      continue;
    }
    TensorView view;
    Extent extent;
    const std::string wrong = ReadTensor(*it, data_bytes, &view, &extent);
    if (!wrong.empty())
      return absl::DataLossError(absl::StrCat(path, ": tensor ", Quoted(it.key()), " ", wrong));
    view.data = data + extent.begin;
    if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(Info(view.dtype).bytes) != 0) {
      return absl::DataLossError(absl::StrCat(path, ": tensor ", Quoted(it.key()),
                                              " is not aligned to its element size; ",
                                              "pad the header with spaces to a multiple of 8"));
    }
    extent.name = it.key();
    extents.push_back(std::move(extent));
    result.tensors_[it.key()] = std::move(view);
  }
  if (absl::Status status = CheckContiguous(std::move(extents), data_bytes, path); !status.ok())
    return status;
  return result;
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept { *this = std::move(other); }

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(map_, other.map_);
  std::swap(map_bytes_, other.map_bytes_);
  std::swap(tensors_, other.tensors_);
  std::swap(metadata_, other.metadata_);
  return *this;
}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) munmap(map_, map_bytes_);
}

absl::StatusOr<const void*> SafetensorsFile::Find(const std::string& name, const TensorView& want) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(
        absl::StrCat(path_, ": tensor ", Quoted(name), ", ", Describe(want), ", is missing"));
  }
  const TensorView& found = it->second;
  if (found.dtype != want.dtype || found.shape != want.shape) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor ", Quoted(name), " is ", Describe(found),
                                                   "; ", Describe(want),
                                                   " is needed, by the config beside it"));
  }
  return found.data;
}

absl::StatusOr<const float*> SafetensorsFile::F32(const std::string& name,
                                                  const std::vector<int64_t>& shape) const {
  absl::StatusOr<const void*> data = Find(name, {DType::kF32, shape, nullptr});
  if (!data.ok()) return data.status();
  return static_cast<const float*>(*data);
}

absl::StatusOr<const uint8_t*> SafetensorsFile::U8(const std::string& name,
                                                   const std::vector<int64_t>& shape) const {
  absl::StatusOr<const void*> data = Find(name, {DType::kU8, shape, nullptr});
  if (!data.ok()) return data.status();
  return static_cast<const uint8_t*>(*data);
}

}  // namespace omni
