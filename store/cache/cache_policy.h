// Which tile a full cache gives up: policies behind one interface.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <absl/functional/function_ref.h>

#include "engine/model/config.h"
#include "store/format/tile_users.h"

namespace omni {

// Told of everything that happens to the slots of a cache; asked which of them to give up. A slot is in [0,
// slots) and empty until it is filled. One thread at a time: the cache calls with its lock held.
class CachePolicy {
 public:
  virtual ~CachePolicy() = default;
  virtual void OnFill(uint32_t slot,
                      uint32_t content) = 0;  // the empty slot now holds (or is being filled with) that tile
  virtual void OnUse(uint32_t slot) = 0;      // an expert being computed uses it
  virtual void OnEvict(uint32_t slot) = 0;    // the slot is empty again
  // A layer's expert was chosen for computing: place = the layer's number among expert layers.
  virtual void OnExpert(int64_t place, int64_t expert) = 0;
  // The layer's next expert is guessed to be this one, as for reading ahead; forgotten when OnExpert says
  // what it is.
  virtual void OnPredict(int64_t /*place*/, int64_t /*expert*/) {}
  // A filled slot to give up, among those for which free_to_go(slot) is true; -1 if there is none. Changes
  // nothing: the caller evicts. free_to_go may not call the policy.
  virtual int64_t Victim(absl::FunctionRef<bool(uint32_t)> free_to_go) = 0;
  virtual const char* name() const = 0;
};

enum class PolicyKind {
  kLru,      // the slot whose last fill or use is longest ago
  kDecayed,  // the tile least used, where a use counts less the older it is
  kTorus,    // the tile least likely to be used soon, by where on the torus tokens go from where they were
};

// `users` outlives the policy. slots >= 1.
std::unique_ptr<CachePolicy> MakePolicy(PolicyKind kind, int64_t slots, const TileUsers& users,
                                        const ModelConfig& config);

}  // namespace omni
