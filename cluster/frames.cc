#include "cluster/frames.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "omni/cluster/v1/regions.pb.h"

namespace omni {
namespace {

namespace pb = ::omni::cluster::v1;

// Frame's two fields, both of wire type 2.
constexpr uint32_t kHeaderTag = 1 << 3 | 2, kDataTag = 2 << 3 | 2;
constexpr int64_t kMaxRows = 1 << 16;  // of a request
// Two bytes of a header can become an object of hundreds.
constexpr size_t kMaxHeaderBytes = 1 << 20;

// --- Writing

size_t DataBytes(const Frame& frame) {
  size_t bytes = 0;
  if (const auto* compute = std::get_if<ComputeFrame>(&frame)) {
    for (const RegionRequestPtr& r : compute->requests) {
      bytes += static_cast<size_t>(r->rows * (r->width + static_cast<int64_t>(sizeof(float))));
    }
  } else if (const auto* answers = std::get_if<AnswersFrame>(&frame)) {
    for (const RegionReplyPtr& r : answers->replies) bytes += r->output.size() * sizeof(float);
  }
  return bytes;
}

void PutData(const Frame& frame, char* to) {
  if (const auto* compute = std::get_if<ComputeFrame>(&frame)) {
    for (const RegionRequestPtr& r : compute->requests) {
      const auto q = static_cast<size_t>(r->rows * r->width),
                 scale = static_cast<size_t>(r->rows) * sizeof(float);
      std::memcpy(to, r->q(), q);
      std::memcpy(to + q, r->scale(), scale);
      to += q + scale;
    }
  } else if (const auto* answers = std::get_if<AnswersFrame>(&frame)) {
    for (const RegionReplyPtr& r : answers->replies) {
      if (r->output.empty()) continue;
      std::memcpy(to, r->output.data(), r->output.size() * sizeof(float));
      to += r->output.size() * sizeof(float);
    }
  }
}

void Describe(const HelloFrame& f, pb::Header& header) {
  pb::Hello& h = *header.mutable_hello();
  h.set_protocol(f.protocols.oldest);
  if (f.protocols.newest != f.protocols.oldest) h.set_newest_protocol(f.protocols.newest);
  h.set_coordinator(f.coordinator.value);
  h.set_term(f.term);
  h.set_model_hash(f.model_hash);
  h.set_regions(f.regions);
  h.set_cluster(f.cluster);
  h.set_cluster_id(f.cluster_id);
}
void Describe(const WelcomeFrame& f, pb::Header& header) {
  pb::Welcome& w = *header.mutable_welcome();
  w.set_protocol(f.protocol);
  w.set_node(f.node.value);
  w.set_offered_bytes(f.offered_bytes);
  w.set_threads(f.threads);
  if (f.protocol > 1) w.set_program(f.program);
}
void Describe(const GoodbyeFrame& f, pb::Header& header) { header.mutable_goodbye()->set_reason(f.reason); }
void Describe(const ComputeFrame& f, pb::Header& header) {
  pb::Compute& c = *header.mutable_compute();
  c.set_layer(static_cast<uint32_t>(f.requests.front()->layer.value));
  c.set_width(static_cast<uint32_t>(f.requests.front()->width));
  for (const RegionRequestPtr& request : f.requests) {
    pb::RegionRows& r = *c.add_requests();
    r.set_id(request->id);
    r.set_region(static_cast<uint32_t>(request->region.value));
    r.set_epoch(request->epoch);
    r.set_attempt(static_cast<uint32_t>(request->attempt));
    for (const RegionRequest::Expert& e : request->experts) {
      r.add_experts(static_cast<uint32_t>(e.expert.value));
      r.add_rows(static_cast<uint32_t>(e.rows));
    }
  }
}
void Describe(const AnswersFrame& f, pb::Header& header) {
  pb::Answers& a = *header.mutable_answers();
  for (const RegionReplyPtr& reply : f.replies) {
    pb::RegionAnswer& r = *a.add_answers();
    r.set_id(reply->request_id);
    r.set_region(static_cast<uint32_t>(reply->region.value));
    r.set_epoch(reply->epoch);
    r.set_attempt(static_cast<uint32_t>(reply->attempt));
    r.set_values(reply->output.size());
    r.set_experts(static_cast<uint32_t>(reply->statuses.size()));
    r.set_compute_ns(static_cast<uint64_t>(reply->compute.count()));
    for (size_t i = 0; i < reply->statuses.size(); ++i) {
      if (reply->statuses[i].ok()) continue;
      pb::ExpertError& e = *r.add_errors();
      e.set_expert(static_cast<uint32_t>(i));
      e.set_code(static_cast<int32_t>(reply->statuses[i].code()));
      e.set_message(std::string(reply->statuses[i].message()));
    }
  }
}
void Describe(const PrefetchFrame& f, pb::Header& header) {
  pb::Prefetch& p = *header.mutable_prefetch();
  p.set_region(static_cast<uint32_t>(f.region.value));
  p.set_layer(static_cast<uint32_t>(f.layer.value));
  p.set_foresight(f.foresight == Foresight::kGuess         ? pb::Prefetch::GUESS
                  : f.foresight == Foresight::kRegionKnown ? pb::Prefetch::REGION_KNOWN
                                                           : pb::Prefetch::KNOWN);
  for (ExpertId e : f.experts) p.add_experts(static_cast<uint32_t>(e.value));
}
void Describe(const AssignFrame& f, pb::Header& header) {
  pb::Assign& a = *header.mutable_assign();
  a.set_revision(f.revision);
  for (const AssignFrame::Region& region : f.regions) {
    pb::Assign::Region& r = *a.add_regions();
    r.set_region(static_cast<uint32_t>(region.region.value));
    r.set_epoch(region.epoch);
    r.set_role(region.role == HoldingRole::kOwner    ? pb::Assign::Region::OWNER
               : region.role == HoldingRole::kShadow ? pb::Assign::Region::SHADOW
                                                     : pb::Assign::Region::TARGET);
  }
  for (const std::string& source : f.sources) a.add_sources(source);
}
void Describe(const HoldingsFrame& f, pb::Header& header) {
  pb::Holdings& h = *header.mutable_holdings();
  h.set_revision(f.revision);
  for (RegionId r : f.regions) h.add_regions(static_cast<uint32_t>(r.value));
  h.set_filling(f.filling);
  h.set_missing_bytes(f.missing_bytes);
  h.set_fetched_bytes(f.fetched_bytes);
  h.set_error(f.error);
}
void Describe(const RefusedFrame& f, pb::Header& header) {
  pb::Refused& r = *header.mutable_refused();
  r.set_id(f.id);
  r.set_region(static_cast<uint32_t>(f.region.value));
  r.set_epoch(f.epoch);
  r.set_reason(f.reason);
}
void Describe(const CancelFrame& f, pb::Header& header) {
  pb::Cancel& c = *header.mutable_cancel();  // though there be no id
  for (uint64_t id : f.ids) c.add_ids(id);
}
void Describe(const PingFrame& f, pb::Header& header) { header.mutable_ping()->set_number(f.number); }
void Describe(const PongFrame& f, pb::Header& header) {
  header.mutable_pong()->set_number(f.number);
  header.mutable_pong()->set_free_bytes(f.free_bytes);
}

// --- Reading

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("a frame that does not fit the model: ", std::string(what)));
}

