// What an adapter takes of memory.
#pragma once

#include <cstdint>

#include "engine/around/adapter.h"

namespace omni {

// Its values, and the frozen factors that are made for them; of a model of width `d`.
int64_t AdapterBytes(const Adapter& adapter, int64_t d);
inline int64_t AdapterBytes(const ReadyAdapter& adapter, int64_t d) {
  return AdapterBytes(adapter.adapter(), d);
}

}  // namespace omni
