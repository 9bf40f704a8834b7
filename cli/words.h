// Words on a command line that are no files: they are taken as they are typed.
#pragma once

#include <string>
#include <vector>

#include "cli/verb.h"

namespace omni::cli {

// A list of them, as Verb::Files, which may write a file's name in another way.
CLI::Option* AddWords(Verb& verb, const std::string& name, std::vector<std::string>& values,
                      const std::string& help);

bool IsWords(const CLI::Option& list);
// A word that the parser would take apart or for a flag, as a list of words gives it back; a list of files
// has the same file under another name.
std::string LiteralWord(const CLI::Option& list, const std::string& word);

}  // namespace omni::cli
