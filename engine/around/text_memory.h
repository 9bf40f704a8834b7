// Texts by texts: the associations of one scope, in banks of hypervectors (memory_banks.h) with the values
// beside them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <absl/container/flat_hash_map.h>

#include "engine/around/memory_banks.h"

namespace omni {

struct Remembered {
  std::string value;
  Recalled how;
};

// Not thread-safe, but that any number of threads may ask one that nobody changes, and that Share()'s is
// another one.
class TextMemory {
 public:
  TextMemory() : values_(std::make_shared<Values>()) {}

  // key: TextVector of the key's text, not zero. A key that was there before gets this value.
  void Add(const HyperVector& key, const std::string& value);
  // The value of the key that is most like this one; nothing: none is like it, or the key is zero.
  std::optional<Remembered> Ask(const HyperVector& key) const;
  // As it is now, whatever is added later. Costs next to nothing; the next Add copies what it changes.
  std::shared_ptr<const TextMemory> Share();

  const MemoryBanks& banks() const { return banks_; }
  int64_t values() const { return static_cast<int64_t>(values_->size()); }  // distinct ones there have been
  int64_t bytes() const { return banks_.bytes() + value_bytes_; }

 private:
  using Values = absl::flat_hash_map<uint64_t, std::shared_ptr<const std::string>>;  // by id
  TextMemory(MemoryBanks banks, std::shared_ptr<Values> values, int64_t value_bytes)
      : banks_(std::move(banks)), values_(std::move(values)), value_bytes_(value_bytes) {}

  MemoryBanks banks_;
  std::shared_ptr<Values> values_;
  bool values_shared_ = false;
  int64_t value_bytes_ = 0;
};

}  // namespace omni
