// `omni serve` as a process: it starts, answers, and ends when it is told to.
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/cluster_client.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "tests/cli/omni_fixture.h"
#include "tests/cluster/http/raw_client.h"
#include "tests/testing/node_process.h"
#include "third_party/health.grpc.pb.h"

namespace omni::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class Serve : public OmniServerTest {
 protected:
  std::unique_ptr<NodeProcess> Start(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"-m", Model(), "--listen", "127.0.0.1:0", "-t", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    static int number = 0;
    return std::make_unique<NodeProcess>(OMNI_PROGRAM, arguments,
                                         *dir_ / ("serve" + std::to_string(number++)), -1, "serve");
  }
  // An address for gRPC that nobody has: a server has had it, on a host of loopback that is this test's.
  std::string FreeAddress() {
    const auto id = static_cast<unsigned>(getpid());
    const std::string host = "127." + std::to_string(64 + id / 65536 % 64) + "." +
                             std::to_string(id / 256 % 256) + "." + std::to_string(id % 256);
    const auto serve = Start({"--grpc", host + ":0"});
    const std::string address = serve->WaitForGrpcAddress();
    EXPECT_NE(address, "") << serve->Log();
    EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
    return address;
  }
};

TEST_F(Serve, AnswersWhatRunAnswersAndEndsWhenItIsTold) {
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  EXPECT_THAT(serve->Log(), HasSubstr("this is no chat model"));
  const json alone = Json(Run({"the sea", "-n", "9", "--temp", "0", "--json"}));
  RawClient client(address);
  client.Send(Post("/v1/completions",
                   R"({"model": "model", "prompt": "the sea", "max_tokens": 9, "temperature": 0})"));
  const auto answer = client.Read();
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->status, 200) << answer->body;
  const json body = json::parse(answer->body);
  EXPECT_EQ(body["choices"][0]["text"], alone["text"]);
  EXPECT_EQ(body["usage"]["completion_tokens"], alone["generated_tokens"]);
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
  EXPECT_EQ(client.ReadToEnd(), "");
}

