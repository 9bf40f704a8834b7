// Tasks whose work programs do: small ones that a test writes down.
#pragma once

#include <dirent.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "cluster/tasks/artifact_store.h"
#include "cluster/tasks/command_executor.h"
#include "omni/tasks/v1/tasks.pb.h"
#include "tests/cluster/tasks/recorded_attempt.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

class ChildrenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    place_ = {OMNI_CHILD, temp_ / "state", ""};
    ASSERT_TRUE(EndLeftovers(place_).ok());
  }
  void TearDown() override {
    EXPECT_TRUE(Files(temp_ / "state/children").empty()) << "a child's record is left";
    EXPECT_TRUE(Files(temp_ / "state/runs").empty()) << "an attempt's folder is left";
  }

  static std::vector<std::string> Files(const std::string& folder) {
    std::vector<std::string> names;
    DIR* open = ::opendir(folder.c_str());
    if (open == nullptr) return names;
    while (const dirent* entry = ::readdir(open))
      if (entry->d_name[0] != '.') names.push_back(entry->d_name);
    ::closedir(open);
    return names;
  }
  std::string Script(const std::string& name, const std::string& text) {
    const std::string path = temp_ / name;
    std::ofstream(path) << text;
    ::chmod(path.c_str(), 0755);
    return path;
  }
  static std::string Read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

  // Processes whose command line has the word, which no other test uses.
  static std::vector<int> Running(const std::string& word) {
    std::vector<int> pids;
    for (const std::string& name : Files("/proc")) {
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      if (Read("/proc/" + name + "/cmdline").find(word) != std::string::npos) pids.push_back(std::stoi(name));
    }
    return pids;
  }

  static ChildLimits Limits() {
    ChildLimits limits;
    limits.time = std::chrono::minutes(4);  // whatever else a test's machine does
    limits.grace = std::chrono::milliseconds(300);
    return limits;
  }
  static TaskAssignment Task(const omni::tasks::v1::Work& work) {
    TaskAssignment task;
    task.state.id = "0123";
    task.state.caller = "anna";
    task.work.input = work.SerializeAsString();
    return task;
  }

  TempDir temp_;
  ChildPlace place_;
};

}  // namespace omni::testing
