// Every path that a verb takes, and every file of a model, as what it should not be: a pipe, a folder,
// nothing, empty, unreadable. Each is an error in time.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/walk.h"

namespace omni::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr uid_t kUser = 54321;
constexpr const char* kKinds[] = {"fifo", "folder", "missing", "empty", "unreadable"};

// Makes `path` something else.
void Make(const std::string& kind, const std::string& path) {
  fs::remove_all(path);
  if (kind == "fifo") {
    ASSERT_EQ(mkfifo(path.c_str(), 0666), 0);
  }
  if (kind == "folder") fs::create_directory(path);
  if (kind == "empty" || kind == "unreadable") std::ofstream(path).flush();
  if (kind == "unreadable") {
    std::ofstream(path) << "text";
    fs::permissions(path, fs::perms::none);
  }
}

class WalkFiles : public WalkTest {
 protected:
  // Root reads everything, so it becomes another user where that matters.
  static ProcessOptions OptionsFor(const std::string& kind) {
    ProcessOptions options;
    options.limit = std::chrono::seconds(30);
    if (kind == "unreadable" && geteuid() == 0) {
      options.user = kUser;
      options.env["XDG_STATE_HOME"] = *dir_ / "other-state";
    }
    return options;
  }

  // The words with `path` as the argument's value.
  static std::vector<std::string> WithPath(const CLI::App& verb, const CLI::Option& argument,
                                           const std::string& path) {
    std::vector<std::string> words = Command(verb.get_name());
    if (argument.get_positional()) {  // they come first, in their order
      size_t place = 1;
      for (const CLI::Option* other : verb.get_options()) {
        if (other == &argument) break;
        place += other->get_positional();
      }
      words.at(place) = path;
      return words;
    }
    for (size_t i = 1; i + 1 < words.size(); ++i) {
      const std::string& word = words[i];
      if (word.starts_with("--") ? argument.check_lname(word.substr(2))
                                 : word.starts_with("-") && argument.check_sname(word.substr(1))) {
        words[i + 1] = path;
        return words;
      }
    }
    words.insert(words.end(), {"--" + argument.get_lnames().front(), path});
    return words;
  }

  // Whether the argument is a path; fails the test for a name that nobody has decided about.
  static bool IsPath(const CLI::Option& argument) {
    if (!argument.get_positional()) return argument.get_type_name() == "PATH";
    const std::string name = argument.get_name(/*positional=*/true);
    if (name == "FILE" || name == "CHECKPOINT" || name == "DIR") return true;
    EXPECT_THAT(name, AnyOf("PROMPT", "METRIC", "WHAT", "SHELL", "ACTION", "NODE", "ID", "MESSAGE", "WORDS"))
        << "is it a path? see tests/cli/walk_files_test.cc";
    return false;
  }
  // What is written, and what may be any file or folder: those need not fail.
  static bool MayBeAnything(const CLI::Option& argument) {
    const std::string name = argument.get_name();
    return name == "--out" || name == "--plot" || name == "--routes" || name == "DIR" || name == "--disk";
  }
};

TEST_F(WalkFiles, NoPathHangsAndEveryErrorIsOneLineThatNamesIt) {
  Parser parser;
  int paths = 0;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    for (const CLI::Option* argument : verb->get_options()) {
      if (argument->check_lname("help") || !IsPath(*argument)) continue;
      ++paths;
      for (const std::string kind : kKinds) {
        const std::string path = Fresh("a-" + kind);
        Make(kind, path);
        const std::vector<std::string> command = WithPath(*verb, *argument, path);
        SCOPED_TRACE(Join(command));
        const Output output = Omni(command, OptionsFor(kind));
        EXPECT_LE(output.exit_code, 2) << output.err;
        if (output.exit_code == 0) {
          EXPECT_TRUE(MayBeAnything(*argument));
          continue;
        }
        if (output.exit_code == 1 && verb->get_name() != "doctor") {
          EXPECT_THAT(output.err, HasSubstr(path));
        }
        if (verb->get_name() != "verify" && verb->get_name() != "doctor") {
          EXPECT_THAT(output.err, StartsWith("omni: "));
          EXPECT_EQ(std::count(output.err.begin(), output.err.end(), '\n'), 1) << output.err;
        }
      }
    }
  }
  EXPECT_GT(paths, 12);
}

TEST_F(WalkFiles, NoFileOfAModelHangsAVerb) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(Model())) {
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), Model()));
  }
  ASSERT_GT(files.size(), 5u);
  Parser parser;
  for (const std::string& file : files) {
    for (const std::string kind : kKinds) {
      const std::string copy = Fresh("model-");
      fs::copy(Model(), copy, fs::copy_options::recursive);
      fs::permissions(fs::path(copy + "/" + file).parent_path(), fs::perms::all);
      Make(kind, copy + "/" + file);
      for (CLI::App* verb : parser.VerbsThatEnd()) {
        if (verb->get_option_no_throw("--model") == nullptr) continue;
        const std::vector<std::string> command = WithPath(*verb, *verb->get_option("--model"), copy);
        SCOPED_TRACE(Join(command) + " with " + file + " " + kind);
        const Output output = Omni(command, OptionsFor(kind));
        EXPECT_LE(output.exit_code, 1) << output.err;
        for (const char* loading : {"run", "eval", "trace", "bench", "verify"}) {
          if (verb->get_name() == loading) {
            EXPECT_EQ(output.exit_code, 1) << output.out;
          }
        }
        if (output.exit_code == 1 && verb->get_name() != "doctor") {
          EXPECT_THAT(output.err, StartsWith("omni: "));
        }
      }
      fs::remove_all(copy);
    }
  }
}

