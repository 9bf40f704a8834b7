#pragma once

#include <string>

namespace omni {

// What a model is called where nothing else is said: its folder's name.
std::string ModelName(const std::string& path);

}  // namespace omni
