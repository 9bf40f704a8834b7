// Walks over every verb and every flag that the program's own parser knows: what is new is walked over too,
// or the test says what it lacks.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/verb.h"
#include "engine/around/safety_file.h"
#include "tests/cli/omni_fixture.h"

namespace omni::testing {

// The parser of the program.
struct Parser {
  Parser() { cli::AddVerbs(root, invocation); }

  // Those that go on until they are interrupted, or their input ends, and print nothing of their own.
  static bool Serves(const std::string& verb) { return verb == "node" || verb == "serve" || verb == "mcp"; }
  // All that end by themselves.
  std::vector<CLI::App*> VerbsThatEnd() {
    std::vector<CLI::App*> verbs = Verbs();
    std::erase_if(verbs, [](const CLI::App* verb) { return Serves(verb->get_name()); });
    return verbs;
  }
  // All but train, which is another program.
  std::vector<CLI::App*> Verbs() {
    return root.get_subcommands([](const CLI::App* verb) { return verb->get_name() != "train"; });
  }
  // Those that have a name on the command line, but help, which prints and ends.
  static std::vector<CLI::Option*> Flags(CLI::App* verb) {
    return verb->get_options([](const CLI::Option* option) {
      return !option->get_lnames().empty() && !option->check_lname("help");
    });
  }
  static bool TakesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }
  static std::string Variable(const CLI::Option& option) {
    std::string name = "OMNI_" + option.get_lnames().front();
    for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
    return name;
  }

  CLI::App root{"", "omni"};
  cli::Invocation invocation;
};

class WalkTest : public OmniTest {
 protected:
  static void SetUpTestSuite() {
    OmniTest::SetUpTestSuite();
    std::ofstream(*dir_ / "text.txt") << "The sea was calm.\n<|endoftext|>\nThe ship was late.\n";
    std::ofstream text(*dir_ / "long.txt");
    for (int i = 0; i < 400; ++i) text << "line " << i << " of the log; ";
    text.close();
    std::ofstream(*dir_ / "keys.json")
        << R"({"version": 1, "keys": [{"id": "0123456789ab", "name": "n", "scopes": ["infer"], )"
        << R"("created": "2026-01-01T00:00:00Z", "sha256": ")" << std::string(64, 'e') << R"("}]})";
    Polytope half_line{"half", 1, 0, {1}, {2}, {"at most two"}};
    std::ofstream(*dir_ / "polytopes.omni", std::ios::binary) << WritePolytopes({"", {half_line}});
    // For tests that run the program as another user.
    namespace fs = std::filesystem;
    fs::permissions(dir_->path(), fs::perms::all);
    for (const auto& entry : fs::recursive_directory_iterator(dir_->path()))
      fs::permissions(entry.path(), fs::perms::others_read | fs::perms::others_exec, fs::perm_options::add);
  }

  // A name in the tests' directory that nothing has yet.
  static std::string Fresh(const std::string& name) {
    static int number = 0;
    return *dir_ / (name + std::to_string(++number));
  }

  // What makes a verb print its results, without its name.
  static std::vector<std::string> Words(const std::string& verb) {
    const std::map<std::string, std::vector<std::string>> words = {
        {"run", {"the sea", "-n", "4", "-m", Model()}},
        {"chat", {"the sea", "-m", Model(), "-n", "4"}},
        {"pack", {*dir_ / "checkpoint", Fresh("packed")}},
        {"synth", {"--preset", "tiny", "--out", Fresh("synth")}},
        {"inspect", {"-m", Model()}},
        {"verify", {"-m", Model()}},
        {"plan", {"-m", Model(), "--ram", "1G"}},
        {"doctor", {"-m", Model()}},
        {"eval", {"ppl", *dir_ / "text.txt", "-m", Model()}},
        {"trace", {"the sea", "-m", Model()}},
        {"bench", {"stream", "-m", Model(), "--ram", "1G", "-n", "2", "--cases", "hot", "--no-limits"}},
        {"completion", {"bash"}},
        {"cluster", {"cert", Fresh("authority")}},
        {"key", {"list", "--keys", *dir_ / "keys.json"}},
        {"safety", {"check", *dir_ / "polytopes.omni"}},
        {"memory", {"measure", *dir_ / "text.txt", "-m", Model()}},
        {"adapt",
         {"measure", *dir_ / "long.txt", "-m", Model(), "--first-bytes", "3000", "--passes", "1",
          "--own-tokens", "64", "--layers", "none"}},
        {"task", {"submit", "model", "the sea", "--dry-run"}},
    };
    const auto it = words.find(verb);
    if (it != words.end()) return it->second;
    ADD_FAILURE() << "tests/cli/walk.h has no words that make 'omni " << verb << "' print results";
    return {};
  }

  // Every verb as it prints its results, in words and where it can as JSON, and its help.
  static std::vector<std::vector<std::string>> Commands() {
    Parser parser;
    std::vector<std::vector<std::string>> commands = {{"--help"}, {"--version"}};
    for (CLI::App* verb : parser.Verbs()) {
      const std::string& name = verb->get_name();
      commands.push_back({name, "--help"});
      if (Parser::Serves(name)) continue;
      commands.push_back(Command(name));
      if (verb->get_option_no_throw("--json") != nullptr) {
        commands.push_back(Command(name));
        commands.back().push_back("--json");
      }
    }
    return commands;
  }
  static std::vector<std::string> Command(const std::string& verb) {
    std::vector<std::string> words = Words(verb);
    words.insert(words.begin(), verb);
    return words;
  }

  static std::string Join(const std::vector<std::string>& words) {
    std::string text = "omni";
    for (const std::string& word : words) text += " '" + word + "'";
    return text;
  }
};

}  // namespace omni::testing
