// Flags of what acts around the token step, of verbs that generate.
#pragma once

#include <optional>
#include <string>

#include <absl/status/status.h>

#include "cli/verb.h"
#include "engine/around/perspectives.h"

namespace omni::cli {

class AroundFlags {
 public:
  std::optional<PerspectiveSettings> perspectives;
  std::string safety, polytopes;  // the polytope's name; the file
  std::string adapter;            // its name
  bool context_memory = false;
  std::string memory_scope, memory;  // whose memory; its folder

  void Add(Verb& verb);
  CLI::Option* polytopes_flag() const { return polytopes_flag_; }  // which does nothing but in this process
  CLI::Option* memory_flag() const { return memory_flag_; }        // the same
  absl::Status Check() const;
  absl::Status RefuseAtServer() const;  // a usage error, if one was given that servers are not asked

 private:
  std::string FirstBesideAdapter() const;  // that asks for something; empty: none does

  CLI::Option *polytopes_flag_ = nullptr, *memory_flag_ = nullptr;
  GivenFlags file_, folder_;
};

}  // namespace omni::cli