// Which fields of a message are messages, and what is in those; ends with a number 0.
struct Nested {
  uint32_t number;
  const Nested* inside;
};
constexpr Nested kNothing[] = {{0, nullptr}};
constexpr Nested kInCompute[] = {{pb::Compute::kRequestsFieldNumber, kNothing}, {0, nullptr}};
constexpr Nested kInAnswer[] = {{pb::RegionAnswer::kErrorsFieldNumber, kNothing}, {0, nullptr}};
constexpr Nested kInAnswers[] = {{pb::Answers::kAnswersFieldNumber, kInAnswer}, {0, nullptr}};
constexpr Nested kInAssign[] = {{pb::Assign::kRegionsFieldNumber, kNothing}, {0, nullptr}};
constexpr Nested kInHeader[] = {{pb::Header::kHelloFieldNumber, kNothing},
                                {pb::Header::kComputeFieldNumber, kInCompute},
                                {pb::Header::kPrefetchFieldNumber, kNothing},
                                {pb::Header::kAssignFieldNumber, kInAssign},
                                {pb::Header::kPingFieldNumber, kNothing},
                                {pb::Header::kCancelFieldNumber, kNothing},
                                {pb::Header::kWelcomeFieldNumber, kNothing},
                                {pb::Header::kAnswersFieldNumber, kInAnswers},
                                {pb::Header::kHoldingsFieldNumber, kNothing},
                                {pb::Header::kPongFieldNumber, kNothing},
                                {pb::Header::kRefusedFieldNumber, kNothing},
                                {pb::Header::kGoodbyeFieldNumber, kNothing},
                                {0, nullptr}};

