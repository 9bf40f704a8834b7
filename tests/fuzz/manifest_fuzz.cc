// model.json and deltas.json: what is accepted is the very text that the packer would write.
#include "store/format/manifest.h"

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 50000;

namespace {

constexpr std::string_view kChecksum = "\"checksum\": \"", kModelHash = "\"model_hash\": \"";
constexpr std::string_view kStated = "give the model hash ";
constexpr size_t kDigits = 32;

// Puts `digits` after `field`, where it stands in the text.
std::string With(std::string text, std::string_view field, std::string_view digits) {
  const size_t at = text.find(field);
  if (at == std::string::npos || text.size() - at < field.size() + kDigits) return text;
  return text.replace(at + field.size(), kDigits, digits);
}

std::string Sealed(const std::string& text) {
  const std::string blank = With(text, kChecksum, std::string(kDigits, '0'));
  return With(blank, kChecksum, ContentHash(blank).Hex());
}

template <typename M>
absl::Status Check(const std::string& text) {
  const absl::StatusOr<M> manifest = M::Parse("model.json", text);
  if (manifest.ok()) {
    Require(manifest->Encode() == text, "an accepted manifest is the text that it is written as");
  } else {
    RequireReadable(manifest.status());
  }
  return manifest.status();
}

}  // namespace

std::vector<std::string> Seeds() {
  Manifest m;
  m.config = *Preset("tiny");
  m.counts.tile_alignment = 64;
  m.counts.whole = true;
  m.files["shared.bin"] = {1000, {1, 2}};
  m.files["packs/tiles-000.bin"] = {2000, {3, 0xabcdef}};
  m.delta_digest = {5, 6};
  m.delta_keys = 24;
  DeltaManifest d;
  d.files["deltas/CURRENT"] = {16, {1, 2}};
  d.delta_digest = {5, 6};
  std::string another_order = m.Encode();
  another_order[1] = ' ';  // where a line ends
  return {m.Encode(), d.Encode(), DeltaManifest().Encode(), another_order,
          R"({"checksum": "00000000000000000000000000000000", "format":"omni-deltas","version":1,"files":{},)"
          R"("xxh3_128":"00000000000000000000000000000000"})"};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string input(View(data, size)), sealed = Sealed(input);
  for (const std::string& text : {input, sealed}) {
    (void)Check<DeltaManifest>(text);
    const absl::Status status = Check<Manifest>(text);
    // With the hash that the error wants, the text gets past it.
    const std::string message(status.message());
    const size_t stated = message.find(kStated);
    if (stated == std::string::npos) continue;
    (void)Check<Manifest>(Sealed(With(text, kModelHash, message.substr(stated + kStated.size(), kDigits))));
  }
  return 0;
}
