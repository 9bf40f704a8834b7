// omni plan and omni doctor, end to end.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using omni::testing::OmniTest;
using omni::testing::Output;
using omni::testing::ProcessOptions;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(OmniTest, PlanSaysWhatGoesWhere) {
  const nlohmann::json json = Json(Omni({"plan", "-m", Model(), "--ram", "1G", "--json"}));
  const nlohmann::json& ram = json["ram"];
  EXPECT_EQ(json["packed"], true);
  EXPECT_TRUE(json["in_cpu_cache"].is_boolean());
  EXPECT_EQ(ram["budget_bytes"], int64_t{1} << 30);
  EXPECT_EQ(ram["cache_tiles"], ram["unique_tiles"]);
  const nlohmann::json inspected = Json(Omni({"inspect", "-m", Model(), "--json"}));
  EXPECT_EQ(ram["unique_tiles"], inspected["tiles"]["unique"]);
  EXPECT_EQ(ram["shared_bytes"], inspected["bytes"]["shared"]);
  EXPECT_EQ(json["disk"]["model_bytes"], inspected["bytes"]["total"]);
  for (const char* key : {"shared_bytes", "index_bytes", "session_bytes", "other_bytes", "cache_bytes",
                          "needed_tiles", "tile_bytes"}) {
    EXPECT_GT(ram[key], 0) << key;
  }
  for (const char* key : {"shared", "experts", "recurrent", "keys_values"}) {
    EXPECT_GT(json["bytes_per_token"][key], 0) << key;
  }
  EXPECT_EQ(json["vram"]["used"], false);
  EXPECT_GT(json["measured"]["memory"]["bytes_per_s"], 0);
  EXPECT_GT(json["measured"]["disk"]["random_bytes_per_s"], 0);
  for (const char* key : {"hot", "local", "uniform"}) {
    EXPECT_EQ(json["expected"][key]["hit_share"], 1) << key;
    EXPECT_GT(json["expected"][key]["tok_per_s"], 0) << key;
  }
  EXPECT_GE(json["changes"].size(), 3u);

  const Output text = Omni({"plan", "-m", Model(), "--ram", "1G", "--vram", "100M"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_EQ(text.err, "");
  EXPECT_THAT(text.out,
              AllOf(HasSubstr("RAM    budget 1.00 GiB"), HasSubstr("Measured"), HasSubstr("Expected"),
                    HasSubstr("VRAM   100 MiB of a GPU"), HasSubstr("all of them, if all are in RAM")));
  EXPECT_THAT(Omni({"plan", "-m", Model(), "--ram", "1G"}).out, HasSubstr("VRAM   none: the CPU computes"));
  EXPECT_THAT(Omni({"plan", "-m", Model(), "--ram", "1G", "--vram", "10K"}).out,
              HasSubstr("more would do: the CPU computes"));
}

TEST_F(OmniTest, PlanOfAPresetNeedsNoFiles) {
  const auto plan = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"plan", "--preset", "perspective-1t", "--json", "--ram"});
    return Json(Omni(arguments));
  };
  const nlohmann::json small = plan({"8G"}), large = plan({"20G"}), little = plan({"8G", "--delta", "0.02"});
  EXPECT_EQ(small["packed"], false);
  EXPECT_EQ(small["in_cpu_cache"], false);
  EXPECT_LT(small["ram"]["cache_tiles"], small["ram"]["unique_tiles"]);
  EXPECT_LE(small["ram"]["cache_bytes"], int64_t{8} << 30);
  EXPECT_LT(small["expected"]["local"]["hit_share"], large["expected"]["local"]["hit_share"]);
  EXPECT_GT(small["expected"]["local"]["hit_share"], small["expected"]["uniform"]["hit_share"]);
  EXPECT_LT(little["ram"]["unique_tiles"], small["ram"]["unique_tiles"]);
  ASSERT_FALSE(small["changes"].empty());
  EXPECT_GT(small["changes"][0]["gain"], 0);
}

TEST_F(OmniTest, PlanSaysHowManyNodesAModelTakes) {
  const auto plan = [](const std::string& ram, const std::string& nodes) {
    return Json(Omni({"plan", "--preset", "perspective-1t", "--json", "--ram", ram, "--nodes", nodes}));
  };
  const nlohmann::json four = plan("8G", "4"), swarm = four["swarm"], ram = four["ram"];
  EXPECT_EQ(swarm["nodes"], 4);
  const auto room = swarm["room_bytes_per_node"].get<int64_t>(), all = swarm["expert_bytes"].get<int64_t>();
  EXPECT_EQ(all, ram["unique_tiles"].get<int64_t>() * ram["tile_bytes"].get<int64_t>());
  // Less than a tile is left over.
  EXPECT_GE(room, ram["cache_bytes"].get<int64_t>());
  EXPECT_LT(room - ram["cache_bytes"].get<int64_t>(), ram["tile_bytes"].get<int64_t>());
  const auto enough = swarm["nodes_without_disk"].get<int64_t>();
  EXPECT_GE(enough * room, all);
  EXPECT_LT((enough - 1) * room, all);
  EXPECT_GE(swarm["nodes_with_shadows"].get<int64_t>() * room, 2 * all);
  EXPECT_NEAR(swarm["share_in_memory"].get<double>(),
              std::min(1.0, 4 * static_cast<double>(room) / static_cast<double>(all)), 1e-9);
  EXPECT_EQ(plan("8G", std::to_string(enough))["swarm"]["share_in_memory"], 1.0);
  EXPECT_LT(plan("8G", std::to_string(enough - 1))["swarm"]["share_in_memory"], 1.0);
  // What one holds wants a second for shadows alone.
  EXPECT_EQ(plan("200G", "1")["swarm"]["nodes_with_shadows"], 2);
  EXPECT_TRUE(Json(Omni({"plan", "-m", Model(), "--ram", "1G", "--json"}))["swarm"].is_null());
  EXPECT_THAT(Omni({"plan", "-m", Model(), "--ram", "1G", "--nodes", "3"}).out,
              AllOf(HasSubstr("Swarm  of 3 nodes with this budget each"), HasSubstr("with shadows")));
}

