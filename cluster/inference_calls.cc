// The calls of omni.inference.v1.Inference: what comes in is checked and handed on, what comes out is told.
// No thread waits for a client.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string_view>

#include <absl/strings/str_cat.h>

#include "cluster/confidence_proto.h"
#include "cluster/grpc_access.h"
#include "cluster/grpc_status.h"
#include "cluster/inference_impl.h"
#include "cluster/sampler_proto.h"
#include "engine/text/stop_limits.h"

namespace omni {
namespace {

constexpr size_t kMostPromptBytes = 8 << 20;
constexpr size_t kMostTextBytes = 1 << 20;    // of Tokenize and Detokenize
constexpr int kMostTokens = 1 << 18;          // of Detokenize
constexpr size_t kMostAnswerBytes = 3 << 20;  // of a whole answer: clients take 4 MiB by default
constexpr uint32_t kPage = 100, kMostPage = 1000;

// What stands before the ids of this caller's requests and sessions: nobody else's can begin so.
std::string OwnerOf(const Caller& caller) {
  if (caller.name.empty()) return "";
  constexpr char kDigits[] = "0123456789abcdef";
  std::string owner;
  for (const char c : caller.name) {
    owner += kDigits[static_cast<uint8_t>(c) >> 4];
    owner += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return owner + ".";
}

float LogOf(float probability) { return std::log(std::max(probability, FLT_MIN)); }

ErrorDetails Because(std::string reason) {
  return {.reason = std::move(reason), .metadata = {}, .retry = {}};
}

// Of a call that ends when its client goes; owns itself.
template <typename Reactor>
class AnswerReactor : public Reactor, public AnswerSink {
 public:
  AnswerReactor(InferenceService::Impl& impl, StreamPtr stream) : impl_(impl), stream_(std::move(stream)) {}
  void End(const grpc::Status& status) override { this->Finish(status); }
  void OnCancel() override {
    impl_.executor.Post([&impl = impl_, stream = stream_] {
      impl.Finish(stream, absl::CancelledError("the client has gone, or its deadline has passed"));
    });
  }
  void OnDone() override {
    impl_.executor.Post([&impl = impl_, stream = stream_, this] {
      stream->sink = nullptr;
      impl.Forget(stream);
      delete this;
    });
  }

 protected:
  InferenceService::Impl& impl_;
  const StreamPtr stream_;
};

class StreamReactor final : public AnswerReactor<grpc::ServerWriteReactor<pb::GenerateResponse>> {
 public:
  using AnswerReactor::AnswerReactor;
  void Write(const pb::GenerateResponse& response) override { StartWrite(&response); }

  void OnWriteDone(bool ok) override {
    impl_.executor.Post([&impl = impl_, stream = stream_, ok] { impl.OnWritten(stream, ok); });
  }
};

// A whole answer: what a stream would be sent is gathered.
class WholeReactor final : public AnswerReactor<grpc::ServerUnaryReactor> {
 public:
  WholeReactor(InferenceService::Impl& impl, StreamPtr stream, pb::Generation* answer)
      : AnswerReactor(impl, std::move(stream)), answer_(answer) {}

  void Write(const pb::GenerateResponse& response) override {
    if (response.has_begun()) *answer_->mutable_begun() = response.begun();
    if (response.has_token()) {
      *answer_->add_tokens() = response.token();
      answer_->mutable_text()->append(response.token().text());
      bytes_ += response.ByteSizeLong() + response.token().text().size();
    }
    if (response.has_finished()) {
      *answer_->mutable_finished() = response.finished();
      answer_->mutable_text()->append(response.finished().text());
    }
    impl_.executor.Post([&impl = impl_, stream = stream_, fits = bytes_ <= kMostAnswerBytes] {
      if (!fits) {
        impl.Finish(
            stream,
            absl::ResourceExhaustedError(absl::StrCat("the answer passes ", kMostAnswerBytes,
                                                      " bytes; ask for fewer tokens, or for a stream")),
            Because("ANSWER_TOO_LARGE"));
      }
      impl.OnWritten(stream, true);
    });
  }

 private:
  pb::Generation* const answer_;
  size_t bytes_ = 0;
};

// A call that is answered at once, or by the store. Owns itself.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(grpc::CallbackServerContext* context, const char* method, bool log) : log_(log) {
    call_.record.ids = NameRequest(*context);
    call_.method = method;
  }
  void set_caller(const Caller& caller) { call_.record.caller = caller.name; }
  // Once; then it may be gone.
  void End(const absl::Status& status, const ErrorDetails& details = {}) {
    if (log_) LogGrpcRequest(call_, status);
    Finish(ToDetailedGrpc(status, details));
  }
  void OnDone() override { delete this; }

