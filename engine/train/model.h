// The trained model: parameters in the form the fast layers want, and the forward pass.
#pragma once

#include <torch/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>

#include "engine/model/config.h"
#include "engine/model/neuron_groups.h"
#include "engine/train/balance.h"
#include "engine/train/carry.h"
#include "engine/train/init_settings.h"
#include "engine/train/layers.h"
#include "engine/train/param.h"

namespace omni::train {

struct ForwardSettings {
  float dropout = 0;
  uint64_t dropout_key = 0;
  float balance = 0.01f, smoothness = 0;
  SoftTargets soft = {};
};

// The expert of every token, by expert layer.
using Routes = std::vector<std::vector<int32_t>>;

struct ForwardResult {
  torch::Tensor loss;  // mean nats over counted targets
  double balance = 0, smoothness = 0;
  Routes routes;
};

class TrainModel {
 public:
  TrainModel(const ModelConfig& config, const InitSettings& init);

  // Which parameters a call is about: groups of experts whose copies differ gather gradients over several
  // steps, the rest is updated at each.
  enum class Part { kAll, kAllButParted };

  const ModelConfig& config() const { return config_; }
  std::vector<Param*> params(Part part = Part::kAll);

  // Whether the copies of the experts' neurons of a kind differ. Until they do the first stands for all. At
  // the start they all do, but for base neurons, of which there is one copy.
  void SetParted(NeuronKind kind, bool parted);
  // Makes all copies like the first, moments as they are and weights with noise of that share (Divide): from
  // here on they differ.
  void PartGroup(NeuronKind kind, double noise, uint64_t key);

  // Where the config's route_from is address: gives each expert layer the member of every token, from a key
  // of the layer.
  void DealMembers(const std::function<std::vector<uint8_t>(uint64_t key)>& deal);
  // Where route_bias is on: a step of the biases, from what Forward chose.
  void Balance(const Routes& routes, const BalanceSettings& settings);
  // Takes note of the tokens that each copy of parted neurons was used by, from what Forward chose; and sets
  // the rates of the next update by what was noted since the last time (RatesByUse).
  void CountUse(const Routes& routes);
  void SetRatesByUse(double power);
  // Experts' own neurons, where parted: PullToRegions.
  void PullOwn(double share);
  // From here on routers learn from the usual output of what they did not choose, too (WithUntaken).
  void KeepMeanOutputs();
  // The moving means of loads and outputs that it keeps, by name.
  std::vector<std::pair<std::string, torch::Tensor*>> means();

  // Refreshes every coded weight from the float ones; call after loading and after each optimiser step.
  void Quantize(Part part = Part::kAll);
  // tokens, targets: int32 [B * T], row after row; T a multiple of 16. Fills gradients' graph if grad mode is
  // on.
  ForwardResult Forward(const torch::Tensor& tokens, const torch::Tensor& targets, int64_t batch,
                        Carry& carry, const ForwardSettings& settings);
  // What Forward takes for the likeliest next tokens, the likeliest first, without gradients: probabilities
  // float32 [B * T, count] and tokens int64.
  std::pair<torch::Tensor, torch::Tensor> MostLikely(const torch::Tensor& tokens, int64_t batch, Carry& carry,
                                                     int64_t count);
  // What Forward would choose, from zero state and without gradients.
  Routes RoutesOf(const torch::Tensor& tokens, int64_t batch, int64_t memory);
  // As Forward without targets or gradients, in the law's arithmetic (exact.h): the quantised head's logits
  // [B * T, V]. carry's memory must be W - 1. routes (may be null) receives the chosen experts, one vector
  // per expert layer; forced (may be null) replays them.
  torch::Tensor Logits(const torch::Tensor& tokens, int64_t batch, Carry& carry, Routes* routes,
                       const Routes* forced);
  // After backward on a loss: adds the embedding's input gradient and the straight-through scale factors.
  // Parted groups' gradients, summed over parted_steps calls of Forward, become their mean.
  void FinishGradients(Part part = Part::kAll, int64_t parted_steps = 1);
  void ZeroGradients(Part part = Part::kAll);

  // model.safetensors as engine/model/checkpoint.h says.
  absl::Status SaveWeights(const std::string& path) const;
  // start.safetensors: the weights of the shared start, rounded to float16, with the hash of the tokenizer
  // that they belong to; and a model that begins with them.
  absl::Status SaveStart(const std::string& path, const std::string& tokenizer_hash) const;
  absl::Status LoadStart(const std::string& path);
  absl::Status LoadWeights(const std::string& path);

 private:
  struct Group {
    NeuronGroup group;
    std::unique_ptr<Param> gate_up, down;
    std::vector<int64_t> used;  // tokens by copy since the last update
  };
  struct Layer {
    std::unique_ptr<Param> norm1, norm2, mix_in, bias, norm_readout, mix_out;
    std::unique_ptr<Param> gate_up, down;  // shared FFN
    std::unique_ptr<Param> route;
    std::vector<Group> groups;
    torch::Tensor positions;        // [E, 3]
    torch::Tensor bias_of_experts;  // [E] if route_bias is on
    torch::Tensor loads;            // [E or regions], of what is balanced; likewise
    torch::Tensor mean_outputs;     // [E or regions, d] if KeepMeanOutputs was called
    std::vector<uint8_t> members;   // [V] if route_from is address
    ExpertParams experts;
  };

  void Embed(const torch::Tensor& tokens);  // into embedded_
  torch::Tensor Trunk(const torch::Tensor& tokens, int64_t batch, Carry& carry,
                      const ForwardSettings& settings, ForwardResult* result);
  void Advance(Carry& carry, int64_t tokens) const;  // positions, memory, the state norm
  bool by_address() const { return config_.route_from == RouteFrom::kAddress; }
  // From the nearest experts to those that the tokens go to.
  void Address(const Layer& layer, const torch::Tensor& tokens, std::vector<int32_t>* route) const;
  // Every tensor of model.safetensors with the slice of the parameter it is.
  std::vector<std::pair<std::string, torch::Tensor>> NamedTensors() const;

  ModelConfig config_;
  std::unique_ptr<Param> embed_, norm_out_;
  std::vector<Layer> layers_;
  torch::Tensor embedded_,
      embedded_tokens_;  // the graph's leaf and its ids, between Forward and FinishGradients
};

}  // namespace omni::train