TEST_F(OmniTest, PlanMeasuresOnceAndSurvivesADamagedFile) {
  ProcessOptions options;
  options.env = {{"XDG_STATE_HOME", *dir_ / "plan-state"}};
  const std::vector<std::string> arguments = {"plan", "-m", Model(), "--ram", "1G", "--json"};
  const nlohmann::json first = Json(Omni(arguments, options))["measured"];
  EXPECT_EQ(Json(Omni(arguments, options))["measured"], first);
  const std::string file = *dir_ / "plan-state/omni/speeds.json";
  ASSERT_TRUE(fs::exists(file));
  std::ofstream(file, std::ios::trunc) << "{\"format\": ";
  const nlohmann::json again = Json(Omni(arguments, options))["measured"];
  EXPECT_NE(again["memory"]["bytes_per_s"], first["memory"]["bytes_per_s"]);
  EXPECT_EQ(Json(Omni(arguments, options))["measured"], again);
  std::vector<std::string> refresh = arguments;
  refresh.push_back("--refresh");
  EXPECT_NE(Json(Omni(refresh, options))["measured"], again);
}

TEST_F(OmniTest, PlanRefusesWhatCannotBe) {
  ExpectOneLine(Omni({"plan", "--ram", "lots"}), 2, "--ram: 'lots' is not a size; give a number");
  ExpectOneLine(Omni({"plan", "--ram", "26GB"}), 2, "--ram: '26GB' is not a size");
  ExpectOneLine(Omni({"plan", "--vram", "-1G"}), 2, "--vram");
  ExpectOneLine(Omni({"plan", "--delta", "0.1", "-m", Model()}), 2, "--delta goes with --preset");
  ExpectOneLine(Omni({"plan", "--delta", "2"}), 2, "--delta: '2' is not a number from 0 to 1");
  ExpectOneLine(Omni({"plan", "--preset", "huge"}), 2,
                "--preset: 'huge' is none of perspective-1t, mini, char, tiny");
  ExpectOneLine(Omni({"plan", "--preset", "mini", "-m", Model()}), 2, "exclude each other");
  ExpectOneLine(Omni({"plan", "-m", *dir_ / "nowhere"}), 1, "nowhere");
  ExpectOneLine(Omni({"plan", "-m", Model(), "--ram", "100M"}), 1,
                "a memory budget of 100 MiB is too small; the least that works is ");
  ExpectOneLine(Omni({"plan", "-m", Model(), "--ram", "1G", "--disk", *dir_ / "nowhere"}), 1, "nowhere");
}

TEST_F(OmniTest, DoctorChecksTheMachine) {
  const Output output = Omni({"doctor", "--json"});
  EXPECT_TRUE(output.exit_code == 0 || output.exit_code == 1) << output.err;
  EXPECT_EQ(output.err, "");
  const nlohmann::json json = nlohmann::json::parse(output.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << output.out;
  EXPECT_EQ(json["ok"], output.exit_code == 0);
  EXPECT_TRUE(json["model"].is_null());
  std::vector<std::string> checks;
  for (const nlohmann::json& check : json["checks"]) {
    checks.push_back(check["check"]);
    EXPECT_TRUE(check["verdict"] == "ok" || check["verdict"] == "slow" || check["verdict"] == "bad" ||
                check["verdict"] == "unknown");
    EXPECT_NE(check["found"], "");
    EXPECT_TRUE(check["do"].is_string());
    EXPECT_TRUE(check["verdict"] != "bad" || check["do"] != "") << checks.back();
  }
  EXPECT_EQ(checks, std::vector<std::string>({"kernels", "cores", "memory", "memory limit", "huge pages",
                                              "io_uring", "locked memory", "open files", "GPU"}));
}

TEST_F(OmniTest, DoctorChecksAModelAndItsDisk) {
  const Output output = Omni({"doctor", "-m", Model()});
  EXPECT_EQ(output.err, "");
  EXPECT_THAT(output.out, AllOf(HasSubstr(" model "), HasSubstr(" disk "), HasSubstr(" disk room ")));
  ProcessOptions scalar;
  scalar.env = {{"OMNI_ISA", "scalar"}};
  EXPECT_THAT(Omni({"doctor"}, scalar).out, HasSubstr("scalar"));
  ExpectOneLine(Omni({"doctor", "-m", *dir_ / "nowhere"}), 1, "nowhere");
  fs::create_directory(*dir_ / "no-model");
  const Output bad = Omni({"doctor", "-m", *dir_ / "no-model", "--json"});
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_EQ(nlohmann::json::parse(bad.out)["ok"], false);
}

}  // namespace
}  // namespace omni
