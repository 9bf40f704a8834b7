// --device through the built program: libomni_cuda.so's own source on fibers stands in for a GPU, and says
// that it is that.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/omni_fixture.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/testing/node_process.h"

namespace omni {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::NodeProcess;
using testing::Output;
using testing::ProcessOptions;
using ::testing::StartsWith;

class DeviceTest : public testing::OmniTest {
 protected:
  static ProcessOptions Fibers(std::map<std::string, std::string> env = {}) {
    ProcessOptions options;
    options.env = std::move(env);
    options.env.insert({"OMNI_DEVICE_LIBRARY", OMNI_FIBERS});
    return options;
  }
  static std::vector<std::string> Ask(std::vector<std::string> flags = {}) {
    flags.insert(flags.begin(), {"The sea", "-n", "12", "--seed", "3", "--ignore-eos", "--json"});
    return flags;
  }
  // Of an answer without what no two runs agree in.
  static nlohmann::json Same(nlohmann::json json) {
    json.erase("timings");
    json.erase("device");
    return json;
  }
  static nlohmann::json OnTheCpu(const std::vector<std::string>& flags = {}) {
    return Same(Json(Run(Ask(flags))));
  }
  static std::vector<std::string> With(std::vector<std::string> flags, const std::vector<std::string>& more) {
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }
};

TEST_F(DeviceTest, GivesTheAnswerOfTheCpuAndSaysWhatComputed) {
  for (const std::vector<std::string>& flags : {std::vector<std::string>{},
                                                {"--temp", "0"},
                                                {"--perspectives", "near"},
                                                {"--perspectives", "near,tau=0.9"}}) {
    const Output output = Run(Ask(With(flags, {"--device", "cuda", "--stats"})), Fibers());
    const nlohmann::json json = Json(output);
    EXPECT_EQ(Same(json), OnTheCpu(flags));
    EXPECT_EQ(json["device"]["name"], "fibers");
    EXPECT_EQ(json["device"]["experts"], "resident");
    EXPECT_GT(json["device"]["passes"], 11);
    EXPECT_EQ(json["device"]["fallbacks"], 0);
    EXPECT_EQ(json["device"]["lost"], false);
    EXPECT_GT(json["device"]["memory_used_bytes"], 0);
    EXPECT_EQ(json["device"]["graphs"], 1);
    EXPECT_THAT(output.err, HasSubstr("fibers, experts resident"));
  }
  EXPECT_FALSE(Json(Run(Ask())).contains("device"));
}

TEST_F(DeviceTest, StreamsExpertsThatDoNotFitAndLeavesToTheCpuWhatDoesNotFitAtAll) {
  const nlohmann::json whole = Json(Run(Ask({"--device", "auto"}), Fibers()))["device"];
  const auto used = whole["memory_used_bytes"].get<int64_t>();
  const Output streamed = Run(Ask({"--device", "cuda", "--vram", std::to_string(used)}), Fibers());
  const nlohmann::json json = Json(streamed);
  EXPECT_EQ(Same(json), OnTheCpu());
  EXPECT_EQ(json["device"]["experts"], "streamed");
  EXPECT_EQ(json["device"]["fallbacks"], 0);
  EXPECT_GT(json["device"]["bytes_streamed"], 0);
  EXPECT_EQ(json["device"]["memory_cap_bytes"], used);
  EXPECT_LE(json["device"]["memory_used_bytes"], used);
  EXPECT_EQ(streamed.err, "");

  const Output refused = Run(Ask({"--device", "cuda", "--vram", "100K"}), Fibers());
  EXPECT_EQ(Same(Json(refused)), OnTheCpu());
  EXPECT_FALSE(Json(refused).contains("device"));
  EXPECT_THAT(refused.err, AllOf(HasSubstr("the CPU computes, not device 0"),
                                 HasSubstr("of the cap of 102400 are in use")));
}

TEST_F(DeviceTest, SessionsWithoutRoomForTheirStatesAreTheCpus) {
  const nlohmann::json device = Json(Run(Ask({"--device", "cuda"}), Fibers()))["device"];
  // The least with which there is a device: then there is no room for a state.
  int64_t low = 100 << 10, high = device["memory_used_bytes"];
  while (low + 4096 < high) {
    const int64_t middle = (low + high) / 2;
    const nlohmann::json json =
        Json(Run(Ask({"--device", "cuda", "--vram", std::to_string(middle)}), Fibers()));
    (json.contains("device") ? high : low) = middle;
  }
  const Output output = Run(Ask({"--device", "cuda", "--vram", std::to_string(high)}), Fibers());
  const nlohmann::json json = Json(output);
  EXPECT_EQ(Same(json), OnTheCpu());
  EXPECT_GT(json["device"]["fallbacks"], 0);
  EXPECT_EQ(json["device"]["passes"], 0);
  EXPECT_THAT(output.err, AllOf(HasSubstr("a pass is computed by the CPU"), HasSubstr("a session's state")));
}

// Wherever it happens: in the prompt, in a graph, between tokens.
TEST_F(DeviceTest, ALostDeviceCostsNoTokenAndIsSaidOutLoud) {
  const nlohmann::json want = OnTheCpu();
  const nlohmann::json greedy = OnTheCpu({"--temp", "0"});
  for (const std::string launches : {"0", "20", "45", "100", "217", "400"}) {
    const Output output = Run(Ask({"--device", "cuda"}), Fibers({{"OMNI_FIBERS_LOST_AFTER", launches}}));
    const nlohmann::json json = Json(output);
    EXPECT_EQ(Same(json), want) << launches;
    EXPECT_EQ(json["device"]["lost"], true) << launches;
    EXPECT_GT(json["device"]["fallbacks"], 0) << launches;
    EXPECT_THAT(output.err, AllOf(HasSubstr("device fibers is given up, and the CPU goes on"),
                                  HasSubstr("unspecified launch failure")));
    EXPECT_EQ(Same(Json(Run(Ask({"--temp", "0", "--device", "cuda", "--vram",
                                 std::to_string(json["device"]["memory_cap_bytes"].get<int64_t>() / 2)}),
                            Fibers({{"OMNI_FIBERS_LOST_AFTER", launches}})))),
              greedy);
    EXPECT_EQ(Same(Json(Run(Ask({"--perspectives", "near,tau=0.9", "--device", "cuda"}),
                            Fibers({{"OMNI_FIBERS_LOST_AFTER", launches}})))),
              OnTheCpu({"--perspectives", "near,tau=0.9"}));
  }
}

TEST_F(DeviceTest, SaysWhyThereIsNoDevice) {
  ProcessOptions none;
  none.env = {{"OMNI_DEVICE_LIBRARY", *dir_ / "nowhere.so"}};
  ExpectOneLine(Run(Ask({"--device", "cuda"}), none), 1, "no libomni_cuda.so, which is what uses GPUs, at ");
  const Output automatic = Run(Ask({"--device", "auto"}), none);
  EXPECT_EQ(Same(Json(automatic)), OnTheCpu());
  EXPECT_EQ(automatic.err, "");
  none.env = {{"OMNI_DEVICE_LIBRARY", OMNI_PROGRAM}};
  ExpectOneLine(Run(Ask({"--device", "cuda"}), none), 1, "cannot be loaded");
  ExpectOneLine(Run(Ask({"--device", "cuda"}), Fibers({{"OMNI_FIBERS_DEVICES", "0"}})), 1,
                "this machine has 0 CUDA devices that can be used");
  const Output absent = Run(Ask({"--device", "auto"}), Fibers({{"OMNI_FIBERS_DEVICES", "0"}}));
  EXPECT_EQ(Same(Json(absent)), OnTheCpu());
  EXPECT_THAT(absent.err, HasSubstr("the CPU computes, not device 0"));
  ExpectOneLine(Run(Ask({"--device", "cuda:1"}), Fibers()), 1, "device 1: this machine has 1 CUDA devices");
  EXPECT_EQ(Json(Run(Ask({"--device", "cuda:1"}), Fibers({{"OMNI_FIBERS_DEVICES", "2"}})))["device"]["name"],
            "fibers");
  ExpectOneLine(Run(Ask({"--device", "gpu"})), 2,
                "'gpu' is no device; cpu, cuda, auto, cuda:N and auto:N are");
  ExpectOneLine(Run(Ask({"--vram", "4G"})), 2, "--vram does nothing here: the CPU computes");
  ExpectOneLine(Omni({"run", "The sea", "--device", "cuda", "--cluster", "127.0.0.1:1"}), 2,
                "--device does nothing beside --cluster");
}

TEST_F(DeviceTest, AChatKeepsItsStateWhereverItWasComputed) {
  const std::vector<std::string> chat = {"chat", "-m", Model(), "-n", "6", "--temp", "0"};
  ProcessOptions options;
  options.stdin_text = "Who is there?\nWhy?\nAnd then?\n/save " + (*dir_ / "cpu.chat") + "\n";
  const Output want = Omni(chat, options);
  ASSERT_EQ(want.exit_code, 0) << want.err;
  for (const char* launches : {"-1", "150"}) {
    ProcessOptions fibers = Fibers({{"OMNI_FIBERS_LOST_AFTER", launches}});
    fibers.stdin_text = "Who is there?\nWhy?\nAnd then?\n/save " + (*dir_ / "fibers.chat") + "\n";
    const Output got = Omni(With(chat, {"--device", "cuda"}), fibers);
    EXPECT_EQ(got.exit_code, 0) << got.err;
    EXPECT_EQ(got.out, want.out) << launches << got.err;
  }
}

// Sets a variable for the processes that are started while it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

class DeviceServers : public DeviceTest {
 protected:
  static void SetUpTestSuite() {
    DeviceTest::SetUpTestSuite();
    setenv("XDG_STATE_HOME", State().c_str(), 1);
    setenv("OMNI_DEVICE_LIBRARY", OMNI_FIBERS, 1);
  }
  static void TearDownTestSuite() {
    unsetenv("OMNI_DEVICE_LIBRARY");
    DeviceTest::TearDownTestSuite();
  }
  static std::unique_ptr<NodeProcess> Serve(const std::vector<std::string>& more) {
    static int number = 0;
    return std::make_unique<NodeProcess>(OMNI_PROGRAM,
                                         With({"-m", Model(), "--listen", "127.0.0.1:0", "-t", "1"}, more),
                                         *dir_ / ("device_serve" + std::to_string(number++)), -1, "serve");
  }
  static std::string Ask(int tokens) {
    return testing::Post("/v1/completions", R"({"model": "model", "prompt": "the sea", "temperature": 0, )"
                                            R"("max_tokens": )" +
                                                std::to_string(tokens) + "}");
  }
  static std::string TextOf(const std::optional<testing::RawAnswer>& answer) {
    EXPECT_TRUE(answer.has_value() && answer->status == 200);
    if (!answer.has_value()) return "";
    return nlohmann::json::parse(answer->body)["choices"][0]["text"];
  }
  static std::string Metrics(const std::string& address) {
    testing::RawClient client(address);
    client.Send(testing::Get("/metrics"));
    return client.Read().value_or(testing::RawAnswer()).body;
  }
  static std::string TextOfTheCpu(int tokens) {
    return Json(
        Run({"the sea", "-n", std::to_string(tokens), "--temp", "0", "--json", "--ignore-eos"}))["text"];
  }
};

TEST_F(DeviceServers, AServerAnswersManyAtOnceAndItsMetricsKnowTheDevice) {
  const auto serve = Serve({"--device", "cuda"});
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  std::vector<std::unique_ptr<testing::RawClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<testing::RawClient>(address));
    clients.back()->Send(Ask(5 + i));
  }
  for (int i = 0; i < 4; ++i)
    EXPECT_THAT(TextOfTheCpu(5 + i), StartsWith(TextOf(clients[static_cast<size_t>(i)]->Read())));
  EXPECT_THAT(Metrics(address),
              AllOf(HasSubstr("omni_device_info{name=\"fibers\",experts=\"resident\"} 1"),
                    HasSubstr("omni_device_lost 0"), HasSubstr("omni_device_passes_total{by=\"cpu\"} 0"),
                    HasSubstr("omni_device_graphs 1"), HasSubstr("omni_device_memory_used_bytes")));
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
}

