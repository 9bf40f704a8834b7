// Safetensors files: whatever the header says, views lie inside the file, and what was read can be written
// and read again.
#include <cstring>

#include "engine/model/checkpoint.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 15000;

namespace {

bool SameTensors(const SafetensorsFile& a, const SafetensorsFile& b) {
  if (a.metadata() != b.metadata() || a.tensors().size() != b.tensors().size()) return false;
  for (const auto& [name, tensor] : a.tensors()) {
    const auto other = b.tensors().find(name);
    if (other == b.tensors().end() || other->second.dtype != tensor.dtype ||
        other->second.shape != tensor.shape)
      return false;
    if (tensor.bytes() > 0 &&
        std::memcmp(other->second.data, tensor.data, static_cast<size_t>(tensor.bytes())) != 0) {
      return false;
    }
  }
  return true;
}

void CheckFile(const std::string& bytes) {
  const MemoryFile file(bytes);
  const absl::StatusOr<SafetensorsFile> read = SafetensorsFile::Open(file.path());
  if (!read.ok()) return RequireReadable(read.status());
  int64_t total = 0;
  for (const auto& [name, tensor] : read->tensors()) {
    Require(tensor.bytes() >= 0, "a tensor has a size");
    total += tensor.bytes();
    Require(read->F32(name, tensor.shape).ok() == (tensor.dtype == DType::kF32),
            "a tensor is found by its name and shape");
    const absl::Status missing = read->F32(name + "?", tensor.shape).status();
    if (!read->tensors().contains(name + "?")) RequireReadable(missing);
  }
  Require(total <= static_cast<int64_t>(bytes.size()), "the tensors lie in the file");
  const MemoryFile again("");
  const absl::Status written = WriteSafetensors(again.path(), read->tensors(), read->metadata());
  Require(written.ok(), "what was read can be written");
  const absl::StatusOr<SafetensorsFile> back = SafetensorsFile::Open(again.path());
  Require(back.ok() && SameTensors(*read, *back), "what was written reads as before");
}

// The input with the header's length set right: it ends with the last '}'.
std::string Framed(std::string_view input) {
  const size_t brace = input.rfind('}');
  const std::string_view from = input.substr(std::min<size_t>(8, input.size()));
  if (brace == std::string_view::npos || brace < 8) return std::string(input);
  std::string header(from.substr(0, brace - 7));
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof length);
  return out + header + std::string(input.substr(brace + 1));
}

std::string WithHeader(std::string_view header, size_t data_bytes) {
  return Framed("........" + std::string(header) + std::string(data_bytes, 'x'));
}

}  // namespace

std::vector<std::string> Seeds() {
  const float floats[6] = {1.5f, -2.0f, 3.25f, 0.0f, 5.0f, -6.0f};
  const int64_t integers[2] = {-1, int64_t{1} << 40};
  const uint8_t bytes[3] = {1, 2, 255};
  const MemoryFile file("");
  const absl::Status written = WriteSafetensors(file.path(),
                                                {{"weights", {DType::kF32, {2, 3}, floats}},
                                                 {"counts", {DType::kI64, {2}, integers}},
                                                 {"a.bytes", {DType::kU8, {3, 1}, bytes}},
                                                 {"none", {DType::kF32, {0, 7}, nullptr}},
                                                 {"scalar", {DType::kF32, {}, floats}}},
                                                {{"step", "1000"}});
  Require(written.ok(), "seeds can be written");
  std::string unsigned_file = file.Read();
  unsigned_file.replace(unsigned_file.find("header_xxh3"), 11, "header_none");
  return {file.Read(),
          unsigned_file,
          WithHeader("{}", 0),
          WithHeader(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},)"
                     R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                     6),
          WithHeader(R"({"h":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}})", 6),
          WithHeader(R"({"__metadata__":{"header_xxh3":"00"},"a":)" + std::string(100000, '[') +
                         std::string(100000, ']') + "}",
                     0),
          WithHeader(R"({"__metadata__":{"header_xxh3":)" + std::string(100000, '[') +
                         std::string(100000, ']') + "}}",
                     0)};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni::fuzz;
  const std::string input(View(data, size));
  CheckFile(input);
  CheckFile(Framed(input));
  return 0;
}
