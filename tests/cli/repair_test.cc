// omni verify --repair, from a node of this process.
#include <filesystem>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/certificates.h"
#include "cluster/node_credentials.h"
#include "tests/cli/omni_fixture.h"
#include "tests/cluster/tile_fixture.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::FileBytes;
using ::testing::HasSubstr;
using testing::Output;

class RepairTest : public testing::OmniTest {
 protected:
  void SetUp() override {
    copy_ = *dir_ / "copy";
    fs::remove_all(copy_);
    fs::copy(Model(), copy_, fs::copy_options::recursive);
    node_.emplace(Model());
  }
  void Flip(const std::string& name, size_t at) {
    std::string bytes = FileBytes(copy_ + "/" + name);
    bytes[at] ^= 1;
    testing::WriteBytes(copy_ + "/" + name, bytes);
  }
  std::string copy_;
  std::optional<testing::TileNode> node_;
};

TEST_F(RepairTest, PutsDamageRightAndThenVerifies) {
  Flip("packs/tiles-000.bin", 1000);
  Flip("shared.bin", 5000);
  EXPECT_EQ(Omni({"verify", "-m", copy_}).exit_code, 1);
  const Output output = Omni({"verify", "-m", copy_, "--repair", node_->address()});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("intact"));
  EXPECT_THAT(output.err, AllOf(HasSubstr(copy_ + "/shared.bin: repaired\n"),
                                HasSubstr(copy_ + ": 1 damaged tile repaired\n")));
  for (const std::string name : {"packs/tiles-000.bin", "shared.bin"})
    EXPECT_EQ(FileBytes(copy_ + "/" + name), FileBytes(Model() + "/" + name));

  Flip("packs/tiles-000.bin", 1000);
  const nlohmann::json json = Json(Omni({"verify", "-m", copy_, "--json", "--repair", node_->address()}));
  EXPECT_EQ(json.value("ok", false), true);
  EXPECT_EQ(json.at("repaired"), (nlohmann::json{{"files", nlohmann::json::array()}, {"tiles", 1}}));
}

TEST_F(RepairTest, FetchesFromANodeWithCertificatesIfItHasOneOfTheSameAuthority) {
  const std::vector<std::string> hosts = {"127.0.0.1"};
  for (const char* authority : {"authority", "others"}) {
    const std::string folder = *dir_ / authority;
    ASSERT_TRUE(MakeAuthority(folder).ok());
    ASSERT_TRUE(MakeNodeCertificate(folder, "n", hosts, folder + "-n").ok());
  }
  const auto credentials = NodeCredentials::Make(*dir_ / "authority-n", {"127.0.0.1:0"}, false);
  ASSERT_TRUE(credentials.ok()) << credentials.status();
  const testing::TileNode node(Model(), (*credentials)->server());
  Flip("packs/tiles-000.bin", 1000);
  const std::vector<std::string> repair = {"verify", "-m", copy_, "--repair", node.address()};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), repair.begin(), repair.end());
    return Omni(more);
  };
  EXPECT_EQ(with({}).exit_code, 1);
  EXPECT_EQ(with({"--certificates", *dir_ / "others-n"}).exit_code, 1);
  ExpectOneLine(with({"--certificates", *dir_ / "none"}), 1, "none");
  const Output output = with({"--certificates", *dir_ / "authority-n"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, HasSubstr("1 damaged tile repaired"));
}

TEST_F(RepairTest, OffLoopbackInTheClearOnlyIfToldSo) {
  // Nobody is there: the address is one for documentation.
  ExpectOneLine(Omni({"verify", "-m", copy_, "--repair", "192.0.2.1:7300"}), 1, "--allow-plain");
  ExpectOneLine(Omni({"verify", "-m", copy_, "--repair", "nowhere"}), 2, "no HOST:PORT");
  ExpectOneLine(Omni({"verify", "-m", copy_, "--allow-plain"}), 2, "does nothing without --repair");
  ExpectOneLine(Omni({"verify", "-m", copy_, "--certificates", "x"}), 2, "does nothing without --repair");
}

TEST_F(RepairTest, WithoutANodeThatAnswersSaysSo) {
  Flip("packs/tiles-000.bin", 1000);
  const std::string address = node_->address();
  node_->Stop();
  const Output output = Omni({"verify", "-m", copy_, "--repair", address});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err,
              AllOf(HasSubstr(copy_), HasSubstr(address), HasSubstr("1 of 1 tiles could not be fetched")));
}

TEST_F(RepairTest, APartOfAModelIsRepairedAndSaidToBeOne) {
  const std::string part = *dir_ / "part";
  FillOptions options;
  options.peers = {node_->address()};
  {
    const auto model = OpenOrBeginPartial(part, OpenModel(Model())->hash(), options);
    ASSERT_TRUE(model.ok()) << model.status();
    ASSERT_EQ(FillRegions(**model, testing::Regions({0}), options), absl::OkStatus());
  }
  ExpectOneLine(Omni({"verify", "-m", part}), 1, "holds a part of the model");
  ExpectOneLine(Omni({"run", "-m", part, "a"}), 1, "a part of the model");
  const Output output = Omni({"verify", "-m", part, "--repair", node_->address()});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr(part + ": a part of a model, intact: "));
  const nlohmann::json json = Json(Omni({"verify", "-m", part, "--repair", node_->address(), "--json"}));
  EXPECT_EQ(json.value("part", false), true);
}

}  // namespace
}  // namespace omni
