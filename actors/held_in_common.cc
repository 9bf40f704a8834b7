#include "actors/held_in_common.h"

#include <algorithm>

#include "engine/around/adapter_bytes.h"
#include "engine/around/text_memory.h"

namespace omni {

void HeldInCommon::Add(const Session& session) {
  bytes_ += BytesWith(session);
  held_.push_back(session.adapter());
  held_.push_back(session.stored());
}

int64_t HeldInCommon::BytesWith(const Session& session) const {
  int64_t bytes = 0;
  if (IsNew(session.adapter())) bytes += AdapterBytes(*session.adapter(), d_);
  if (IsNew(session.stored())) bytes += session.stored()->bytes();
  return bytes;
}

bool HeldInCommon::IsNew(const void* held) const {
  return held != nullptr && std::find(held_.begin(), held_.end(), held) == held_.end();
}

}  // namespace omni
