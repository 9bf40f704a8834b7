// Requests, answers, frames and streams for tests of a cluster's parts: nothing is sent anywhere.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cluster/frames.h"
#include "cluster/transport.h"
#include "engine/model/config.h"

namespace omni::testing {

// A request for as many of the region's first experts as `rows` has entries; its bytes follow from `id`.
inline std::shared_ptr<RegionRequest> MakeRequest(const ModelConfig& config, uint64_t id, RegionId region,
                                                  uint64_t epoch, const std::vector<int32_t>& rows = {1},
                                                  LayerId layer = LayerId(0)) {
  auto request = std::make_shared<RegionRequest>();
  request->id = id;
  request->region = region;
  request->epoch = epoch;
  request->layer = layer;
  request->width = PadTo(config.d, 64);
  for (size_t i = 0; i < rows.size(); ++i) {
    request->experts.push_back({config.ExpertOf(region, static_cast<int64_t>(i)), rows[i]});
    request->rows += rows[i];
  }
  int8_t* q = request->AllocateRows();
  for (int64_t i = 0; i < request->rows * request->width; ++i)
    q[i] = static_cast<int8_t>((id * 31 + static_cast<uint64_t>(i) * 7) % 255 - 127);
  for (int64_t i = 0; i < request->rows; ++i)
    request->mutable_scale()[i] = 0.25f * static_cast<float>(i + 1) + static_cast<float>(id);
  return request;
}

inline std::shared_ptr<RegionReply> MakeReply(const ModelConfig& config, const RegionRequest& request,
                                              float value) {
  auto reply = std::make_shared<RegionReply>();
  reply->request_id = request.id;
  reply->region = request.region;
  reply->epoch = request.epoch;
  reply->attempt = request.attempt;
  reply->statuses.resize(request.experts.size());
  reply->output.resize(static_cast<size_t>(request.rows * config.d));
  for (size_t i = 0; i < reply->output.size(); ++i) reply->output[i] = value + static_cast<float>(i) / 8;
  reply->compute = std::chrono::nanoseconds(1234);
  return reply;
}

inline FrameBytes Encoded(const Frame& frame) { return FrameBytesOf(EncodeFrame(frame)); }

inline absl::StatusOr<Frame> Decoded(const std::string& bytes, const ModelConfig& config) {
  return DecodeFrame({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, config);
}

// The frame, which must be of this kind.
template <typename F>
F Decoded(const std::string& bytes, const ModelConfig& config) {
  const absl::StatusOr<Frame> frame = Decoded(bytes, config);
  EXPECT_TRUE(frame.ok()) << frame.status();
  if (!frame.ok() || !std::holds_alternative<F>(*frame)) {
    ADD_FAILURE() << "a frame of another kind";
    return F();
  }
  return std::get<F>(*frame);
}

// Of the frames written, those of this kind, in order.
template <typename F>
std::vector<F> FramesOf(const std::vector<std::string>& written, const ModelConfig& config) {
  std::vector<F> frames;
  for (const std::string& bytes : written) {
    const absl::StatusOr<Frame> frame = Decoded(bytes, config);
    EXPECT_TRUE(frame.ok()) << frame.status();
    if (frame.ok() && std::holds_alternative<F>(*frame)) frames.push_back(std::get<F>(*frame));
  }
  return frames;
}

}  // namespace omni::testing
