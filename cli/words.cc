#include "cli/words.h"

namespace omni::cli {
namespace {

constexpr char kWords[] = "WORD";  // the type's name in the help, by which such a list is known
constexpr char kLiteral = '\1';    // before a word that the parser would not leave alone

}  // namespace

CLI::Option* AddWords(Verb& verb, const std::string& name, std::vector<std::string>& values,
                      const std::string& help) {
  const CLI::callback_t take = [&values](const CLI::results_t& texts) {
    values.clear();
    for (const std::string& text : texts) values.push_back(text.substr(text.starts_with(kLiteral) ? 1 : 0));
    return true;
  };
  return verb.app().add_option(name, take, help)->type_name(kWords)->expected(1, -1)->allow_extra_args();
}

bool IsWords(const CLI::Option& list) { return list.get_type_name() == kWords; }

std::string LiteralWord(const CLI::Option& list, const std::string& word) {
  return IsWords(list) ? kLiteral + word : "./" + word;
}

}  // namespace omni::cli