TEST_F(Serve, RemembersForWhoeverAsksAnyOfItsNodes) {
  const std::string folder = *dir_ / "served-memory";
  auto leads = Start({"--memory", folder});
  const std::string grpc = leads->WaitForGrpcAddress();
  ASSERT_NE(grpc, "") << leads->Log();
  const auto joins = Start({"--join", grpc});
  const std::string other = joins->WaitForGrpcAddress();
  ASSERT_NE(other, "") << joins->Log();
  const auto memory = [&](std::vector<std::string> words, const std::string& at) {
    words.insert(words.begin(), "memory");
    words.insert(words.end(), {"--cluster", at, "--scope", "s"});
    return Omni(words);
  };
  std::string rows;
  for (int i = 0; i < 1500; ++i)
    rows += "key number " + std::to_string(i) + "\tvalue " + std::to_string(i) + "\n";
  const std::string file = *dir_ / "served.tsv";
  std::ofstream(file) << rows;
  EXPECT_THAT(memory({"import", file}, grpc).out, HasSubstr("1500 associations added"));
  EXPECT_EQ(memory({"add", "the captain's name", "Ahab"}, other).exit_code, 0);
  EXPECT_EQ(memory({"ask", "The Captain's NAME"}, other).out, "Ahab\n");
  EXPECT_EQ(memory({"ask", "key number 1499"}, grpc).out, "value 1499\n");
  // While it serves, the folder is its own.
  ExpectOneLine(Omni({"memory", "ask", "x", "--memory", folder}), 1, "served-memory");
  const json stats = Json(Omni({"memory", "stats", "--cluster", other, "--json"}));
  ASSERT_EQ(stats["scopes"].size(), 1u);
  EXPECT_EQ(stats["scopes"][0]["keys"], 1501);
  // The same by HTTP.
  const auto by_http = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "memory");
    words.insert(words.end(), {"--server", "http://" + leads->WaitForAddress()});
    return Omni(words);
  };
  EXPECT_EQ(by_http({"ask", "key number 7", "--scope", "s"}).out, "value 7\n");
  EXPECT_EQ(by_http({"add", "by http", "it came", "--scope", "h"}).exit_code, 0);
  EXPECT_EQ(by_http({"ask", "By HTTP", "--scope", "h"}).out, "it came\n");
  EXPECT_EQ(Json(by_http({"stats", "--json"}))["scopes"].size(), 2u);
  EXPECT_EQ(Json(by_http({"forget", "--all", "--scope", "h", "--json"}))["forgotten"], 1);
  ExpectOneLine(by_http({"ask", "by http", "--scope", "h"}), 1, "nothing is remembered");
  ExpectOneLine(by_http({"ask", "by http", "--scope", "no/scope"}), 1, "memory scope 'no/scope'");
  ExpectOneLine(by_http({"add", "not \xff utf-8", "x"}), 1, "no UTF-8");
  ExpectOneLine(by_http({"stats", "--cluster", grpc}), 2, "leave one out");
  const auto run = [&](const std::string& at) {
    return Json(
        Omni({"run", "the sea", "--cluster", at, "-n", "16", "--temp", "2", "--seed", "3", "--perspectives",
              "far,every=1,tau=0", "--memory-scope", "s", "--ignore-eos", "--json"}));
  };
  const json said = run(grpc);
  EXPECT_EQ(said["memory"]["version"], stats["scopes"][0]["version"]);
  EXPECT_EQ(said["memory"]["asked"], said["perspectives"]["uncertain"]);
  EXPECT_EQ(run(other)["tokens"], said["tokens"]);
  // A chat by the cluster has it too, and tells what run tells.
  ProcessOptions typed;
  typed.stdin_text = "the sea\n";
  const std::vector<std::string> flags = {"--cluster",
                                          grpc,
                                          "-n",
                                          "16",
                                          "--temp",
                                          "2",
                                          "--seed",
                                          "3",
                                          "--perspectives",
                                          "far,every=1,tau=0",
                                          "--memory-scope",
                                          "s",
                                          "--context-memory"};
  std::vector<std::string> alone = {"run", "User: the sea\nAssistant:", "--stop", "\nUser:"},
                           talked = {"chat", "--stats"};
  for (std::vector<std::string>* words : {&alone, &talked})
    words->insert(words->end(), flags.begin(), flags.end());
  const Output answer = Omni(alone), chat = Omni(talked, typed);
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_EQ(chat.out,
            answer.out.substr(std::min(answer.out.find_first_not_of(" \t\r\n"), answer.out.size())));
  for (const char* told : {" tokens from four sides", "memory s · asked for ", "memory of contexts · had"})
    EXPECT_THAT(chat.err, HasSubstr(told));
  EXPECT_EQ(memory({"forget", "the captain's name"}, other).exit_code, 0);
  ExpectOneLine(memory({"ask", "the captain's name"}, grpc), 1, "nothing is remembered");
  EXPECT_EQ(leads->Interrupt(), 0) << leads->Log();
  // And the command line finds what was remembered, once nobody serves it.
  EXPECT_EQ(Omni({"memory", "ask", "key number 7", "--memory", folder, "--scope", "s"}).out, "value 7\n");
}

TEST_F(Serve, FinishesWhatRunsBeforeItEnds) {
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  RawClient client(address);
  client.Send(Post("/v1/chat/completions",
                   R"({"messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "stream": true})"));
  ASSERT_TRUE(client.ReadUntil("\"content\""));
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
  EXPECT_THAT(client.ReadToEnd(), HasSubstr("data: [DONE]"));
}

