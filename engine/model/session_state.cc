#include "engine/model/session_state.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <xxhash.h>

namespace omni {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'S', 'E', 'S', 'S'};
// 2: of a model with a slow state, which comes last.
constexpr uint32_t kVersion = 1, kSlowVersion = 2;
constexpr int64_t kMaxPosition = int64_t{1}
                                 << 53;  // positions are exact in double, where the angles are made

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t fingerprint;
  int64_t position;
  uint64_t pdr_floats;
  uint64_t kv_halves;
};
static_assert(sizeof(Header) == 48);

uint32_t VersionFor(const ModelConfig& c) { return c.has_slow_state() ? kSlowVersion : kVersion; }

auto Meaning(const ModelConfig& c) {
  return std::make_tuple(c.layers, c.attention_period, c.d, c.r, c.heads, c.kv_heads, c.window,
                         int64_t{c.key_scale}, int64_t{c.readout_norm}, c.state_norm_period,
                         int64_t{std::bit_cast<int32_t>(c.decay_floor)},
                         std::bit_cast<int64_t>(c.rope_theta));
}

// What of the slow state's meaning there is beside that.
auto SlowMeaning(const ModelConfig& c) {
  return std::make_tuple(static_cast<int64_t>(c.route_from), int64_t{std::bit_cast<int32_t>(c.slow_rate)});
}

template <typename Fields>
uint64_t HashOf(const Fields& fields) {
  return std::apply(
      [](auto... field) {
        const int64_t words[] = {field...};
        return XXH3_64bits(words, sizeof(words));
      },
      fields);
}

uint64_t Fingerprint(const ModelConfig& c) {
  return c.has_slow_state() ? HashOf(std::tuple_cat(Meaning(c), SlowMeaning(c))) : HashOf(Meaning(c));
}

struct Elements {
  int64_t pdr = 0, kv = 0, slow = 0;
  int64_t bytes() const { return (pdr + slow) * int64_t{sizeof(float)} + kv * int64_t{sizeof(uint16_t)}; }
};

Elements ElementsOf(const ModelConfig& config, int64_t layer) {
  if (config.IsAttention(layer)) return {0, 2 * config.kv_heads * config.window * config.head_dim(), 0};
  return {config.d * config.r, 0, config.has_slow_state() ? config.d : 0};
}

Elements ElementsOf(const ModelConfig& config) {
  Elements sum;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const Elements n = ElementsOf(config, layer);
    sum.pdr += n.pdr;
    sum.kv += n.kv;
    sum.slow += n.slow;
  }
  return sum;
}

}  // namespace

SessionState::SessionState(const ModelConfig& config) : SessionState(config, true) {}

SessionState::SessionState(const ModelConfig& config, bool with_keys) : config_(config) {
  Elements before;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    offset_.push_back(config.IsAttention(layer) ? before.kv : before.pdr);
    slow_offset_.push_back(before.slow);
    const Elements n = ElementsOf(config, layer);
    before.pdr += n.pdr;
    before.kv += n.kv;
    before.slow += n.slow;
  }
  pdr_.resize(static_cast<size_t>(before.pdr));
  if (with_keys) kv_.resize(static_cast<size_t>(before.kv));
  slow_.resize(static_cast<size_t>(before.slow));
}

SessionState SessionState::Recurrent() {
  SessionState copy(config_, false);
  copy.CopyRecurrent(*this);
  return copy;
}

void SessionState::CopyRecurrent(SessionState& other) {
  position_ = other.position_;
  std::copy(other.pdr_.begin(), other.pdr_.end(), pdr_.begin());
  std::copy(other.slow_.begin(), other.slow_.end(), slow_.begin());
  kv_of_other_ = other.kv_.data();
}

absl::Status SessionState::BringHome() {
  if (own_.there == nullptr) return absl::OkStatus();
  if (absl::Status s = own_.there->Fetch(*this); !s.ok()) return s;
  own_.there = nullptr;
  return absl::OkStatus();
}

void SessionState::Reset() {
  own_.there = nullptr;
  position_ = 0;
  std::fill(pdr_.begin(), pdr_.end(), 0.0f);
  std::fill(kv_.begin(), kv_.end(), uint16_t{0});
  std::fill(slow_.begin(), slow_.end(), 0.0f);
}

