// How fast a packed model decodes one session through the actors, and what the actors cost.
//
//     decode_bench MODEL_DIR [--json] [-n TOKENS] [-t THREADS]
//
// Decodes greedily after a short prompt, then the same tokens again by a plain loop over the same weights;
// the two must agree, and the plain loop is the rate without actors.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cluster/node.h"
#include "engine/decode/cpu_decoder.h"
#include "kernels/op.h"
#include "store/model/model.h"

namespace omni {
namespace {

// Repeated until the prefill has a few batches to measure.
constexpr int64_t kPromptTokens = 128;
constexpr char kPrompt[] =
    "It was a bright morning, and the whole village had come down to the harbour to see the ship. ";

double Seconds(std::chrono::nanoseconds t) { return std::chrono::duration<double>(t).count(); }

// Tokens a second of the plain loop, or 0 if its tokens are not `expected`.
double PlainRate(const Model& model, int threads, const std::vector<TokenId>& prompt,
                 const SamplerSettings& sampler, const std::vector<TokenId>& expected) {
  WorkerPool pool(threads);
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(model.weights().config);
  std::vector<BatchRow> rows;
  for (TokenId t : prompt) rows.push_back({&state, t, false});
  rows.back().want_logits = true;
  std::vector<TokenId> tokens = prompt;
  std::chrono::steady_clock::time_point start;
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto logits = RunBatch(decoder, model.weights().config, model.experts(), pool, rows);
    if (!logits.ok()) return 0;
    if (i == 0) start = std::chrono::steady_clock::now();
    const TokenId token = Sample(*logits, tokens, tokens.size(), sampler).token;
    if (token != expected[i]) return 0;
    tokens.push_back(token);
    rows.assign(1, {&state, token, true});
  }
  return static_cast<double>(expected.size() - 1) / Seconds(std::chrono::steady_clock::now() - start);
}

absl::StatusOr<std::unique_ptr<Node>> Open(const std::string& path, int threads) {
  NodeOptions options;
  options.model = path;
  options.swarm.threads = threads;
  return Node::Start(nullptr, options);
}

int Main(int argc, char** argv) {
  CLI::App app("Decoding speed of a packed model, and the cost of the actors", "decode_bench");
  std::string path;
  bool json = false;
  int64_t tokens = 512;
  int threads = 0;
  app.add_option("MODEL_DIR,-m,--model", path, "Packed model directory")->required();
  app.add_flag("--json", json, "Print exactly one JSON object");
  app.add_option("-n,--tokens", tokens, "Tokens to decode")->check(CLI::Range(2, 1 << 20));
  app.add_option("-t,--threads", threads, "Threads that compute; 0: one per core")
      ->check(CLI::Range(0, 1024));
  CLI11_PARSE(app, argc, argv);

  const absl::StatusOr<std::unique_ptr<Node>> node = Open(path, threads);
  if (!node.ok()) {
    std::fprintf(stderr, "decode_bench: %s\n", std::string(node.status().message()).c_str());
    return 1;
  }
  const Model& model = (*node)->model();
  GenerateRequest request;
  request.prompt.push_back(Tokenizer::kEndOfText);
  const std::vector<TokenId> sentence = model.tokenizer().Encode(kPrompt);
  while (static_cast<int64_t>(request.prompt.size()) < kPromptTokens) {
    request.prompt.insert(request.prompt.end(), sentence.begin(), sentence.end());
  }
  request.max_tokens = tokens;
  request.sampler.temperature = 0;
  request.stop_at_end_of_text = false;
  const absl::StatusOr<GenerateResult> result = (*node)->swarm().Generate(request, nullptr);
  const SwarmStats stats = (*node)->swarm().Stats();
  if (!result.ok()) {
    std::fprintf(stderr, "decode_bench: %s\n", std::string(result.status().message()).c_str());
    return 1;
  }
  const double plain = PlainRate(model, stats.threads, request.prompt, request.sampler, result->tokens);
  if (plain == 0) {
    std::fprintf(stderr, "decode_bench: %s: the plain loop does not give the swarm's tokens\n", path.c_str());
    return 1;
  }
  const nlohmann::json out = {
      {"tok_per_s", result->timings.DecodeRate()},
      {"prefill_tok_per_s", result->timings.PrefillRate()},
      {"actor_share", stats.decode.ActorShare()},
      {"hop_us", stats.decode.HopMicros()},
      {"threads", stats.threads},
      {"plain_tok_per_s", plain},
      {"prompt_tokens", result->timings.prompt_tokens},
      {"tokens", result->timings.generated_tokens},
      {"hops_per_token", static_cast<double>(stats.decode.hops) /
                             static_cast<double>(std::max<int64_t>(stats.decode.steps, 1))},
      {"isa", kernels::IsaName(kernels::ActiveOps().isa)}};
  if (json) {
    std::printf("%s\n", out.dump().c_str());
    return 0;
  }
  std::printf("decode   %8.1f tok/s  (%lld tokens; plain loop %.1f tok/s)\n", result->timings.DecodeRate(),
              static_cast<long long>(result->timings.generated_tokens), plain);
  std::printf("prefill  %8.1f tok/s  (%lld tokens)\n", result->timings.PrefillRate(),
              static_cast<long long>(result->timings.prompt_tokens));
  std::printf("actors   %8.2f %% of a token, %.2f us a hop, %.0f hops a token\n",
              100 * stats.decode.ActorShare(), stats.decode.HopMicros(), out["hops_per_token"].get<double>());
  std::printf("threads  %8d        %s\n", stats.threads, kernels::IsaName(kernels::ActiveOps().isa));
  return 0;
}

}  // namespace
}  // namespace omni

int main(int argc, char** argv) { return omni::Main(argc, argv); }