TEST_F(Serve, CutsOffWhatTakesLongerThanItHas) {
  const auto serve = Start({"--drain", "1s"});
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  RawClient client(address);
  client.Send(Post("/v1/completions",
                   R"({"prompt": "x", "max_tokens": 900000, "ignore_eos": true, "stream": true})"));
  ASSERT_TRUE(client.ReadUntil("\"text\""));
  EXPECT_EQ(serve->Interrupt(), 0) << serve->Log();
  EXPECT_THAT(client.ReadToEnd(), Not(HasSubstr("[DONE]")));
  EXPECT_THAT(serve->Log(), HasSubstr("cut off"));
}

TEST_F(Serve, ATemplateOfTheModelIsUsed) {
  const std::string path = Model() + "/chat_template.json";
  std::ofstream(path) << R"({"system": "{content}", "user": "{content}", "assistant": "{content}"})"
                      << std::flush;
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  std::filesystem::remove(path);
  ASSERT_NE(address, "") << serve->Log();
  EXPECT_THAT(serve->Log(), Not(HasSubstr("no chat model")));
  RawClient client(address);
  client.Send(
      Post("/v1/chat/completions",
           R"({"messages": [{"role": "user", "content": "the sea"}], "max_tokens": 9, "temperature": 0})"));
  const auto answer = client.Read();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(json::parse(answer->body)["choices"][0]["message"]["content"],
            Json(Run({"the sea", "-n", "9", "--temp", "0", "--json"}))["text"]);
}

TEST_F(Serve, ATemplateThatCannotBeUsedIsFoundBeforeAnythingIsOpened) {
  const std::string path = Model() + "/chat_template.json", state = *dir_ / "of a bad template";
  std::ofstream(path) << R"({"user": "{content}"})" << std::flush;
  ExpectOneLine(Omni({"serve", "-m", Model(), "--listen", "127.0.0.1:0", "--state", state}), 1,
                path + ": the text lacks 'system'");
  std::filesystem::remove(path);
  EXPECT_FALSE(std::filesystem::exists(state));
}

TEST_F(Serve, WhatCannotBeServedIsSaid) {
  ExpectOneLine(Omni({"serve", "-m", Model(), "--listen", "0.0.0.0:0"}), 2, "is off loopback");
  ExpectOneLine(Omni({"serve", "-m", Model(), "--listen", "nonsense"}), 2,
                "--listen: 'nonsense' is no ADDRESS:PORT");
  const auto serve = Start();
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  const Output second = Omni({"serve", "-m", Model(), "--listen", address, "--grpc", "127.0.0.1:0"});
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.err, HasSubstr("cannot listen on " + address));
  // Without more words the second finds the first's state before its port.
  const std::string grpc = FreeAddress();
  const auto first = Start({"--grpc", grpc});
  ASSERT_NE(first->WaitForGrpcAddress(), "") << first->Log();
  ExpectOneLine(Omni({"serve", "-m", Model(), "--listen", "127.0.0.1:0", "--grpc", grpc}), 1,
                "is one running already at this address?");
}

TEST_F(Serve, ListensAtAHostAndAPortToo) {
  NodeProcess serve(OMNI_PROGRAM, {"-m", Model(), "--host", "127.0.0.2", "--port", "0", "-t", "1"},
                    *dir_ / "by-port", -1, "serve");
  EXPECT_THAT(serve.WaitForAddress(), ::testing::StartsWith("127.0.0.2:")) << serve.Log();
  EXPECT_THAT(serve.WaitForGrpcAddress(), ::testing::StartsWith("127.0.0.2:")) << serve.Log();
  const auto refused = [](std::vector<std::string> words, const std::string& why) {
    words.insert(words.begin(), {"serve", "-m", Model()});
    ExpectOneLine(Omni(words), 2, why);
  };
  refused({"--host", "0.0.0.0", "--port", "8443"}, "'0.0.0.0:8443' is off loopback");
  refused({"--host", "0.0.0.0"}, "'0.0.0.0:8080' is off loopback");
  refused({"--host", "::", "--port", "0"}, "'[::]:0' is off loopback");
  refused({"--port", "65536"}, "'65536' is no port");
  refused({"--port", "7", "--listen", "127.0.0.1:0"}, "--listen says address and port; leave --port out");
  refused({"--listen", "nonsense"}, "--listen: 'nonsense' is no");
  ProcessOptions service;
  service.env["OMNI_LISTEN"] = "[::]:70";
  ExpectOneLine(Omni({"serve", "-m", Model(), "--port", "71"}, service), 2, "'[::]:71' is off loopback");
  service.env["OMNI_PORT"] = "72";
  ExpectOneLine(Omni({"serve", "-m", Model()}, service), 2, "'[::]:72' is off loopback");
  ExpectOneLine(Omni({"serve", "-m", Model(), "--listen", "0.0.0.0:73"}, service), 2, "'0.0.0.0:73' is off");
  service.env["OMNI_PORT"] = "tcp://10.0.0.1:8080";
  ExpectOneLine(Omni({"serve", "-m", Model()}, service), 2, "enableServiceLinks");
}