float* SessionState::pdr(LayerId layer) { return pdr_.data() + offset_[layer.index()]; }

float* SessionState::slow(LayerId layer) { return slow_.data() + slow_offset_[layer.index()]; }

uint16_t* SessionState::keys(LayerId layer) {
  return (kv_of_other_ == nullptr ? kv_.data() : kv_of_other_) + offset_[layer.index()];
}

uint16_t* SessionState::values(LayerId layer) {
  return keys(layer) + config_.kv_heads * config_.window * config_.head_dim();
}

int64_t SessionState::bytes() const {
  return static_cast<int64_t>((pdr_.size() + slow_.size()) * sizeof(float) + kv_.size() * sizeof(uint16_t));
}

int64_t SessionState::BytesFor(const ModelConfig& config) { return ElementsOf(config).bytes(); }

bool SessionState::Fits(const ModelConfig& config) const {
  return Meaning(config_) == Meaning(config) && SlowMeaning(config_) == SlowMeaning(config);
}

std::string SessionState::Save() const {
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = VersionFor(config_);
  header.fingerprint = Fingerprint(config_);
  header.position = position_;
  header.pdr_floats = pdr_.size();
  header.kv_halves = kv_.size();
  std::string bytes;
  bytes.reserve(sizeof(header) + static_cast<size_t>(this->bytes()) + sizeof(uint64_t));
  bytes.append(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes.append(reinterpret_cast<const char*>(pdr_.data()), pdr_.size() * sizeof(float));
  bytes.append(reinterpret_cast<const char*>(kv_.data()), kv_.size() * sizeof(uint16_t));
  bytes.append(reinterpret_cast<const char*>(slow_.data()), slow_.size() * sizeof(float));
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

absl::StatusOr<SessionState> SessionState::Restore(const ModelConfig& config, const std::string& bytes) {
  const Elements elements = ElementsOf(config);
  Header header;
  uint64_t checksum;
  const size_t want = sizeof(header) + static_cast<size_t>(elements.bytes()) + sizeof(checksum);
  if (bytes.size() < sizeof(header) + sizeof(checksum)) {
    return absl::DataLossError(absl::StrCat("session state: ", bytes.size(),
                                            " bytes are fewer than its header's ", sizeof(header),
                                            "; the file is cut, take an older checkpoint"));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError("session state: these bytes do not begin with OMNISESS");
  }
  if (header.version != kVersion && header.version != kSlowVersion) {
    return absl::InvalidArgumentError(absl::StrCat("session state: version ", header.version,
                                                   ", this program reads versions ", kVersion, " and ",
                                                   kSlowVersion));
  }
  std::memcpy(&checksum, bytes.data() + bytes.size() - sizeof(checksum), sizeof(checksum));
  if (checksum != XXH3_64bits(bytes.data(), bytes.size() - sizeof(checksum))) {
    return absl::DataLossError(
        "session state: its checksum fails; the bytes are cut or altered, take an older checkpoint");
  }
  if (header.fingerprint != Fingerprint(config) || header.version != VersionFor(config)) {
    return absl::FailedPreconditionError(
        "session state: it belongs to a model of another configuration; start the session anew");
  }
  if (bytes.size() != want || header.pdr_floats != static_cast<uint64_t>(elements.pdr) ||
      header.kv_halves != static_cast<uint64_t>(elements.kv) || header.reserved != 0 || header.position < 0 ||
      header.position > kMaxPosition) {
    return absl::InvalidArgumentError(absl::StrCat("session state: ", bytes.size(), " bytes at position ",
                                                   header.position, ", the configuration wants ", want));
  }
  SessionState state(config);  // only now: bytes that are refused cost no memory
  const char* at = bytes.data() + sizeof(header);
  // A part that the model does not have is empty, and has no memory that memcpy could take.
  const auto take = [&at](auto& part) {
    const size_t size = part.size() * sizeof(part[0]);
    std::copy_n(at, size, reinterpret_cast<char*>(part.data()));
    at += size;
  };
  take(state.pdr_);
  take(state.kv_);
  take(state.slow_);
  state.position_ = header.position;
  return state;
}

}  // namespace omni
