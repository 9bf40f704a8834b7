// --perspectives, which several verbs have.
#pragma once

#include <optional>

#include "cli/verb.h"
#include "engine/around/perspectives.h"

namespace omni::cli {

// For a verb that cannot do without them.
CLI::Option* AddPerspectives(Verb& verb, PerspectiveSettings& settings);
// For one that can: "off" and nothing given are no settings.
CLI::Option* AddPerspectives(Verb& verb, std::optional<PerspectiveSettings>& settings);

}  // namespace omni::cli