TEST_F(Serve, AnswersOverGrpcTooAsItsOwnCluster) {
  // A folder of its own: a cluster knows the nodes that it had before, those of other tests too.
  const auto serve = Start({"--state", *dir_ / "own_cluster"});
  const std::string address = serve->WaitForGrpcAddress();
  ASSERT_NE(address, "") << serve->Log();
  const json alone = Json(Run({"the sea", "-n", "9", "--temp", "0", "--json"}));
  const json answer =
      Json(Omni({"run", "the sea", "-n", "9", "--temp", "0", "--json", "--cluster", address}));
  EXPECT_EQ(answer["tokens"], alone["tokens"]);
  const json status = Json(Omni({"cluster", "status", "--cluster", address, "--json"}));
  EXPECT_EQ(status["nodes"].size(), 1u);
}

TEST_F(Serve, SeveralOfOneModelDoNotDisturbEachOther) {
  const auto first = Start(), second = Start();
  for (const auto& serve : {first.get(), second.get()}) {
    const std::string address = serve->WaitForGrpcAddress();
    ASSERT_NE(address, "") << serve->Log();
    EXPECT_EQ(Json(Omni({"run", "x", "-n", "3", "--json", "--cluster", address}))["generated_tokens"], 3);
  }
}

std::string Completion(int tokens, bool stream) {
  return Post("/v1/completions", json({{"prompt", "the sea"},
                                       {"max_tokens", tokens},
                                       {"seed", 5},
                                       {"ignore_eos", true},
                                       {"stream", stream}})
                                     .dump());
}
std::string TextOf(const RawAnswer& answer) {
  EXPECT_EQ(answer.status, 200) << answer.body;
  const json body = json::parse(answer.body, nullptr, false);
  if (!body.is_object() || !body.contains("choices")) return answer.body;
  return body["choices"][0]["text"].get<std::string>();
}
std::string StreamedTextOf(const RawAnswer& answer) {
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_THAT(answer.body, HasSubstr("data: [DONE]"));
  std::string text;
  const std::string begin = "data: {";
  for (size_t at = answer.body.find(begin); at != std::string::npos; at = answer.body.find(begin, at + 1)) {
    const size_t from = at + begin.size() - 1;
    const json event = json::parse(answer.body.substr(from, answer.body.find('\n', from) - from));
    if (event.contains("choices") && !event["choices"].empty())
      text += event["choices"][0]["text"].get<std::string>();
  }
  return text;
}