 private:
  GrpcRequest call_;
  const bool log_;
};

class Calls final : public pb::Inference::CallbackService {
 public:
  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;

  explicit Calls(InferenceService::Impl& impl) : impl_(impl) {}

  grpc::ServerWriteReactor<pb::GenerateResponse>* GenerateStream(
      Context* context, const pb::GenerateRequest* request) override {
    const StreamPtr stream = MakeStream(context, "GenerateStream", *request);
    auto* reactor = new StreamReactor(impl_, stream);
    stream->sink = reactor;
    Start(stream, context);
    return reactor;
  }
  Unary* Generate(Context* context, const pb::GenerateRequest* request, pb::Generation* answer) override {
    const StreamPtr stream = MakeStream(context, "Generate", *request);
    auto* reactor = new WholeReactor(impl_, stream, answer);
    stream->sink = reactor;
    stream->whole = true;
    Start(stream, context);
    return reactor;
  }

  Unary* Tokenize(Context* context, const pb::TokenizeRequest* request,
                  pb::TokenizeResponse* response) override {
    return Now(context, "Tokenize", [&]() -> absl::Status {
      if (absl::Status s = impl_.CheckModel(request->model()); !s.ok()) return s;
      if (request->text().size() > kMostTextBytes) return TooLong("the text", kMostTextBytes);
      const Tokenizer& tokenizer = impl_.backend.tokenizer();
      for (TokenId token : tokenizer.Encode(request->text())) {
        response->add_tokens(token.value);
        response->add_texts(std::string(tokenizer.Bytes(token)));
      }
      return absl::OkStatus();
    });
  }
  Unary* Detokenize(Context* context, const pb::DetokenizeRequest* request,
                    pb::DetokenizeResponse* response) override {
    return Now(context, "Detokenize", [&]() -> absl::Status {
      if (absl::Status s = impl_.CheckModel(request->model()); !s.ok()) return s;
      if (request->tokens_size() > kMostTokens)
        return absl::InvalidArgumentError(absl::StrCat("more than ", kMostTokens, " tokens at a time"));
      const Tokenizer& tokenizer = impl_.backend.tokenizer();
      for (int32_t token : request->tokens()) {
        if (token < 0 || token >= tokenizer.vocab()) {
          return absl::InvalidArgumentError(
              absl::StrCat("token ", token, " is outside the vocabulary 0 to ", tokenizer.vocab() - 1));
        }
        const std::string_view bytes = tokenizer.Bytes(TokenId(token));
        response->mutable_text()->append(bytes);
      }
      return absl::OkStatus();
    });
  }

  Unary* ListModels(Context* context, const pb::ListModelsRequest*,
                    pb::ListModelsResponse* response) override {
    return Now(context, "ListModels", [&] {
      Describe(*response->add_models());
      return absl::OkStatus();
    });
  }
  Unary* GetModel(Context* context, const pb::GetModelRequest* request, pb::Model* model) override {
    return Now(context, "GetModel", [&]() -> absl::Status {
      if (absl::Status s = impl_.CheckModel(request->name()); !s.ok()) return s;
      Describe(*model);
      return absl::OkStatus();
    });
  }

  Unary* ListAdapters(Context* context, const pb::ListAdaptersRequest*,
                      pb::ListAdaptersResponse* response) override {
    return Owned(context, "ListAdapters", nullptr, "", [&](const std::string&, UnaryCall* call) {
      const absl::StatusOr<std::vector<OfferedAdapter>> list = impl_.backend.Adapters();
      if (!list.ok()) return call->End(list.status());
      for (const OfferedAdapter& one : *list) {
        pb::Adapter& adapter = *response->add_adapters();
        adapter.set_name(one.name);
        adapter.set_hash(one.hash);
        adapter.set_model_hash(one.model_hash);
        adapter.set_tokens(static_cast<uint64_t>(one.tokens));
        adapter.set_held_out_tokens(static_cast<uint64_t>(one.held_out_tokens));
        adapter.set_values(static_cast<uint64_t>(one.values));
        adapter.set_gain(one.gain);
      }
      call->End(absl::OkStatus());
    });
  }

