// The page's files as the server gives them.
#include "cluster/http/web_files.h"

#include <regex>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

HttpAnswer Get(const std::string& path, const std::string& if_none_match = "") {
  HttpRequest request;
  request.method = "GET";
  request.path = path;
  if (!if_none_match.empty()) request.headers.emplace_back("if-none-match", if_none_match);
  return WebFile(request);
}

std::string Header(const HttpAnswer& answer, const std::string& name) {
  for (const auto& [key, value] : answer.headers) {
    if (key == name) return value;
  }
  return {};
}

TEST(WebFiles, HaveTheirTypesAndAPolicyThatLetsNothingElseIn) {
  for (const auto& [path, type] :
       {std::pair{"/", "text/html; charset=utf-8"}, std::pair{"/web/page.css", "text/css; charset=utf-8"},
        std::pair{"/web/page.js", "text/javascript; charset=utf-8"},
        std::pair{"/web/icon.svg", "image/svg+xml"}}) {
    ASSERT_TRUE(IsWebFile(path)) << path;
    const HttpAnswer answer = Get(path);
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.content_type, type);
    EXPECT_FALSE(answer.body.empty());
    EXPECT_THAT(Header(answer, "Content-Security-Policy"), HasSubstr("default-src 'none'"));
    EXPECT_THAT(Header(answer, "Content-Security-Policy"), Not(HasSubstr("unsafe")));
    EXPECT_EQ(Header(answer, "X-Content-Type-Options"), "nosniff");
  }
  for (const char* path :
       {"/web/", "/web/CMakeLists.txt", "/web/../page.js", "/page.js", "/web/page.js/", ""})
    EXPECT_FALSE(IsWebFile(path)) << path;
  EXPECT_EQ(Get("/web/none.js").status, 404);
}

TEST(WebFiles, AreNotSentTwice) {
  const HttpAnswer first = Get("/web/page.js");
  const std::string tag = Header(first, "ETag");
  ASSERT_EQ(tag.size(), 34u);
  EXPECT_EQ(Header(first, "Cache-Control"), "no-cache");
  for (const std::string& has : {tag, "W/" + tag, "\"other\", " + tag, std::string("*")}) {
    const HttpAnswer again = Get("/web/page.js", has);
    EXPECT_EQ(again.status, 304) << has;
    EXPECT_EQ(again.body, "");
    EXPECT_EQ(Header(again, "ETag"), tag);
  }
  for (const std::string& has : {std::string("\"other\""), tag.substr(1), Header(Get("/"), "ETag")})
    EXPECT_EQ(Get("/web/page.js", has).status, 200) << has;
}

TEST(WebFiles, NameNoneThatIsNotThereAndNothingElsewhere) {
  const std::regex named("(?:src|href)=\"([^\"]+)\"|from '\\./([^']+)'"), elsewhere("(https?:)?//[a-z]");
  std::set<std::string> found;
  for (size_t i = 0; i < kWebFileCount; ++i) {
    const std::string name = kWebFileBytes[i].name;
    const std::string text(reinterpret_cast<const char*>(kWebFileBytes[i].bytes), kWebFileBytes[i].size);
    for (auto at = std::sregex_iterator(text.begin(), text.end(), named); at != std::sregex_iterator();
         ++at) {
      const std::string path = (*at)[1].matched ? (*at)[1].str() : "/web/" + (*at)[2].str();
      if (path.starts_with("#") || path == "/metrics" || path == "/v1/status") continue;
      EXPECT_TRUE(IsWebFile(path)) << name << " names " << path;
      found.insert(path);
    }
    if (name == "icon.svg") continue;  // whose namespace looks like an address
    std::smatch match;
    EXPECT_FALSE(std::regex_search(text, match, elsewhere)) << name << ": " << match.str();
    EXPECT_THAT(text, Not(HasSubstr(" style=\""))) << name;
    EXPECT_THAT(text, Not(HasSubstr("<script>"))) << name;
  }
  EXPECT_EQ(found.size() + 1, kWebFileCount) << "a file that nothing names";  // but for the page itself
}

}  // namespace
}  // namespace omni