TEST_F(Serve, WhoDoesNotLeadAnswersWithWhatTheOneThatLeadsSays) {
  const auto leads = Start();
  const std::string grpc = leads->WaitForGrpcAddress(), http = leads->WaitForAddress();
  ASSERT_NE(grpc, "") << leads->Log();
  const auto joins = Start({"--join", grpc});
  const std::string other = joins->WaitForAddress();
  ASSERT_NE(other, "") << joins->Log();
  RawClient there(http), here(other);
  there.Send(Completion(40, false));
  const std::string want = TextOf(there.Read().value_or(RawAnswer()));
  here.Send(Get("/ready"));
  EXPECT_EQ(here.Read().value_or(RawAnswer()).status, 200);
  here.Send(Completion(40, false));
  EXPECT_EQ(TextOf(here.Read().value_or(RawAnswer())), want);
  here.Send(Completion(40, true));
  EXPECT_EQ(StreamedTextOf(here.Read().value_or(RawAnswer())), want);
  // Of a client that goes away nothing more is computed where it is led.
  {
    RawClient gone(other);
    gone.Send(Completion(900'000, true));
    ASSERT_TRUE(gone.ReadUntil("\"text\""));
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  std::string metrics;
  while (metrics.find("omni_sessions_active 0") == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), until) << metrics;
    there.Send(Get("/metrics"));
    metrics = there.Read().value_or(RawAnswer()).body;
  }
  EXPECT_EQ(joins->Interrupt(), 0) << joins->Log();
}

TEST_F(Serve, WhatWasAskedElsewhereGoesOnWhenTheOneThatLeadsIsKilledAndStartedAgain) {
  const std::string grpc = FreeAddress();
  auto leads = Start({"--grpc", grpc});
  ASSERT_EQ(leads->WaitForGrpcAddress(), grpc) << leads->Log();
  const auto joins = Start({"--join", grpc});
  const std::string other = joins->WaitForAddress();
  ASSERT_NE(other, "") << joins->Log();
  RawClient client(other);
  client.Send(Completion(4000, false));
  const std::string want = TextOf(client.Read().value_or(RawAnswer()));
  client.Send(Completion(4000, true));
  ASSERT_TRUE(client.ReadUntil("\"text\""));
  leads->Kill();
  leads = Start({"--grpc", grpc});
  ASSERT_EQ(leads->WaitForGrpcAddress(), grpc) << leads->Log();
  EXPECT_EQ(StreamedTextOf(client.Read().value_or(RawAnswer())), want);
}

TEST_F(Serve, WhoCannotAskTheOneThatLeadsSaysWhoItIs) {
  const auto leads = Start();
  const std::string grpc = leads->WaitForGrpcAddress();
  ASSERT_NE(grpc, "") << leads->Log();
  // An empty folder fills itself with what serving regions takes, which a tokenizer is not.
  NodeProcess joins(OMNI_PROGRAM,
                    {"-m", *dir_ / "empty", "--listen", "127.0.0.1:0", "-t", "1", "--join", grpc},
                    *dir_ / "empty.log", -1, "serve");
  const std::string address = joins.WaitForAddress();
  ASSERT_NE(address, "") << joins.Log();
  for (const std::string& ask : {Get("/ready"), Completion(9, false)}) {
    RawClient client(address);
    client.Send(ask);
    const auto answer = client.Read();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->status, 503) << answer->body;
    EXPECT_THAT(answer->body, HasSubstr("ask " + grpc));
  }
}

int ThreadsOf(pid_t process) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task"))
    count += entry.is_directory();
  return count;
}

// docs/operations.md says what each thread is for.
TEST_F(Serve, StreamsThatWaitAddNoThread) {
  constexpr int kStreams = 200;
  // The libraries' own pools grow by a thread or two when the machine is busy.
  constexpr int kByLoad = 3;
  const auto serve = Start({"--parallel", "1", "--queue", std::to_string(kStreams)});
  const std::string address = serve->WaitForAddress();
  ASSERT_NE(address, "") << serve->Log();
  // Threads with nothing to do end after a while.
  const auto await_at_most = [&](int most) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (ThreadsOf(serve->pid()) > most && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return ThreadsOf(serve->pid());
  };
  std::vector<std::unique_ptr<RawClient>> clients;
  int one = 0;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<RawClient>(address));
    clients.back()->Send(Completion(900'000, true));
    if (i > 0) continue;
    ASSERT_TRUE(clients[0]->ReadUntil("text/event-stream"));
    one = ThreadsOf(serve->pid());
  }
  // One that waits is told so after a while, and is a stream from then on.
  for (const auto& client : clients) ASSERT_TRUE(client->ReadUntil("text/event-stream"));
  EXPECT_LE(await_at_most(one + kByLoad), one + kByLoad);
}

