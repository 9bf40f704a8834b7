#include "cluster/http/http_routes.h"

#include <string>

#include <gtest/gtest.h>

namespace omni {
namespace {

class HttpRoutesTest : public ::testing::Test {
 protected:
  HttpRoutesTest() {
    const RoutePage page = [](const RoutedRequest&) { return HttpAnswer(); };
    routes_.Page("GET", "/things", page);
    routes_.Page("GET", "/things/*/parts", page);
    routes_.Page("GET", "/things/*", page);
    routes_.Page("DELETE", "/things/*", page);
    routes_.Work("/work", [](RoutedRequest, std::shared_ptr<HttpExchange>) { return nullptr; });
  }
  // "path argument" of what answers; "-" if nothing does.
  std::string Find(const char* method, const char* path) {
    const HttpRoutes::Found found = routes_.Find(method, path);
    return found.route == nullptr ? "-" : std::string(found.route->path) + " " + found.argument;
  }
  HttpRoutes routes_;
};

TEST_F(HttpRoutesTest, AStarStandsForASegmentOrForAllThatFollows) {
  EXPECT_EQ(Find("GET", "/things"), "/things ");
  EXPECT_EQ(Find("GET", "/things/a"), "/things/* a");
  EXPECT_EQ(Find("GET", "/things/a/b"), "/things/* a/b");
  EXPECT_EQ(Find("GET", "/things/a/parts"), "/things/*/parts a");
  EXPECT_EQ(Find("GET", "/things/a/b/parts"), "/things/* a/b/parts");
  EXPECT_EQ(Find("GET", "/things/"), "-");
  EXPECT_EQ(Find("GET", "/things//parts"), "/things/* /parts");
  EXPECT_EQ(Find("GET", "/thing"), "-");
  EXPECT_EQ(Find("GET", ""), "-");
}

TEST_F(HttpRoutesTest, WhatAPathTakesIsTold) {
  EXPECT_EQ(Find("HEAD", "/things"), "/things ");
  EXPECT_EQ(Find("DELETE", "/things/a"), "/things/* a");
  EXPECT_EQ(routes_.Find("POST", "/things/a").route, nullptr);
  EXPECT_EQ(routes_.Find("POST", "/things/a").allowed, "GET, HEAD, DELETE");
  EXPECT_EQ(routes_.Find("DELETE", "/things/a/parts").allowed, "GET, HEAD");
  EXPECT_EQ(routes_.Find("GET", "/work").allowed, "POST");
  EXPECT_EQ(routes_.Find("GET", "/other").path, nullptr);
}

TEST_F(HttpRoutesTest, AnArgumentIsDecoded) {
  EXPECT_EQ(Find("GET", "/things/a%2Fb%20c"), "/things/* a/b c");
  EXPECT_EQ(Find("GET", "/things/100%"), "/things/* 100%");
  EXPECT_EQ(Find("GET", "/things/%4"), "/things/* %4");
  EXPECT_EQ(Find("GET", "/things/%zz"), "/things/* %zz");
}

}  // namespace
}  // namespace omni