  Unary* GetSession(Context* context, const pb::GetSessionRequest* request, pb::Session* session) override {
    return Owned(context, "GetSession", "id", request->id(), [&](const std::string& owner, UnaryCall* call) {
      impl_.saved.Find(owner + request->id(), [call, session, owner, tokens = request->with_tokens()](
                                                  const absl::StatusOr<SavedSession>& found) {
        if (!found.ok()) return End(call, found.status());
        *session = ToSession(*found, owner);
        if (!tokens) return End(call, absl::OkStatus());
        const absl::StatusOr<std::vector<TokenId>> ids = ReadTokens(*found);
        if (!ids.ok()) return End(call, ids.status());
        for (TokenId token : *ids) session->add_token_ids(token.value);
        End(call, absl::OkStatus());
      });
    });
  }
  Unary* ForkSession(Context* context, const pb::ForkSessionRequest* request, pb::Session* session) override {
    return Owned(context, "ForkSession", "id", request->id(), [&](const std::string& owner, UnaryCall* call) {
      if (absl::Status s = CheckName("to", request->to()); !s.ok()) return End(call, s);
      const std::string id = request->id(), to = owner + request->to();
      impl_.saved.Find(
          owner + id, [this, call, session, owner, id, to](const absl::StatusOr<SavedSession>& found) {
            if (!found.ok()) return End(call, found.status());
            pb::KeptSession about;
            if (!about.ParseFromString(found->about))
              return End(call, absl::DataLossError("what is kept of the session cannot be read"));
            about.set_forked_from(id);
            about.clear_request_id();
            const SavedSession fork{to, 0, about.SerializeAsString(), found->tokens};
            impl_.saved.Put(fork, 0,
                            [this, call, session, owner, fork, from = found->id,
                             revision = found->revision](const absl::StatusOr<uint64_t>& done) {
                              if (!done.ok()) return End(call, done.status());
                              impl_.states.Put(fork.id, *done, impl_.states.Find(from, revision));
                              *session = ToSession(fork, owner);
                              End(call, absl::OkStatus());
                            });
          });
    });
  }
  Unary* ListSessions(Context* context, const pb::ListSessionsRequest* request,
                      pb::ListSessionsResponse* response) override {
    return Owned(context, "ListSessions", nullptr, "", [&](const std::string& owner, UnaryCall* call) {
      const uint32_t most = request->page_size() == 0 ? kPage : std::min(request->page_size(), kMostPage);
      impl_.saved.List(owner, [call, response, owner, most, after = request->page_token()](
                                  const absl::StatusOr<std::vector<SavedSession>>& found) {
        if (!found.ok()) return End(call, found.status());
        for (const SavedSession& session : *found) {
          const std::string id = session.id.substr(owner.size());
          if (id <= after || id.find('.') != std::string::npos) continue;  // with a dot: another caller's
          if (static_cast<uint32_t>(response->sessions_size()) == most) {
            response->set_next_page_token(response->sessions().rbegin()->id());
            break;
          }
          *response->add_sessions() = ToSession(session, owner);
        }
        End(call, absl::OkStatus());
      });
    });
  }
  Unary* DeleteSession(Context* context, const pb::DeleteSessionRequest* request,
                       pb::DeleteSessionResponse*) override {
    return Owned(context, "DeleteSession", "id", request->id(),
                 [&](const std::string& owner, UnaryCall* call) {
                   const std::string id = owner + request->id();
                   impl_.saved.Delete(id, [this, call, id](const absl::Status& deleted) {
                     if (deleted.ok()) impl_.states.Forget(id);
                     End(call, deleted);
                   });
                 });
  }

 private:
  StreamPtr MakeStream(Context* context, const char* method, const pb::GenerateRequest& request) {
    auto stream = std::make_shared<Stream>();
    stream->context = context;
    stream->call.record.ids = NameRequest(*context);
    stream->call.method = method;
    stream->request = request;
    stream->request.DiscardUnknownFields();  // they would be kept with it
    return stream;
  }
  void Start(const StreamPtr& stream, Context* context) {
    const absl::StatusOr<Caller> caller = CallerOf(*context, impl_.options.access);
    if (caller.ok()) {
      stream->caller = stream->call.record.caller = caller->name;
      stream->owner = OwnerOf(*caller);
    }
    impl_.Ask(stream, caller.ok() ? Admit(*stream) : caller.status());
  }
  absl::Status Admit(Stream& stream) {
    const InferenceOptions& options = impl_.options;
    if (static_cast<int64_t>(std::min<uint64_t>(stream.request.max_tokens(), INT64_MAX)) >
        options.most_tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("max_tokens may be up to ", options.most_tokens, " here"));
    }
    if (options.limits == nullptr) return absl::OkStatus();
    absl::StatusOr<std::shared_ptr<CallerLimits::Permit>> permit = options.limits->Enter(stream.caller);
    if (permit.ok()) stream.permit = *std::move(permit);
    return permit.status();
  }

