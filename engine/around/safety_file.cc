#include "engine/around/safety_file.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <xxhash.h>

#include "engine/base/quoted.h"

namespace omni {
namespace {

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'P', 'O', 'L', 'Y'};
constexpr uint32_t kVersion = 1;
constexpr int64_t kMostWidth = 65536;

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Text(const std::string& text) {
    Number(static_cast<uint8_t>(text.size()));
    bytes_ += text;
  }
  void Floats(const std::vector<float>& values) {
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  std::string&& Take() && { return std::move(bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Every call is false once there is too little.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  template <typename T>
  bool Number(T& value) {
    if (left_.size() < sizeof(value)) return false;
    std::memcpy(&value, left_.data(), sizeof(value));
    left_.remove_prefix(sizeof(value));
    return true;
  }
  bool Text(std::string& text) {
    uint8_t size = 0;
    if (!Number(size) || left_.size() < size) return false;
    text.assign(left_.substr(0, size));
    left_.remove_prefix(size);
    return true;
  }
  bool Floats(uint64_t count, std::vector<float>& values) {
    if (left_.size() / sizeof(float) < count) return false;
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), left_.data(), count * sizeof(float));
    left_.remove_prefix(count * sizeof(float));
    return true;
  }
  bool empty() const { return left_.empty(); }

 private:
  std::string_view left_;
};

// Of what a projection depends on.
std::string HashOf(const Polytope& p) {
  Writer bytes;
  bytes.Number(p.d);
  bytes.Number(p.epsilon);
  bytes.Floats(p.bounds);
  bytes.Floats(p.normals);
  const XXH128_hash_t hash = XXH3_128bits(bytes.bytes().data(), bytes.bytes().size());
  return absl::StrCat(absl::Hex(hash.high64, absl::kZeroPad16), absl::Hex(hash.low64, absl::kZeroPad16));
}

absl::Status Cut() {
  return absl::DataLossError("polytopes: the bytes end too early or go on too long; build the file anew");
}

}  // namespace

std::string WritePolytopes(const PolytopeFile& file) {
  Writer out;
  for (char c : kMagic) out.Number(c);
  out.Number(kVersion);
  out.Number(static_cast<uint32_t>(file.polytopes.size()));
  out.Number(static_cast<uint32_t>(file.polytopes.empty() ? 0 : file.polytopes.front().d));
  out.Text(file.model_hash);
  for (const Polytope& p : file.polytopes) {
    out.Text(p.name);
    out.Number(p.epsilon);
    out.Number(static_cast<uint32_t>(p.half_spaces()));
    out.Floats(p.bounds);
    for (const std::string& label : p.labels) out.Text(label);
    out.Floats(p.normals);
  }
  const uint64_t checksum = XXH3_64bits(out.bytes().data(), out.bytes().size());
  out.Number(checksum);
  return std::move(out).Take();
}