// Whether every length lies within what it is in. Protobuf sees that only after it has reserved up to 50 MB.
bool LengthsFit(std::span<const uint8_t> bytes, const Nested* nested) {
  google::protobuf::io::CodedInputStream in(bytes.data(), static_cast<int>(bytes.size()));
  while (const uint32_t tag = in.ReadTag()) {
    uint64_t number = 0;
    uint32_t length = tag % 8 == 1 ? 8 : 4;
    if (tag % 8 == 0) {
      if (!in.ReadVarint64(&number)) return false;
      continue;
    }
    if (tag % 8 == 2) {
      if (!in.ReadVarint32(&length)) return false;
    } else if (tag % 8 != 1 && tag % 8 != 5) {
      return false;
    }
    const auto at = static_cast<size_t>(in.CurrentPosition());
    if (length > bytes.size() - at) return false;
    const Nested* field = nested;
    while (field->number != 0 && field->number != tag / 8) ++field;
    const bool fits =
        field->number == 0 || tag % 8 != 2 || LengthsFit(bytes.subspan(at, length), field->inside);
    if (!fits || !in.Skip(static_cast<int>(length))) return false;
  }
  return in.ConsumedEntireMessage();
}

absl::StatusOr<RegionId> ReadRegion(uint32_t region, const ModelConfig& config) {
  if (region >= static_cast<uint64_t>(config.num_regions())) return Bad(absl::StrCat("region ", region));
  return RegionId(static_cast<int32_t>(region));
}

absl::StatusOr<LayerId> ReadExpertLayer(uint32_t layer, const ModelConfig& config) {
  if (layer >= static_cast<uint64_t>(config.layers) || config.IsAttention(layer))
    return Bad(absl::StrCat("layer ", layer, " has no experts"));
  return LayerId(static_cast<int32_t>(layer));
}

absl::StatusOr<ExpertId> ReadExpert(uint32_t expert, RegionId region, const ModelConfig& config) {
  if (expert >= static_cast<uint64_t>(config.num_experts())) return Bad(absl::StrCat("expert ", expert));
  const ExpertId id(static_cast<int32_t>(expert));
  if (config.RegionOf(id) != region)
    return Bad(absl::StrCat("expert ", expert, " is not of region ", region.value));
  return id;
}

absl::Status ReadRows(const pb::RegionRows& rows, const ModelConfig& config, RegionRequest& request) {
  if (rows.experts_size() == 0 || rows.experts_size() != rows.rows_size())
    return Bad("a request's experts and rows do not go together");
  for (int i = 0; i < rows.experts_size(); ++i) {
    absl::StatusOr<ExpertId> expert = ReadExpert(rows.experts(i), request.region, config);
    if (!expert.ok()) return expert.status();
    if (i > 0 && *expert <= request.experts.back().expert) return Bad("a request's experts do not ascend");
    if (rows.rows(i) < 1 || rows.rows(i) > kMaxRows) return Bad("a request's number of rows");
    request.experts.push_back({*expert, static_cast<int32_t>(rows.rows(i))});
    request.rows += rows.rows(i);
  }
  return request.rows <= kMaxRows ? absl::OkStatus() : Bad("a request's number of rows");
}

