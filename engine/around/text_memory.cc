#include "engine/around/text_memory.h"

#include <utility>

#include <xxhash.h>

namespace omni {

void TextMemory::Add(const HyperVector& key, const std::string& value) {
  // Of different texts, one in 2^64 pairs has the same id.
  const uint64_t id = XXH3_64bits(value.data(), value.size());
  if (!values_->contains(id)) {
    if (std::exchange(values_shared_, false)) values_ = std::make_shared<Values>(*values_);
    values_->emplace(id, std::make_shared<const std::string>(value));
    value_bytes_ += static_cast<int64_t>(value.size() + sizeof(std::string) + 48);
  }
  banks_.Add(key, id);
}

std::optional<Remembered> TextMemory::Ask(const HyperVector& key) const {
  if (key == HyperVector()) return std::nullopt;
  const std::optional<Recalled> recalled = banks_.Ask(key);
  if (!recalled.has_value()) return std::nullopt;
  return Remembered{*values_->at(recalled->value), *recalled};
}

std::shared_ptr<const TextMemory> TextMemory::Share() {
  values_shared_ = true;
  return std::shared_ptr<const TextMemory>(new TextMemory(banks_.Share(), values_, value_bytes_));
}

}  // namespace omni