// Beside a node of the CPU's, which coordinates; then with a device that is lost.
TEST_F(DeviceServers, ANodeComputesItsRegionsOnItsDevice) {
  for (const char* launches : {"-1", "40"}) {
    const auto leads = Serve({});
    const std::string grpc = leads->WaitForGrpcAddress();
    ASSERT_NE(grpc, "") << leads->Log();
    std::unique_ptr<NodeProcess> joins;
    {
      const Variable lost("OMNI_FIBERS_LOST_AFTER", launches);
      joins = Serve({"--join", grpc, "--device", "cuda", "--name", "second"});
    }
    const std::string other = joins->WaitForAddress();
    ASSERT_NE(other, "") << joins->Log();
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    const auto place = [&](int region) {
      return Omni({"cluster", "place", std::to_string(region), "second", "--cluster", grpc}).exit_code == 0;
    };
    while (!place(0)) ASSERT_LT(std::chrono::steady_clock::now(), until) << joins->Log();
    for (int region = 1; place(region);) ++region;
    const std::string want = TextOfTheCpu(12);
    const std::string done = launches == std::string("-1") ? "omni_device_expert_jobs_total{by=\"device\"} "
                                                           : "omni_device_expert_jobs_total{by=\"cpu\"} ";
    std::string metrics;
    do {
      ASSERT_LT(std::chrono::steady_clock::now(), until) << metrics << leads->Log() << joins->Log();
      testing::RawClient client(leads->WaitForAddress());
      client.Send(Ask(12));
      ASSERT_THAT(want, StartsWith(TextOf(client.Read())));
      metrics = Metrics(other);
    } while (metrics.find(done) == std::string::npos || metrics.find(done + "0") != std::string::npos);
    EXPECT_THAT(metrics,
                HasSubstr(launches == std::string("-1") ? "omni_device_lost 0" : "omni_device_lost 1"));
    EXPECT_THAT(metrics, HasSubstr("omni_device_info{name=\"fibers\",experts=\"outside\"} 1"));
    EXPECT_EQ(joins->Interrupt(), 0) << joins->Log();
    EXPECT_EQ(leads->Interrupt(), 0) << leads->Log();
  }
}