  static absl::Status TooLong(const char* what, size_t most) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is longer than ", most, " bytes"));
  }
  static absl::Status CheckName(const char* field, const std::string& id) {
    if (id.empty()) return absl::InvalidArgumentError(absl::StrCat(field, " is empty"));
    return CheckId(field, id);
  }
  static void End(UnaryCall* call, const absl::Status& status) {
    std::string reason = absl::IsNotFound(status)        ? "SESSION_NOT_FOUND"
                         : absl::IsAlreadyExists(status) ? "SESSION_EXISTS"
                                                         : "";
    call->End(status, Because(std::move(reason)));
  }

  template <typename F>
  Unary* Now(Context* context, const char* method, F&& deed) {
    auto* call = new UnaryCall(context, method, impl_.options.log_requests);
    if (const absl::StatusOr<Caller> caller = CallerOf(*context, impl_.options.access); caller.ok())
      call->set_caller(*caller);
    const absl::Status status = deed();
    call->End(status, Because(absl::IsNotFound(status) ? "MODEL_NOT_FOUND" : ""));
    return call;
  }
  // Of whoever leads; `deed` ends the call.
  template <typename F>
  Unary* Owned(Context* context, const char* method, const char* field, const std::string& id, F&& deed) {
    auto* call = new UnaryCall(context, method, impl_.options.log_requests);
    if (absl::Status s = impl_.backend.Serving(); !s.ok()) {
      if (const std::string other = impl_.backend.Elsewhere(); !other.empty())
        context->AddTrailingMetadata(kCoordinatorMetadata, other);
      call->End(s, NotLeading(impl_.backend));
      return call;
    }
    const absl::StatusOr<Caller> caller = CallerOf(*context, impl_.options.access);
    if (caller.ok()) call->set_caller(*caller);
    absl::Status status = caller.status();
    if (status.ok() && field != nullptr) status = CheckName(field, id);
    if (!status.ok()) {
      call->End(status);
    } else {
      deed(OwnerOf(*caller), call);
    }
    return call;
  }

  void Describe(pb::Model& model) {
    const ModelConfig& c = impl_.options.model;
    model.set_name(impl_.options.model_name);
    model.set_hash(impl_.backend.model_hash());
    model.set_preset(c.preset);
    model.set_context_tokens(static_cast<uint64_t>(impl_.backend.max_context()));
    model.set_vocabulary(static_cast<uint32_t>(c.vocab));
    model.set_layers(static_cast<uint32_t>(c.layers));
    uint32_t expert_layers = 0;
    for (int64_t layer = 0; layer < c.layers; ++layer) expert_layers += !c.IsAttention(layer);
    model.set_expert_layers(expert_layers);
    model.set_width(static_cast<uint32_t>(c.d));
    for (int64_t side : c.lattice) model.add_lattice(static_cast<uint32_t>(side));
    model.set_regions(static_cast<uint32_t>(c.num_regions()));
  }

  InferenceService::Impl& impl_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceCalls(InferenceService::Impl& impl) {
  return std::make_unique<Calls>(impl);
}

absl::Status CheckId(const char* field, const std::string& id) {
  constexpr size_t kMost = 64;
  const bool fits = id.size() <= kMost && std::all_of(id.begin(), id.end(), [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                             c == '-' || c == '_';
                    });
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " may have up to 64 characters of A-Z a-z 0-9 - _"));
}

