// Which adapter a request asks for, and where it comes from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

namespace omni {

class ReadyAdapter;  // engine/around/adapter.h

struct AdapterChoice {
  std::string name;  // empty: none
  // Of Adapter::Hash: no other adapter of that name will do. Empty: whichever there is.
  std::string hash;
  friend bool operator==(const AdapterChoice&, const AdapterChoice&) = default;
};

// One that requests may ask for.
struct OfferedAdapter {
  std::string name, hash, model_hash;
  int64_t tokens = 0, held_out_tokens = 0;  // that it was learned from
  int64_t values = 0;                       // that it has
  double gain = 0;  // the share of the held-out text's loss that it took away; 0: not known
};

// Thread-safe.
class AdapterSource {
 public:
  virtual ~AdapterSource() = default;
  // The one that is there now, as whoever has it keeps it, whatever becomes of the file that it is from.
  // InvalidArgument: there is none of that name, and the message says which there are, or it cannot be used;
  // with a hash that cannot be had, FailedPrecondition.
  virtual absl::StatusOr<std::shared_ptr<const ReadyAdapter>> Take(const AdapterChoice& choice) = 0;
  absl::StatusOr<std::string> Hash(const AdapterChoice& choice);   // of that
  virtual absl::StatusOr<std::vector<OfferedAdapter>> List() = 0;  // by name
};

// `adapter` of a choice's name, if it is the one that is asked for.
absl::StatusOr<std::shared_ptr<const ReadyAdapter>> Chosen(const AdapterChoice& choice,
                                                           std::shared_ptr<const ReadyAdapter> adapter);
// The error for one that cannot be had, because of `why`.
absl::Status NoAdapter(const AdapterChoice& choice, const absl::Status& why);

}  // namespace omni