absl::StatusOr<Frame> Read(const pb::Compute& compute, std::span<const uint8_t> data,
                           const ModelConfig& config) {
  const int64_t width = PadTo(config.d, 64);
  if (compute.width() != static_cast<uint64_t>(width))
    return Bad(absl::StrCat("rows of ", compute.width(), " bytes instead of ", width));
  absl::StatusOr<LayerId> layer = ReadExpertLayer(compute.layer(), config);
  if (!layer.ok()) return layer.status();
  if (compute.requests_size() == 0) return Bad("no request");
  ComputeFrame frame;
  for (const pb::RegionRows& rows : compute.requests()) {
    auto request = std::make_shared<RegionRequest>();
    absl::StatusOr<RegionId> region = ReadRegion(rows.region(), config);
    if (!region.ok()) return region.status();
    request->id = rows.id();
    request->region = *region;
    request->epoch = rows.epoch();
    request->attempt = static_cast<int>(std::min<uint32_t>(rows.attempt(), 1000));
    request->layer = *layer;
    request->width = width;
    if (absl::Status s = ReadRows(rows, config, *request); !s.ok()) return s;
    const auto q = static_cast<size_t>(request->rows * width);
    const size_t scale = static_cast<size_t>(request->rows) * sizeof(float);
    if (data.size() < q + scale) return Bad("less data than its requests have rows");
    std::memcpy(request->AllocateRows(), data.data(), q);
    std::memcpy(request->mutable_scale(), data.data() + q, scale);
    data = data.subspan(q + scale);
    frame.requests.push_back(std::move(request));
  }
  if (!data.empty()) return Bad("more data than its requests have rows");
  return frame;
}

absl::StatusOr<Frame> Read(const pb::Answers& answers, std::span<const uint8_t> data,
                           const ModelConfig& config) {
  if (answers.answers_size() == 0) return Bad("no answer");
  AnswersFrame frame;
  for (const pb::RegionAnswer& answer : answers.answers()) {
    auto reply = std::make_shared<RegionReply>();
    absl::StatusOr<RegionId> region = ReadRegion(answer.region(), config);
    if (!region.ok()) return region.status();
    reply->request_id = answer.id();
    reply->region = *region;
    reply->epoch = answer.epoch();
    reply->attempt = static_cast<int>(std::min<uint32_t>(answer.attempt(), 1000));
    if (answer.experts() > static_cast<uint64_t>(config.experts_per_region()))
      return Bad("an answer's experts");
    reply->statuses.resize(answer.experts());
    reply->compute = std::chrono::nanoseconds(static_cast<int64_t>(answer.compute_ns() & INT64_MAX));
    for (const pb::ExpertError& error : answer.errors()) {
      if (error.expert() >= answer.experts() || error.code() < 1 || error.code() > 16)
        return Bad("an answer's errors");
      reply->statuses[error.expert()] =
          absl::Status(static_cast<absl::StatusCode>(error.code()), error.message());
    }
    if (answer.values() > data.size() / sizeof(float) ||
        answer.values() % static_cast<uint64_t>(config.d) != 0)
      return Bad("less data than its answers have rows");
    reply->output.resize(answer.values());
    if (answer.values() > 0) std::memcpy(reply->output.data(), data.data(), answer.values() * sizeof(float));
    data = data.subspan(answer.values() * sizeof(float));
    frame.replies.push_back(std::move(reply));
  }
  if (!data.empty()) return Bad("more data than its answers have rows");
  return frame;
}

