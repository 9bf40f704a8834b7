#include "store/cache/tile_slots.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace omni {

TileSlots::TileSlots(int64_t size, int64_t most, int64_t contents, std::unique_ptr<CachePolicy> policy)
    : slots_(static_cast<size_t>(most)),
      slot_of_(static_cast<size_t>(contents), kNone),
      policy_(std::move(policy)) {
  Resize(size);
}

void TileSlots::Resize(int64_t size) {
  const int64_t before = std::exchange(size_, size);
  std::erase_if(free_, [&](uint32_t slot) { return Beyond(slot); });
  for (int64_t slot = size; slot < before; ++slot)
    beyond_ += slots_[static_cast<size_t>(slot)].state != State::kEmpty;
  for (int64_t slot = size; slot < before; ++slot) {
    const Slot& of = slots_[static_cast<size_t>(slot)];
    if (of.state == State::kTile && of.users == 0) Evict(static_cast<uint32_t>(slot));
  }
  std::vector<uint32_t> more;
  for (int64_t slot = size; slot-- > before;) {
    if (slots_[static_cast<size_t>(slot)].state == State::kEmpty) {
      more.push_back(static_cast<uint32_t>(slot));
      continue;
    }
    --beyond_;
    if (slots_[static_cast<size_t>(slot)].state == State::kTile &&
        slots_[static_cast<size_t>(slot)].users == 0)
      ++idle_;
  }
  free_.insert(free_.begin(), more.begin(), more.end());  // the lowest are taken first
}

void TileSlots::SetEmpty(uint32_t number) {
  slots_[number].state = State::kEmpty;
  if (Beyond(number)) {
    --beyond_;
  } else {
    free_.push_back(number);
  }
}

bool TileSlots::EvictVictim() {
  const int64_t victim = policy_->Victim(
      [this](uint32_t slot) { return slots_[slot].state == State::kTile && slots_[slot].users == 0; });
  if (victim < 0) return false;
  Evict(static_cast<uint32_t>(victim));
  ++evicted_;
  return true;
}

void TileSlots::Prepare(int64_t count) {
  while (static_cast<int64_t>(free_.size()) < count && EvictVictim()) {
  }
  const auto taken = std::min(free_.size(), static_cast<size_t>(count));
  std::sort(free_.end() - static_cast<std::ptrdiff_t>(taken), free_.end(), std::greater<>());
}

uint32_t TileSlots::Take(uint32_t content) {
  if (free_.empty() && !EvictVictim()) return kNone;
  const uint32_t number = free_.back();
  free_.pop_back();
  ever_filled_ = std::max(ever_filled_, static_cast<int64_t>(number) + 1);
  Slot& slot = slots_[number];
  slot.content = content;
  slot.state = State::kReading;
  slot.guessed = false;
  slot_of_[content] = number;
  policy_->OnFill(number, content);
  return number;
}

void TileSlots::Hold(uint32_t number) {
  Slot& slot = slots_[number];
  if (slot.users++ == 0 && slot.state == State::kTile) --idle_;
}

void TileSlots::LetGo(uint32_t number) {
  Slot& slot = slots_[number];
  if (--slot.users > 0) return;
  if (slot.state == State::kTile) {
    ++idle_;
    if (Beyond(number)) Evict(number);
  } else if (slot.state == State::kFailed) {
    SetEmpty(number);
  }
}

void TileSlots::SetTile(uint32_t number) {
  Slot& slot = slots_[number];
  slot.state = State::kTile;
  if (slot.users > 0) return;
  ++idle_;
  if (Beyond(number)) Evict(number);
}

void TileSlots::Fail(uint32_t number) {
  Slot& slot = slots_[number];
  slot_of_[slot.content] = kNone;
  policy_->OnEvict(number);
  slot.content = kNone;
  slot.guessed = false;
  slot.state = State::kFailed;
  if (slot.users == 0) SetEmpty(number);
}

void TileSlots::EvictIdle() {
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].state == State::kTile && slots_[slot].users == 0) Evict(static_cast<uint32_t>(slot));
  }
}

void TileSlots::Evict(uint32_t number) {
  Slot& slot = slots_[number];
  policy_->OnEvict(number);
  slot_of_[slot.content] = kNone;
  slot.content = kNone;
  slot.guessed = false;
  --idle_;
  SetEmpty(number);
}

}  // namespace omni