absl::StatusOr<PolytopeFile> ReadPolytopes(std::string_view bytes) {
  constexpr size_t kLeast = sizeof(kMagic) + 3 * sizeof(uint32_t) + 1 + sizeof(uint64_t);
  if (bytes.size() < sizeof(kMagic) || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0)
    return absl::InvalidArgumentError("polytopes: these bytes do not begin with OMNIPOLY");
  if (bytes.size() < kLeast) return Cut();
  uint64_t checksum;
  std::memcpy(&checksum, bytes.data() + bytes.size() - sizeof(checksum), sizeof(checksum));
  bytes.remove_suffix(sizeof(checksum));
  Reader in(bytes.substr(sizeof(kMagic)));
  uint32_t version = 0, count = 0, width = 0;
  in.Number(version);
  if (version != kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("polytopes: version ", version, ", this program reads version ", kVersion));
  }
  if (checksum != XXH3_64bits(bytes.data(), bytes.size()))
    return absl::DataLossError(
        "polytopes: the checksum fails; the bytes are cut or altered, build the file anew");
  in.Number(count);
  in.Number(width);
  if (count < 1 || count > kMostPolytopes || width < 1 || width > kMostWidth) {
    return absl::InvalidArgumentError(absl::StrCat("polytopes: ", count, " of width ", width, "; 1 to ",
                                                   kMostPolytopes, " of 1 to ", kMostWidth, " are allowed"));
  }
  PolytopeFile file;
  if (!in.Text(file.model_hash)) return Cut();
  std::set<std::string> names;
  for (uint32_t i = 0; i < count; ++i) {
    Polytope p;
    p.d = width;
    uint32_t half_spaces = 0;
    if (!in.Text(p.name) || !in.Number(p.epsilon) || !in.Number(half_spaces)) return Cut();
    if (half_spaces > kMostHalfSpaces) {
      return absl::InvalidArgumentError(absl::StrCat("polytopes: number ", i, " has ", half_spaces,
                                                     " half-spaces; ", kMostHalfSpaces, " are allowed"));
    }
    if (!in.Floats(half_spaces, p.bounds)) return Cut();
    p.labels.resize(half_spaces);
    for (std::string& label : p.labels) {
      if (!in.Text(label)) return Cut();
    }
    if (!in.Floats(uint64_t{half_spaces} * width, p.normals)) return Cut();
    if (absl::Status s = CheckPolytope(p); !s.ok()) return s;
    if (!names.insert(p.name).second)
      return absl::InvalidArgumentError(absl::StrCat("polytopes: two are named '", p.name, "'"));
    file.polytopes.push_back(std::move(p));
  }
  if (!in.empty()) return Cut();
  return file;
}

absl::StatusOr<std::shared_ptr<const PolytopeSet>> PolytopeSet::Make(PolytopeFile file) {
  auto set = std::make_shared<PolytopeSet>();
  set->model_hash_ = std::move(file.model_hash);
  if (!file.polytopes.empty()) {
    set->first_ = file.polytopes.front().name;
    set->d_ = file.polytopes.front().d;
  }
  for (Polytope& p : file.polytopes) {
    std::string name = p.name, hash = HashOf(p);
    absl::StatusOr<Projector> projector = Projector::Make(std::move(p));
    if (!projector.ok()) return projector.status();
    set->hashes_.emplace(name, std::move(hash));
    set->projectors_.emplace(std::move(name), *std::move(projector));
  }
  return set;
}

absl::StatusOr<std::shared_ptr<const PolytopeSet>> PolytopeSet::Parse(std::string_view bytes,
                                                                      const std::string& path) {
  const auto in_file = [&](const absl::Status& s) {
    return absl::Status(s.code(), absl::StrCat(path, ": ", s.message()));
  };
  absl::StatusOr<PolytopeFile> file = ReadPolytopes(bytes);
  if (!file.ok()) return in_file(file.status());
  absl::StatusOr<std::shared_ptr<const PolytopeSet>> set = Make(*std::move(file));
  if (!set.ok()) return in_file(set.status());
  auto named = std::make_shared<PolytopeSet>(**set);
  named->path_ = path;
  return named;
}

absl::Status PolytopeSet::Fits(int64_t d, std::string_view model_hash) const {
  constexpr const char* kCure = "; build them for this model: omni safety build";
  if (d_ != d) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": its polytopes have width ", d_, ", the model ", d, kCure));
  }
  if (!model_hash_.empty() && model_hash_ != model_hash) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": its polytopes were built for model ",
                                                      Quoted(model_hash_), ", and this is ",
                                                      std::string(model_hash), kCure));
  }
  return absl::OkStatus();
}

const Projector* PolytopeSet::Find(std::string_view name) const {
  const auto it = projectors_.find(name);
  return it == projectors_.end() ? nullptr : &it->second;
}

const std::string& PolytopeSet::Hash(std::string_view name) const {
  static const std::string kNone;
  const auto it = hashes_.find(name);
  return it == hashes_.end() ? kNone : it->second;
}

absl::Status PolytopeSet::Has(std::string_view name) const {
  if (Find(name) != nullptr) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      "there is no polytope ", Quoted(std::string(name)), "; there are ",
      absl::StrJoin(projectors_, ", ",
                    [](std::string* out, const auto& entry) { absl::StrAppend(out, entry.first); })));
}

}  // namespace omni