// Whatever the system refuses is told as that, and nobody copies a sound model again.
TEST_F(WalkFiles, WhatTheSystemRefusesIsNotToldAsDamage) {
  int refused = 0;
  const auto look = [&](const std::vector<std::string>& command, const ProcessOptions& options,
                        const std::string& reason) {
    SCOPED_TRACE(Join(command));
    const Output output = Omni(command, options);
    if (output.exit_code == 0 || command[0] == "doctor") return;
    ++refused;
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err, HasSubstr(reason));
    EXPECT_THAT(output.out + output.err, Not(HasSubstr("damaged")));
  };
  Parser parser;
  for (CLI::App* verb : parser.VerbsThatEnd()) {
    if (verb->get_option_no_throw("--model") == nullptr) continue;
    for (rlim_t most = 4; most <= 7; ++most) {
      ProcessOptions options;
      options.most_open_files = most;
      look(Command(verb->get_name()), options, "Too many open files");
    }
    const std::string copy = Fresh("model-");
    fs::copy(Model(), copy, fs::copy_options::recursive);
    for (const char* file : {"shared.bin", "tokenizer.omni", "packs/tiles-000.bin"})
      fs::permissions(copy + "/" + file, fs::perms::none);
    look(WithPath(*verb, *verb->get_option("--model"), copy), OptionsFor("unreadable"), "Permission denied");
  }
  EXPECT_GT(refused, 10);
}

// Files that are no texts as they are.
TEST_F(WalkFiles, CompressedTextsAreReadOrRefusedAndNeverMeasuredAsTheyAre) {
  for (const auto& [name, magic] : {std::pair<const char*, std::string>{"a.gz", "\x1f\x8b\x08"},
                                    {"b", "\x1f\x8b\x08"},
                                    {"c.ZST", "\x28\xb5\x2f\xfd"},
                                    {"d.bz2", "BZh9"},
                                    {"e.XZ", std::string("\xfd"
                                                         "7zXZ\0",
                                                         6)}}) {
    const std::string path = *dir_ / name;
    std::ofstream(path, std::ios::binary) << magic << "and more bytes, twenty of them at least";
    ExpectOneLine(Omni({"eval", "ppl", path, "-m", Model()}), 1, path);
  }
}

TEST_F(WalkFiles, EvalMeasuresTheRestOfItsTextsAndReadsStandardInput) {
  const std::string text = *dir_ / "text.txt", empty = Fresh("empty");
  Make("empty", empty);
  const nlohmann::json alone = Json(Omni({"eval", "ppl", text, "-m", Model(), "--json"}));
  const Output both = Omni({"eval", "ppl", text, empty, "-m", Model(), "--json"});
  EXPECT_EQ(both.exit_code, 1);
  EXPECT_THAT(both.err, HasSubstr(empty + ": nothing to predict in it; the other texts were measured"));
  const nlohmann::json rest = nlohmann::json::parse(both.out, nullptr, false);
  ASSERT_TRUE(rest.is_object()) << both.out;
  EXPECT_EQ(rest["nats"], alone["nats"]);
  EXPECT_EQ(rest["skipped"], std::vector<std::string>{empty});
  ProcessOptions options;
  std::ifstream file(text);
  options.stdin_text.assign(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ(Json(Omni({"eval", "ppl", "-", "-m", Model(), "--json"}, options))["nats"], alone["nats"]);
  ExpectOneLine(Omni({"eval", "ppl", "-", "-", "-m", Model()}, options), 2, "- is given twice");
}

// Where a verb does wait, for its input, a signal ends it.
TEST_F(WalkFiles, ASignalEndsAVerbThatWaits) {
  ASSERT_EQ(mkfifo((*dir_ / "held").c_str(), 0666), 0);
  const int held = open((*dir_ / "held").c_str(), O_RDWR | O_CLOEXEC);  // a writer that never writes
  ASSERT_GE(held, 0);
  ProcessOptions options;
  options.stdin_stays_open = true;
  options.signal_after = std::chrono::milliseconds(100);
  options.limit = std::chrono::seconds(30);
  for (const int signal : {SIGTERM, SIGINT}) {
    options.signal = signal;
    for (const std::vector<std::string>& command :
         std::vector<std::vector<std::string>>{{"run", "-", "-m", Model()},
                                               {"trace", "-", "-m", Model()},
                                               {"eval", "ppl", "-", "-m", Model()},
                                               {"eval", "ppl", *dir_ / "held", "-m", Model()}}) {
      SCOPED_TRACE(Join(command));
      EXPECT_THAT(Omni(command, options).exit_code, AnyOf(Eq(128 + signal), Eq(130)));
    }
  }
  close(held);
}

}  // namespace
}  // namespace omni::testing
