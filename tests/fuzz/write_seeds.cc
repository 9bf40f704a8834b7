// Linked to a target beside libFuzzer: NAME_fuzz --write-seeds=DIRECTORY writes its seeds there and does no
// fuzzing.
#include <cstdlib>
#include <fstream>

#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr std::string_view kFlag = "--write-seeds=";
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = (*argv)[i];
    if (!argument.starts_with(kFlag)) continue;
    const std::string directory(argument.substr(kFlag.size()));
    int number = 0;
    for (const std::string& seed : omni::fuzz::Seeds()) {
      std::ofstream out(directory + "/seed-" + std::to_string(number++), std::ios::binary);
      out << seed << std::flush;
      omni::fuzz::Require(out.good(), "seeds can be written");
    }
    std::exit(0);
  }
  return 0;
}
