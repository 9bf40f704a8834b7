#include "tests/testing/network.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni::testing {
namespace {

using Way = Network::Way;
using Wires = NetworkOptions::Wires;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::Le;

constexpr int kNodes = 3, kPort = 7;
constexpr int kPatience = 30'000;  // ms, until what must arrive has arrived

// A datagram socket in each node of a network.
class NetworkTest : public ::testing::TestWithParam<Wires> {
 protected:
  void SetUp() override {
    if (const std::string why = Network::WhyNot(); !why.empty()) GTEST_SKIP() << why;
    auto network = Network::Make({.nodes = kNodes, .wires = GetParam(), .seed = 7});
    ASSERT_TRUE(network.ok()) << network.status();
    network_ = *std::move(network);
    for (int node = 0; node < kNodes; ++node) sockets_.push_back(SocketIn(node));
    // Nobody has to be looked for any more.
    for (int from = 0; from < kNodes; ++from) {
      for (int to = 0; to < kNodes; ++to) {
        if (from != to) SendUntilReceived(from, to);
      }
    }
  }
  void TearDown() override {
    for (const int s : sockets_) close(s);
  }

  sockaddr_in AddressOf(int node) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(kPort);
    inet_pton(AF_INET, network_->AddressOf(node).c_str(), &address.sin_addr);
    return address;
  }
  int SocketIn(int node) const {
    int s = -1;
    std::thread([&] {  // a socket stays in the namespace where it was made
      EXPECT_TRUE(network_->Enter(node).ok());
      s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    })
        .join();
    const sockaddr_in address = AddressOf(node);
    EXPECT_EQ(bind(s, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    const int room = 1 << 24;
    setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    return s;
  }
  void Send(int from, int to, int number) const {
    const sockaddr_in address = AddressOf(to);
    // Where the wire is down the kernel may say so.
    sendto(sockets_[from], &number, sizeof number, 0, reinterpret_cast<const sockaddr*>(&address),
           sizeof address);
  }
  // The next number within so many milliseconds; -1: none.
  int Receive(int node, int ms) const {
    pollfd polled{sockets_[node], POLLIN, 0};
    int number = -1;
    if (poll(&polled, 1, ms) == 1 && recv(sockets_[node], &number, sizeof number, 0) < 0) return -1;
    return number;
  }
  // Sends one number until it arrives; what arrived before it.
  std::vector<int> SendUntilReceived(int from, int to) const {
    static int last = 1 << 20;
    const int mark = ++last;
    std::vector<int> before;
    for (int waited = 0; waited < kPatience; waited += 10) {
      Send(from, to, mark);
      for (int number; (number = Receive(to, 10)) >= 0;) {
        if (number == mark) return before;
        if (number < (1 << 20)) before.push_back(number);  // else of an earlier call
      }
    }
    ADD_FAILURE() << "nothing of node " << from << " arrives at node " << to;
    return before;
  }
  // Everything that nodes have sent until now has been dropped or is on its way: later frames, read after
  // them, have arrived.
  void AwaitWires() const { SendUntilReceived(2, 0); }

  std::unique_ptr<Network> network_;
  std::vector<int> sockets_;
};

INSTANTIATE_TEST_SUITE_P(Wires, NetworkTest, ::testing::Values(Wires::kBridge, Wires::kSwitch),
                         [](const auto& param) {
                           return param.param == Wires::kBridge ? "Bridge" : "Switch";
                         });

TEST_P(NetworkTest, NodesReachEachOtherAndNothingIsLost) {
  for (int i = 0; i < 100; ++i) Send(0, 1, i);
  EXPECT_EQ(SendUntilReceived(0, 1).size(), 100u);
  for (int i = 0; i < 100; ++i) Send(1, 0, i);
  EXPECT_EQ(SendUntilReceived(1, 0).size(), 100u);
}

TEST_P(NetworkTest, LosesTheShareThatItIsTold) {
  for (const Way way : {Way::kOut, Way::kIn}) {
    // What node 1 sends, then what it receives.
    const int from = way == Way::kOut ? 1 : 0, to = 1 - from;
    ASSERT_TRUE(network_->SetLoss(1, way, 0.2).ok());
    size_t arrived = 0, back = 0;
    for (int batch = 0; batch < 20; ++batch) {
      for (int i = 0; i < 100; ++i) Send(from, to, i);
      arrived += SendUntilReceived(from, to).size();
      for (int i = 0; i < 100; ++i) Send(to, from, i);
      back += SendUntilReceived(to, from).size();
    }
    EXPECT_THAT(arrived, AllOf(Ge(1500u), Le(1700u)));  // of 2000; the spread is 18
    EXPECT_EQ(back, 2000u);
    ASSERT_TRUE(network_->Heal().ok());
  }
}

TEST_P(NetworkTest, ACutOneWayLetsTheOtherThrough) {
  for (const Way way : {Way::kOut, Way::kIn}) {
    const int from = way == Way::kOut ? 1 : 0, to = 1 - from;
    ASSERT_TRUE(network_->SetLoss(1, way, 1).ok());
    for (int i = 0; i < 10; ++i) Send(from, to, i);
    AwaitWires();
    EXPECT_EQ(Receive(to, 0), -1);
    EXPECT_THAT(SendUntilReceived(to, from), ElementsAre());
    ASSERT_TRUE(network_->Heal().ok());
    EXPECT_THAT(SendUntilReceived(from, to), ElementsAre());
  }
}

TEST_P(NetworkTest, NothingPassesAWireThatIsDown) {
  ASSERT_TRUE(network_->SetUp(1, false).ok());
  Send(0, 1, 1);
  Send(1, 0, 1);
  AwaitWires();
  EXPECT_EQ(Receive(0, 0), -1);
  EXPECT_EQ(Receive(1, 0), -1);
  ASSERT_TRUE(network_->SetUp(1, true).ok());
  SendUntilReceived(0, 1);
  SendUntilReceived(1, 0);
}

TEST_P(NetworkTest, DelaysWhatASwitchPasses) {
  const auto delay = std::chrono::milliseconds(30), jitter = std::chrono::milliseconds(20);
  const absl::Status set = network_->SetDelay(1, Way::kIn, delay, jitter);
  if (GetParam() == Wires::kBridge) {
    EXPECT_EQ(set.code(), absl::StatusCode::kUnimplemented);
    return;
  }
  ASSERT_TRUE(set.ok()) << set;
  const auto start = std::chrono::steady_clock::now();
  std::vector<int> sent(50), received;
  for (int i = 0; i < 50; ++i) Send(0, 1, sent[static_cast<size_t>(i)] = i);
  for (int i = 0; i < 50; ++i) {
    received.push_back(Receive(1, kPatience));
    EXPECT_GE(std::chrono::steady_clock::now() - start, delay - jitter);
  }
  EXPECT_THAT(received, ::testing::UnorderedElementsAreArray(sent));
  EXPECT_NE(received, sent) << "none has overtaken another, though each takes another time";
}

}  // namespace
}  // namespace omni::testing