absl::StatusOr<Frame> Read(const pb::Prefetch& prefetch, const ModelConfig& config) {
  absl::StatusOr<RegionId> region = ReadRegion(prefetch.region(), config);
  if (!region.ok()) return region.status();
  absl::StatusOr<LayerId> layer = ReadExpertLayer(prefetch.layer(), config);
  if (!layer.ok()) return layer.status();
  PrefetchFrame frame{*region, *layer, {}, Foresight::kGuess};
  if (prefetch.foresight() == pb::Prefetch::KNOWN) frame.foresight = Foresight::kKnown;
  if (prefetch.foresight() == pb::Prefetch::REGION_KNOWN) frame.foresight = Foresight::kRegionKnown;
  for (uint32_t e : prefetch.experts()) {
    absl::StatusOr<ExpertId> expert = ReadExpert(e, *region, config);
    if (!expert.ok()) return expert.status();
    if (!frame.experts.empty() && *expert <= frame.experts.back()) return Bad("experts that do not ascend");
    frame.experts.push_back(*expert);
  }
  return frame;
}

absl::StatusOr<Frame> Read(const pb::Assign& assign, const ModelConfig& config) {
  AssignFrame frame;
  frame.revision = assign.revision();
  for (const pb::Assign::Region& r : assign.regions()) {
    absl::StatusOr<RegionId> region = ReadRegion(r.region(), config);
    if (!region.ok()) return region.status();
    if (!frame.regions.empty() && *region <= frame.regions.back().region) return Bad("regions do not ascend");
    frame.regions.push_back({*region, r.epoch(),
                             r.role() == pb::Assign::Region::OWNER    ? HoldingRole::kOwner
                             : r.role() == pb::Assign::Region::SHADOW ? HoldingRole::kShadow
                                                                      : HoldingRole::kTarget});
  }
  frame.sources.assign(assign.sources().begin(), assign.sources().end());
  return frame;
}

absl::StatusOr<Frame> Read(const pb::Holdings& holdings, const ModelConfig& config) {
  HoldingsFrame frame;
  frame.revision = holdings.revision();
  for (uint32_t r : holdings.regions()) {
    absl::StatusOr<RegionId> region = ReadRegion(r, config);
    if (!region.ok()) return region.status();
    if (!frame.regions.empty() && *region <= frame.regions.back()) return Bad("regions do not ascend");
    frame.regions.push_back(*region);
  }
  frame.filling = holdings.filling();
  frame.missing_bytes = holdings.missing_bytes();
  frame.fetched_bytes = holdings.fetched_bytes();
  frame.error = holdings.error();
  return frame;
}

absl::StatusOr<Frame> Read(const pb::Header& header, std::span<const uint8_t> data,
                           const ModelConfig& config) {
  switch (header.kind_case()) {
    case pb::Header::kCompute:
      return Read(header.compute(), data, config);
    case pb::Header::kAnswers:
      return Read(header.answers(), data, config);
    default:
      break;
  }
  if (!data.empty()) return Bad("data where none belongs");
  switch (header.kind_case()) {
    case pb::Header::kHello: {
      const pb::Hello& h = header.hello();
      return HelloFrame{ProtocolsSaid(h.protocol(), h.newest_protocol()),
                        {h.coordinator()},
                        h.term(),
                        h.model_hash(),
                        h.regions(),
                        h.cluster(),
                        h.cluster_id()};
    }
    case pb::Header::kWelcome: {
      const pb::Welcome& w = header.welcome();
      constexpr size_t kMostOfProgram = 50;
      return WelcomeFrame{
          w.protocol(), {w.node()}, w.offered_bytes(), w.threads(), w.program().substr(0, kMostOfProgram)};
    }
    case pb::Header::kGoodbye: {
      constexpr size_t kMostOfReason = 500;
      return GoodbyeFrame{header.goodbye().reason().substr(0, kMostOfReason)};
    }
    case pb::Header::kPrefetch:
      return Read(header.prefetch(), config);
    case pb::Header::kAssign:
      return Read(header.assign(), config);
    case pb::Header::kHoldings:
      return Read(header.holdings(), config);
    case pb::Header::kRefused: {
      const pb::Refused& r = header.refused();
      absl::StatusOr<RegionId> region = ReadRegion(r.region(), config);
      if (!region.ok()) return region.status();
      return RefusedFrame{r.id(), *region, r.epoch(), r.reason()};
    }
    case pb::Header::kCancel:
      return CancelFrame{{header.cancel().ids().begin(), header.cancel().ids().end()}};
    case pb::Header::kPing:
      return PingFrame{header.ping().number()};
    case pb::Header::kPong:
      return PongFrame{header.pong().number(), header.pong().free_bytes()};
    default:
      return Bad("a kind that is not known");
  }
}

}  // namespace