TEST_F(Serve, FlagsThatDoNothingBesideOthersAreRefused) {
  ExpectOneLine(Omni({"serve", "-m", Model(), "--ram", "1G", "--offer-ram", "1G"}), 2,
                "--ram does nothing beside --offer-ram");
  ExpectOneLine(Omni({"serve", "-m", Model(), "--ram", "1G", "--join", "127.0.0.1:1"}), 2,
                "--ram does nothing beside --join");
  ExpectOneLine(Omni({"serve", "-m", Model(), "--grpc", "nonsense"}), 2,
                "--grpc: 'nonsense' is no HOST:PORT");
}

// The state of a server is that of its address.
TEST_F(Serve, StartedAgainItKnowsTheAnswersThatItBegan) {
  const std::string grpc = FreeAddress();
  auto serve = Start({"--grpc", grpc});
  ASSERT_EQ(serve->WaitForGrpcAddress(), grpc) << serve->Log();
  auto client = ClusterClient::Make({.addresses = {grpc}});
  ASSERT_TRUE(client.ok());
  ClusterClient::Request request;
  request.id = "again";
  request.prompt = "the sea";
  request.max_tokens = 60;
  request.stop_at_end_of_text = false;
  const auto whole = (*client)->Generate(request, nullptr);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->tokens.size(), 60u);
  serve->Kill();
  serve = Start({"--grpc", grpc});
  request.prompt = "what is asked under a known name is not looked at";
  const auto again = (*client)->Generate(request, nullptr);
  ASSERT_TRUE(again.ok()) << again.status() << serve->Log();
  EXPECT_EQ(again->tokens, whole->tokens);
}

// A gRPC client of the server, which is asked again by others after it was killed.
class GrpcClient {
 public:
  explicit GrpcClient(const std::string& address)
      : channel_(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), OwnConnection())),
        stub_(inference::v1::Inference::NewStub(channel_)),
        health_(grpc::health::v1::Health::NewStub(channel_)) {}

  static inference::v1::GenerateRequest Request(uint64_t tokens) {
    inference::v1::GenerateRequest request;
    request.set_prompt("the sea");
    request.set_max_tokens(tokens);
    request.set_ignore_end_of_text(true);
    return request;
  }
  // The answer's tokens from the one after `had` on, `most` of them at most.
  grpc::Status Stream(const inference::v1::GenerateRequest& request, std::vector<int32_t>& had,
                      size_t most = SIZE_MAX) {
    grpc::ClientContext context;
    const auto reader = stub_->GenerateStream(&context, request);
    inference::v1::GenerateResponse message;
    while (had.size() < most && reader->Read(&message)) {
      if (!message.has_token()) continue;
      EXPECT_EQ(message.token().number(), had.size() + 1);
      had.push_back(message.token().id());
    }
    if (had.size() >= most) context.TryCancel();
    return reader->Finish();
  }
  inference::v1::Generation Whole(const inference::v1::GenerateRequest& request) {
    grpc::ClientContext context;
    inference::v1::Generation answer;
    const grpc::Status status = stub_->Generate(&context, request, &answer);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return answer;
  }
  grpc::health::v1::HealthCheckResponse::ServingStatus Health(const std::string& service) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status = health_->Check(&context, request, &response);
    EXPECT_TRUE(status.ok()) << service << ": " << status.error_message();
    return response.status();
  }
  inference::v1::Inference::Stub& stub() { return *stub_; }
  grpc::health::v1::Health::Stub& health() { return *health_; }

 private:
  // Not that of another client, whose server is gone.
  static grpc::ChannelArguments OwnConnection() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return arguments;
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<inference::v1::Inference::Stub> stub_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

