#include "cluster/loopback.h"

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(IsLoopback, IsOfThisMachineAloneAndNothingElse) {
  for (const char* address : {"127.0.0.1:80", "127.0.0.1", "127.255.3.4:1", "[::1]:80", "[::1]", "::1",
                              "localhost", "localhost:7000", "LocalHost:7000", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
  }
  for (const char* address : {"",
                              ":80",
                              "0.0.0.0:80",
                              "0.0.0.0",
                              "[::]:80",
                              "::",
                              "10.0.0.1:80",
                              "128.0.0.1:1",
                              "192.168.127.1",
                              "127.0.0.1.example:80",
                              "127.example",
                              "localhost.example:80",
                              "xlocalhost",
                              "node.example:80",
                              "127.1:80",
                              "127.0.0.1:80:90",
                              "[::1",
                              "[::1]80",
                              "[::1].example",
                              "[fe80::1]:80",
                              "[::ffff:10.0.0.1]:1",
                              "unix:/tmp/x"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

}  // namespace
}  // namespace omni