uint32_t ProtocolRange::HighestWith(const ProtocolRange& other) const {
  const uint32_t highest = std::min(newest, other.newest);
  return highest >= std::max(oldest, other.oldest) ? highest : 0;
}

std::string ToString(const ProtocolRange& protocols) {
  if (protocols.oldest == protocols.newest) return absl::StrCat(protocols.oldest);
  return absl::StrCat(protocols.oldest, " to ", protocols.newest);
}

ProtocolRange ProtocolsSaid(uint32_t oldest, uint32_t newest) { return {oldest, std::max(oldest, newest)}; }

FrameBytes FrameBytesOf(std::string bytes) {
  auto kept = std::make_shared<const std::string>(std::move(bytes));
  return {{reinterpret_cast<const uint8_t*>(kept->data()), kept->size()}, kept};
}

std::string EncodeFrame(const Frame& frame) {
  using google::protobuf::io::CodedOutputStream;
  pb::Header header;
  std::visit([&](const auto& f) { Describe(f, header); }, frame);
  const size_t header_bytes = header.ByteSizeLong(), data_bytes = DataBytes(frame);
  std::string out;
  size_t size = 1 + CodedOutputStream::VarintSize64(header_bytes) + header_bytes;
  if (data_bytes > 0) size += 1 + CodedOutputStream::VarintSize64(data_bytes) + data_bytes;
  out.resize(size);
  auto* to = reinterpret_cast<uint8_t*>(out.data());
  to = CodedOutputStream::WriteTagToArray(kHeaderTag, to);
  to = CodedOutputStream::WriteVarint64ToArray(header_bytes, to);
  to = header.SerializeWithCachedSizesToArray(to);
  if (data_bytes > 0) {
    to = CodedOutputStream::WriteTagToArray(kDataTag, to);
    to = CodedOutputStream::WriteVarint64ToArray(data_bytes, to);
    PutData(frame, reinterpret_cast<char*>(to));
  }
  return out;
}

absl::StatusOr<Frame> DecodeFrame(std::span<const uint8_t> bytes, const ModelConfig& config) {
  if (bytes.size() > static_cast<size_t>(kMaxFrameBytes)) return Bad("too many bytes");
  google::protobuf::io::CodedInputStream in(bytes.data(), static_cast<int>(bytes.size()));
  pb::Header header;
  std::span<const uint8_t> data;
  bool has_header = false;
  while (const uint32_t tag = in.ReadTag()) {
    uint32_t length = 0;
    if ((tag & 7) != 2 || !in.ReadVarint32(&length)) return Bad("fields that are no part of a frame");
    const auto at = static_cast<size_t>(in.CurrentPosition());
    if (length > bytes.size() - at) return Bad("it ends early");
    const std::span<const uint8_t> field = bytes.subspan(at, length);
    if (tag == kHeaderTag) {
      if (field.size() > kMaxHeaderBytes) return Bad(absl::StrCat("a header of ", field.size(), " bytes"));
      if (has_header || !LengthsFit(field, kInHeader) ||
          !header.ParseFromArray(field.data(), static_cast<int>(field.size())))
        return Bad("a header that is none");
      has_header = true;
    } else if (tag == kDataTag) {
      data = field;
    }
    if (!in.Skip(static_cast<int>(length))) return Bad("it ends early");
  }
  if (!in.ConsumedEntireMessage() || !has_header) return Bad("no header");
  return Read(header, data, config);
}

}  // namespace omni