TEST_F(DeviceTest, DoctorAndPlanKnowTheDevice) {
  const std::string found = Omni({"doctor"}, Fibers()).out;
  EXPECT_THAT(found, AllOf(HasSubstr("0: fibers, compute capability 0.0, 4.00 GiB of 4.00 GiB free"),
                           HasSubstr("with --device cuda")));
  EXPECT_THAT(Omni({"doctor"}, Fibers({{"OMNI_FIBERS_DEVICES", "0"}})).out,
              HasSubstr("finds no device to use"));
  ProcessOptions none;
  none.env = {{"OMNI_DEVICE_LIBRARY", *dir_ / "nowhere.so"}};
  EXPECT_THAT(Omni({"doctor"}, none).out, HasSubstr("the CPU computes: no libomni_cuda.so"));

  const std::vector<std::string> plan = {"plan", "-m", Model(), "--ram", "1G", "--json"};
  nlohmann::json json = Json(Omni(With(plan, {"--device", "cuda"}), Fibers()));
  EXPECT_EQ(json["vram"]["device"], "fibers");
  EXPECT_EQ(json["vram"]["given_bytes"], int64_t{4} << 30);
  EXPECT_EQ(json["vram"]["experts"], "resident");
  json = Json(Omni(
      With(plan, {"--device", "cuda", "--vram", std::to_string(json["vram"]["expert_bytes"].get<int64_t>())}),
      Fibers()));
  EXPECT_EQ(json["vram"]["experts"], "streamed");
  EXPECT_EQ(json["vram"]["used"], true);
  ExpectOneLine(Omni(With(plan, {"--device", "cuda:3"}), Fibers()), 1,
                "device 3: this machine has 1 CUDA devices");
  ExpectOneLine(Omni(With(plan, {"--device", "cuda"}), none), 1, "no libomni_cuda.so");
  EXPECT_EQ(Json(Omni(With(plan, {"--device", "auto"}), none))["vram"]["used"], false);
}