TEST_F(Serve, KilledInMidStreamItGivesExactlyTheRestAndKeepsItsSessions) {
  const std::string grpc = FreeAddress();
  auto serve = Start({"--grpc", grpc});
  ASSERT_EQ(serve->WaitForGrpcAddress(), grpc) << serve->Log();
  auto request = GrpcClient::Request(4000);
  std::vector<int32_t> want, had;
  GrpcClient before(grpc);
  ASSERT_TRUE(before.Stream(request, want).ok());
  auto saved = GrpcClient::Request(10);
  saved.set_save_as("talk");
  const auto said = before.Whole(saved);
  request.set_request_id("answer");
  before.Stream(request, had, 20);
  serve->Kill();
  serve = Start({"--grpc", grpc});
  ASSERT_EQ(serve->WaitForGrpcAddress(), grpc) << serve->Log();
  GrpcClient after(grpc);
  inference::v1::GenerateRequest rest;
  rest.set_request_id("answer");
  rest.set_have(had.size());
  const grpc::Status status = after.Stream(rest, had);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(had, want);
  // What goes on from the session is what the whole text says.
  auto on = GrpcClient::Request(10);
  on.clear_prompt();
  on.set_session("talk");
  const auto went_on = after.Whole(on);
  on.clear_session();
  on.add_tokens(256);
  inference::v1::TokenizeRequest tokenize;
  tokenize.set_text("the sea");
  inference::v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(after.stub().Tokenize(&context, tokenize, &tokens).ok());
  for (int32_t token : tokens.tokens()) on.add_tokens(token);
  for (const auto& token : said.tokens()) on.add_tokens(token.id());
  const auto whole = after.Whole(on);
  ASSERT_EQ(whole.tokens_size(), went_on.tokens_size());
  for (int i = 0; i < whole.tokens_size(); ++i) EXPECT_EQ(whole.tokens(i).id(), went_on.tokens(i).id());
}

TEST_F(Serve, HealthSaysWhetherItLeadsAndThatItIsToEnd) {
  using Health = grpc::health::v1::HealthCheckResponse;
  const auto serve = Start();
  const std::string address = serve->WaitForGrpcAddress();
  ASSERT_NE(address, "") << serve->Log();
  GrpcClient client(address);
  for (const char* service : {"", "omni.inference.v1.Inference", "omni.cluster.v1.Admin",
                              "omni.cluster.v1.Regions", "omni.cluster.v1.Tiles"})
    EXPECT_EQ(client.Health(service), Health::SERVING) << service;
  const auto joins = Start({"--join", address});
  const std::string other = joins->WaitForGrpcAddress();
  ASSERT_NE(other, "") << joins->Log();
  GrpcClient worker(other);
  EXPECT_EQ(worker.Health("omni.inference.v1.Inference"), Health::NOT_SERVING);
  EXPECT_EQ(worker.Health("omni.cluster.v1.Regions"), Health::SERVING);
  EXPECT_EQ(joins->Interrupt(), 0) << joins->Log();

  grpc::ClientContext watching, streaming;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("omni.inference.v1.Inference");
  const auto watch = client.health().Watch(&watching, request);
  Health health;
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), Health::SERVING);
  const auto stream = client.stub().GenerateStream(&streaming, GrpcClient::Request(3000));
  inference::v1::GenerateResponse message;
  ASSERT_TRUE(stream->Read(&message));
  std::thread end([&] { EXPECT_EQ(serve->Interrupt(), 0) << serve->Log(); });
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), Health::NOT_SERVING);
  grpc::ClientContext context;
  inference::v1::Generation answer;
  const grpc::Status refused = client.stub().Generate(&context, GrpcClient::Request(3), &answer);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  bool finished = false;
  while (stream->Read(&message)) finished = message.has_finished();
  EXPECT_TRUE(finished) << "what runs is finished";
  EXPECT_TRUE(stream->Finish().ok());
  watching.TryCancel();
  end.join();
}

}  // namespace
}  // namespace omni::testing