absl::Status CheckGenerate(const pb::GenerateRequest& r) {
  for (const auto& [field, id] : {std::pair("request_id", &r.request_id()),
                                  std::pair("session", &r.session()), std::pair("save_as", &r.save_as())}) {
    if (absl::Status s = CheckId(field, *id); !s.ok()) return s;
  }
  if (r.tokens_size() > 0 && !r.prompt().empty())
    return absl::InvalidArgumentError("prompt and tokens are both given; leave one of them out");
  if (r.prompt().size() > kMostPromptBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt is longer than ", kMostPromptBytes, " bytes; save a session in parts"));
  }
  if (r.alternatives() > static_cast<uint32_t>(kMostAlternatives)) {
    return absl::InvalidArgumentError(
        absl::StrCat("alternatives is ", r.alternatives(), ", but may be ", kMostAlternatives, " at most"));
  }
  if (!r.perspectives().empty()) {
    if (absl::Status s = ParsePerspectives(r.perspectives()).status(); !s.ok()) return s;
  }
  if (r.safety().empty() && !r.safety_hash().empty())
    return absl::InvalidArgumentError("safety_hash is given without safety, the polytope's name");
  if (r.memory().empty() && !r.memory_version().empty())
    return absl::InvalidArgumentError("memory_version is given without memory, the scope's name");
  if (r.adapter().empty() && !r.adapter_hash().empty())
    return absl::InvalidArgumentError("adapter_hash is given without adapter, its name");
  const auto long_stop = [](const std::string& stop) { return stop.size() > kMostStopStringBytes; };
  if (r.stops_size() > static_cast<int>(kMostStopStrings) ||
      std::any_of(r.stops().begin(), r.stops().end(), long_stop)) {
    return absl::InvalidArgumentError(absl::StrCat("stops may be ", kMostStopStrings, " at most, of ",
                                                   kMostStopStringBytes, " bytes at most"));
  }
  return absl::OkStatus();
}

SafetyChoice ToSafety(const pb::GenerateRequest& r) { return {r.safety(), r.safety_hash()}; }
AdapterChoice ToAdapter(const pb::GenerateRequest& r) { return {r.adapter(), r.adapter_hash()}; }

MemoryChoice ToMemory(const pb::GenerateRequest& r) { return {r.memory(), r.memory_version()}; }

GenerateRequest ToRequest(const pb::GenerateRequest& r) {
  GenerateRequest request;
  if (r.max_tokens() > 0)
    request.max_tokens = static_cast<int64_t>(std::min<uint64_t>(r.max_tokens(), 1ull << 40));
  if (r.has_sampler()) request.sampler = SamplerOf(r.sampler());
  request.stops.assign(r.stops().begin(), r.stops().end());
  request.stop_at_end_of_text = !r.ignore_end_of_text();
  request.alternatives = static_cast<int32_t>(r.alternatives());
  request.routes = r.routes();
  // CheckGenerate has read them.
  if (!r.perspectives().empty()) request.perspectives = *ParsePerspectives(r.perspectives());
  request.safety = ToSafety(r);
  request.adapter = ToAdapter(r);
  request.context_memory = r.context_memory();
  request.memory = ToMemory(r);
  return request;
}

pb::Session ToSession(const SavedSession& saved, const std::string& owner) {
  pb::Session session;
  pb::KeptSession about;
  about.ParseFromString(saved.about);
  session.set_id(saved.id.substr(owner.size()));
  session.set_tokens(about.tokens());
  session.set_generated_tokens(about.generated_tokens());
  session.set_model_hash(about.model_hash());
  session.set_saved_unix_seconds(about.saved_unix_seconds());
  session.set_forked_from(about.forked_from());
  return session;
}

std::string TokenBytes(const std::vector<TokenId>& tokens) {
  pb::KeptTokens kept;
  for (TokenId token : tokens) kept.add_tokens(token.value);
  return kept.SerializeAsString();
}

absl::StatusOr<std::vector<TokenId>> ReadTokens(const SavedSession& session) {
  pb::KeptTokens kept;
  if (!kept.ParseFromString(session.tokens))
    return absl::DataLossError("the tokens of the saved session cannot be read");
  std::vector<TokenId> tokens;
  for (int32_t token : kept.tokens()) tokens.emplace_back(token);
  return tokens;
}

void TellToken(const DrawnToken& drawn, const Tokenizer& tokenizer, pb::Token& token) {
  token.set_id(drawn.token.value);
  if (drawn.probability.has_value()) {
    token.set_probability(*drawn.probability);
    token.set_log_probability(LogOf(*drawn.probability));
  }
  for (const Sampled& other : drawn.alternatives) {
    pb::Alternative& alternative = *token.add_alternatives();
    alternative.set_id(other.token.value);
    alternative.set_text(std::string(tokenizer.Bytes(other.token)));
    alternative.set_probability(other.probability);
    alternative.set_log_probability(LogOf(other.probability));
  }
  for (ExpertId expert : drawn.experts) token.add_experts(static_cast<uint32_t>(expert.value));
  if (drawn.confidence.has_value()) *token.mutable_confidence() = ToProto(*drawn.confidence);
  TellNotes(drawn.notes, token);
}

ErrorDetails NotLeading(InferenceBackend& backend) {
  ErrorDetails details = Because("NOT_LEADING");
  if (const std::string other = backend.Elsewhere(); !other.empty()) details.metadata["coordinator"] = other;
  return details;
}

}  // namespace omni