TEST_F(DeviceTest, ABenchmarkOfStreamingSaysWhatTheDeviceTook) {
  const std::string path = *dir_ / "streamed";
  ASSERT_EQ(Omni({"synth", "--preset", "tiny", "--out", path}).exit_code, 0);
  const std::vector<std::string> bench = {"bench",    "stream",    "-m",          path,    "-n",    "2",
                                          "--warmup", "1",         "--prompts",   "1",     "--ram", "1G",
                                          "--cases",  "mixed,own", "--no-limits", "--json"};
  const nlohmann::json want = Json(Omni(bench)),
                       got = Json(Omni(With(bench, {"--device", "cuda"}), Fibers()));
  ASSERT_EQ(got["cases"].size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(got["cases"][i]["output_xxh3"], want["cases"][i]["output_xxh3"]);
    EXPECT_EQ(got["cases"][i]["device"]["name"], "fibers");
    EXPECT_EQ(got["cases"][i]["device"]["experts"], "streamed");
    EXPECT_GT(got["cases"][i]["device_bytes_per_token"], 0);
    EXPECT_FALSE(want["cases"][i].contains("device"));
  }
  std::vector<std::string> words = With(bench, {"--device", "cuda"});
  words.erase(std::find(words.begin(), words.end(), "--json"));
  const Output shown = Omni(words, Fibers());
  EXPECT_THAT(shown.out, HasSubstr("fibers")) << shown.err;
}

}  // namespace
}  // namespace omni
