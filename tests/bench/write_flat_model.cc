// usage: write_flat_model MODEL TEXT OUT: the packed model MODEL as one flat file, with the first 513 tokens
// of TEXT.
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "store/model/model.h"
#include "tests/bench/flat_model.h"

namespace {

std::string Bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: write_flat_model MODEL TEXT OUT\n");
    return 2;
  }
  const std::string path = argv[1];
  const absl::StatusOr<omni::Model> model = omni::OpenModel(path);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  std::vector<omni::TokenId> tokens = {omni::TokenId(256)};
  for (omni::TokenId token : model->tokenizer().Encode(Bytes(argv[2]))) {
    if (tokens.size() < 513) tokens.push_back(token);
  }
  const absl::Status status =
      omni::WriteFlatModel(argv[3], model->config(), Bytes(path + "/shared.bin"), model->experts(), tokens);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
