#include "cluster/cluster_node.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>

#include "cluster/admin_service.h"
#include "cluster/begin_model.h"
#include "cluster/channel_credentials.h"
#include "cluster/cluster_client.h"
#include "cluster/cluster_log.h"
#include "cluster/cluster_node_status.h"
#include "cluster/executor.h"
#include "cluster/forwarding_backend.h"
#include "cluster/grpc_frames.h"
#include "cluster/grpc_limits.h"
#include "cluster/grpc_loop.h"
#include "cluster/grpc_reflection.h"
#include "cluster/grpc_status.h"
#include "cluster/health_answers.h"
#include "cluster/host.h"
#include "cluster/inference_service.h"
#include "cluster/joiner.h"
#include "cluster/memory_doors.h"
#include "cluster/model_calibration.h"
#include "cluster/model_name.h"
#include "cluster/node_credentials.h"
#include "cluster/node_device.h"
#include "cluster/node_memory.h"
#include "cluster/node_status.h"
#include "cluster/node_stores.h"
#include "cluster/state_holder.h"
#include "cluster/tasks/node_executors.h"
#include "cluster/tasks/node_tasks.h"
#include "cluster/tile_client.h"
#include "cluster/tile_service.h"
#include "cluster/warm_keeper.h"
#include "engine/base/random.h"
#include "engine/base/threads.h"
#include "store/file/files.h"
#include "store/format/model_files.h"
#include "store/partial/partial_model.h"
#include "store/plan/machine.h"

namespace omni {
struct ClusterNode::Impl : public CoordinatorRole::Swarm, public InferenceService::Backend {
  ~Impl() override {
    joiner = nullptr;
    StopServing();
    if (tasks != nullptr) tasks->CloseTools();
    forwarding = nullptr;
    if (tasks != nullptr) tasks->EndWatches(absl::UnavailableError("the node is shutting down"));
    if (server != nullptr) {
      if (inference != nullptr) inference->EndAll(absl::UnavailableError("the node is shutting down"));
      server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
    }
    if (frames != nullptr) frames->Stop();
    health.Detach();
    server = nullptr;
    // What is given back needs the tasks' records, and to write those whoever leads.
    if (tasks != nullptr) tasks->Drain();
    if (role != nullptr) role->Stop();
    tasks = nullptr;
    stores.coordination = nullptr;  // with it, the last of its answers to the role and to the session log
    inference = nullptr;
    restarter = nullptr;
    {
      std::unique_lock lock(swarm_mutex);
      swarm = nullptr;
    }
    role = nullptr;
  }

  absl::Status Start();
  absl::Status OpenTheModel();
  absl::Status TakeStateFolder();
  absl::Status OpenStores();
  void MakeInference();
  absl::Status OpenMemories();
  absl::Status OpenTasks();
  absl::Status StartServer();
  absl::Status StartSwarm();
  bool Turned() {
    const uint64_t turns = loop->turns();
    loop->Wake();
    return std::exchange(last_turns, turns) != turns;
  }
  void TellHealth() { health.Tell({leading, stopping, coordinates()}); }
  void StopServing() {
    stopping = true;
    TellHealth();
    if (tasks != nullptr) tasks->BeginDrain();
  }
  uint64_t Offered() const;
  JoinOffer Offer(const std::string& model_hash) const;

  // Coordinators ping: who is led has heard something since it was asked before. On the joiner's thread.
  bool IsLed() {
    const int64_t heard = host->counters().heard.Get();
    return std::exchange(last_heard, heard) != heard || leading;
  }
  bool coordinates() const { return options.join.empty() || !options.etcd.empty(); }

  // --- CoordinatorRole::Swarm, on the actors' thread
  void OnElected(uint64_t t) override {
    term = t;
    leading = true;
    tasks->OnElected(t);
    TellHealth();
    std::lock_guard lock(other_mutex);
    other = {};
    led.notify_all();
  }
  void OnDeposed(const absl::Status& reason) override {
    leading = false;
    TellHealth();
    status->OnDeposed();
    const absl::Status ended =
        absl::UnavailableError(absl::StrCat("the coordinator leads no more: ", reason.message()));
    inference->EndAll(ended);
    tasks->EndWatches(ended);
    tasks->OnDeposed();
    // What the swarm still computes is not logged, and so not shown; it is ended all the same.
    restarter->Post([this] {
      std::unique_lock lock(swarm_mutex);
      swarm = nullptr;
      if (absl::Status s = StartSwarm(); !s.ok()) LogDeposed(id, s);
    });
  }
  void OnOther(const LeaderRecord& leader) override {
    std::lock_guard lock(other_mutex);
    other = leader;
    led.notify_all();
  }
  std::vector<int64_t> RegionRequests() override { return Stats().region_requests; }
  SwarmStats Stats() {
    std::shared_lock lock(swarm_mutex, std::try_to_lock);
    SwarmStats stats = lock.owns_lock() && swarm != nullptr ? swarm->Stats() : SwarmStats();
    if (runner != nullptr) stats.runner = runner->Report();
    return stats;
  }
  void OnTick() override {
    inference->Tick();
    status->OnTick();
  }
  std::string Elsewhere() override {
    std::lock_guard lock(other_mutex);
    if (!other.address.empty()) return other.address;
    return options.join.empty() ? "" : options.join.front();
  }
  // Whom to ask for answers; who is joined by several addresses asks one after the other.
  std::string LeaderAddress(size_t turn) {
    if (leading) return address;
    {
      std::lock_guard lock(other_mutex);
      if (!other.address.empty()) return other.address;
    }
    return options.join.empty() ? "" : options.join[turn % options.join.size()];
  }

  // --- InferenceService::Backend
  absl::Status Serving() override {
    if (stopping) return absl::UnavailableError("the node is shutting down");
    return Leading();
  }
  absl::Status Leading() {
    if (leading) return absl::OkStatus();
    const std::string elsewhere = Elsewhere();
    return absl::UnavailableError(elsewhere.empty()
                                      ? "no coordinator has been elected yet"
                                      : absl::StrCat("this node does not coordinate; ask ", elsewhere));
  }
  absl::StatusOr<std::string> PolytopeHash(const SafetyChoice& choice) override {
    return polytopes->Hash(choice);
  }
  absl::StatusOr<HeldMemory> HoldMemory(const std::string& caller, const MemoryChoice& choice) override {
    return memories->memory()->Hold(caller, choice);
  }
  absl::StatusOr<std::string> AdapterHash(const AdapterChoice& choice) override {
    return adapters->Hash(choice);
  }
  absl::StatusOr<std::vector<OfferedAdapter>> Adapters() override { return adapters->List(); }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                        SubmitOptions with) override {
    std::shared_lock lock(swarm_mutex);
    if (swarm == nullptr) return absl::UnavailableError("the coordinator is starting");
    return swarm->Submit(std::move(request), std::move(with));
  }
  int64_t max_context() override { return options.swarm.max_context; }
  const Tokenizer& tokenizer() override { return model->shared() ? model->tokenizer() : own_tokenizer; }
  std::string model_hash() override { return model->hash(); }
  std::string node() override { return id; }

  ClusterNodeOptions options;
  std::string id, address;
  std::unique_ptr<grpc::ServerBuilder> server_builder;
  GrpcLoop* loop = nullptr;  // the actors'
  std::shared_ptr<ActorSystem> actors;
  std::shared_ptr<PartialModel> model_files;
  std::optional<Model> model;
  Tokenizer own_tokenizer;  // of a node that opens none with its model
  std::vector<int64_t> region_bytes;
  std::unique_ptr<NodeCredentials> credentials;
  std::unique_ptr<StateHolder> holder;
  NodeStores stores;  // of a coordinator
  std::unique_ptr<FrameTransport> transport;
  std::unique_ptr<WorkerPool> pool;
  std::unique_ptr<DeviceExpertRunner> runner;  // of the regions that are here; null: the pool computes them
  std::unique_ptr<RegionKeeper> keeper;
  std::unique_ptr<Host> host;
  std::unique_ptr<ClusterNodeStatus> status;
  std::unique_ptr<CoordinatorRole> role;
  std::shared_mutex swarm_mutex;
  std::optional<Calibration> calibration;
  std::unique_ptr<ModelPolytopes> polytopes;
  std::unique_ptr<MemoryDoors> memories;
  std::unique_ptr<ModelAdapters> adapters;
  std::unique_ptr<omni::Swarm> swarm;  // its links go before the role
  std::unique_ptr<InferenceService> inference;
  std::unique_ptr<grpc::Service> inference_calls, task_calls, memory_calls;
  std::unique_ptr<ForwardingBackend> forwarding;
  std::unique_ptr<NodeExecutors> executors;
  std::unique_ptr<NodeTasks> tasks;  // goes before its executors
  std::unique_ptr<AdminService> admin;
  std::unique_ptr<TileService> tiles;
  std::unique_ptr<ReflectionServices> reflection;
  std::unique_ptr<GrpcFrameService> frames;
  std::unique_ptr<grpc::Server> server;
  HealthAnswers health;
  int64_t last_heard = 0;
  uint64_t last_turns = 0;  // when it was asked; a loop that runs has had some
  std::unique_ptr<Joiner> joiner;
  std::unique_ptr<Executor> restarter = std::make_unique<Executor>();

  std::atomic<bool> leading{false}, stopping{false};
  std::atomic<uint64_t> term{0};
  std::mutex other_mutex;
  std::condition_variable led;
  LeaderRecord other;
  std::string known_address;  // as `address`, for whoever may ask before that is known
};

absl::Status ClusterNode::Impl::OpenTheModel() {
  if (absl::Status s = BeginModel(options.model, options.join, *credentials, Offer("")); !s.ok()) return s;
  absl::StatusOr<std::unique_ptr<PartialModel>> partial = PartialModel::Open(options.model);
  if (!partial.ok()) return partial.status();
  model_files = *std::move(partial);
  options.open.shared = coordinates();
  PlanSessions(model_files->files().manifest.config, options.swarm, options.open);
  absl::StatusOr<OpenOptions> open =
      options.fitted ? options.open
                     : FitToOffer(options.model, *model_files, options.offer_bytes, options.open);
  if (!open.ok()) return open.status();
  absl::StatusOr<Model> opened = OpenModel(options.model, *open);
  if (!opened.ok()) return opened.status();
  model.emplace(*std::move(opened));
  absl::StatusOr<std::unique_ptr<ModelPolytopes>> read =
      ModelPolytopes::Open({options.polytopes, options.model, model->hash(), model->config().d});
  if (!read.ok()) return read.status();
  polytopes = *std::move(read);
  adapters = std::make_unique<ModelAdapters>(model->config(), model->hash(), options.adapters);
  absl::StatusOr<std::vector<int64_t>> bytes = RegionBytes(options.model);
  if (!bytes.ok()) return bytes.status();
  region_bytes = *std::move(bytes);
  const std::vector<std::string> missing = model_files->MissingFiles();
  if (!model->shared() && std::find(missing.begin(), missing.end(), kTokenizerFile) == missing.end()) {
    absl::StatusOr<Tokenizer> tokenizer = ReadTokenizer(model_files->files(), nullptr);
    if (!tokenizer.ok()) return tokenizer.status();
    own_tokenizer = *std::move(tokenizer);
  }
  return absl::OkStatus();
}

// What of memory this process has for experts.
uint64_t ClusterNode::Impl::Offered() const {
  if (options.offer_bytes.has_value()) return static_cast<uint64_t>(*options.offer_bytes);
  if (model->cache() != nullptr) return static_cast<uint64_t>(model->cache()->bytes());
  uint64_t all = 0;
  for (int64_t bytes : region_bytes) all += static_cast<uint64_t>(bytes);
  return all;
}

JoinOffer ClusterNode::Impl::Offer(const std::string& model_hash) const {
  JoinOffer offer;
  offer.address = !address.empty() ? address : options.advertise.empty() ? options.listen : options.advertise;
  offer.node = !id.empty() ? id : offer.address;
  offer.model_hash = model_hash;
  return offer;
}

absl::Status ClusterNode::Impl::TakeStateFolder() {
  std::string folder = options.state_dir;
  if (options.state_folder != StateFolder::kItself) absl::StrAppend(&folder, "/", model->hash());
  absl::StatusOr<HeldFolder> held =
      options.state_folder == StateFolder::kFreeByModel ? TakeFreeFolder(folder) : TakeFolder(folder);
  if (!held.ok()) return held.status();
  options.state_dir = std::move(held->dir);
  holder = std::move(held->holder);
  return absl::OkStatus();
}

absl::Status ClusterNode::Impl::OpenStores() {
  if (!coordinates()) return absl::OkStatus();
  if (absl::Status s = TakeStateFolder(); !s.ok()) return s;
  const NodeStoreOptions with{options.state_dir, options.etcd, options.etcd_prefix, options.leader_lease,
                              options.durability};
  absl::StatusOr<NodeStores> opened = OpenNodeStores(with, [this] { return term.load(); });
  if (!opened.ok()) return opened.status();
  stores = *std::move(opened);
  return absl::OkStatus();
}

absl::Status ClusterNode::Impl::StartSwarm() {
  SwarmOptions with = options.swarm;
  if (!with.coordinator.state_bytes.has_value() && model->plan() != nullptr) {
    int64_t bytes = model->plan()->bytes_for_sessions();
    // What is offered is for experts alone; sessions have what else is free.
    if (options.offer_bytes.has_value()) bytes = std::max(bytes, Machine().DefaultBudget().value_or(bytes));
    with.coordinator.state_bytes = bytes;
  }
  calibration = CalibrationBeside(options.model, model->hash());
  with.coordinator.calibration = calibration.has_value() ? &*calibration : nullptr;
  with.polytopes = polytopes.get();
  with.memories = memories->memory();
  with.adapters = adapters.get();
  with.make_link = role->MakeLinks();
  with.runner = runner.get();
  absl::StatusOr<std::unique_ptr<omni::Swarm>> started =
      omni::Swarm::Start(*actors, model->weights(), model->experts(), model->tokenizer(), with);
  if (!started.ok()) return started.status();
  swarm = *std::move(started);
  return absl::OkStatus();
}

void ClusterNode::Impl::MakeInference() {
  InferenceOptions with;
  with.keep = options.keep_answers;
  with.access = options.access.get();
  with.limits = options.limits;
  with.log_requests = options.log_requests;
  with.most_tokens = options.most_tokens;
  with.model_name = options.model_name.empty() ? ModelName(options.model) : options.model_name;
  with.model = model->config();
  // Of a streamed model memory is planned to the last byte, and none of it is for this.
  constexpr int64_t kMostStates = int64_t{1} << 30, kShare = 16;
  if (model->cache() == nullptr)
    with.state_bytes = std::min(kMostStates, Machine().DefaultBudget().value_or(kMostStates) / kShare);
  inference = std::make_unique<InferenceService>(std::move(with), *this, *stores.log, *stores.saved);
}

absl::Status ClusterNode::Impl::OpenMemories() {
  MemoryServiceOptions with{options.access.get(), [this] { return Leading(); },
                            [this] { return Elsewhere(); }};
  const std::string folder =
      options.memory.empty() ? absl::StrCat(options.state_dir, "/memory") : options.memory;
  const int64_t budget = model->plan() != nullptr ? model->plan()->ram_bytes : INT64_MAX;
  absl::StatusOr<std::unique_ptr<MemoryDoors>> made =
      MemoryDoors::Make(std::move(with), coordinates() ? folder : "", budget);
  if (!made.ok()) return made.status();
  memories = *std::move(made);
  return absl::OkStatus();
}

absl::Status ClusterNode::Impl::OpenTasks() {
  NodeTasksOptions keep;
  keep.service.access = options.access.get();
  // What is known of tasks can be asked for until the end.
  keep.service.serving = [this] { return Leading(); };
  keep.service.elsewhere = [this] { return Elsewhere(); };
  if (coordinates()) keep.dir = absl::StrCat(options.state_dir, "/tasks");
  if (coordinates() && !options.etcd.empty()) keep.store = stores.coordination.get();
  keep.credentials = credentials->channel();
  keep.keeper = [this](size_t turn) { return leading ? "" : LeaderAddress(turn); };
  keep.push = options.push;
  keep.grpc_address = [this] { return address; };
  absl::StatusOr<std::unique_ptr<NodeTasks>> opened = NodeTasks::Open(std::move(keep));
  if (!opened.ok()) return opened.status();
  tasks = *std::move(opened);
  if (!coordinates() && options.executors.empty()) return absl::OkStatus();
  std::string folder = options.state_dir;
  if (!coordinates()) {
    // Of several on one machine each has its own: what an earlier one has left running is ended.
    absl::StatusOr<HeldFolder> held = TakeFreeFolder(absl::StrCat(folder, "/joined"));
    if (!held.ok()) return held.status();
    folder = std::move(held->dir);
    holder = std::move(held->holder);
  }
  std::optional<NodeExecutors::Served> served;
  if (coordinates()) {
    const auto busy = [this] {
      const SwarmStats now = Stats();
      return now.active + now.queued > 0;
    };
    served.emplace(NodeExecutors::Served{
        *this,
        {.model_name = options.model_name},
        {model->weights(), model->experts(), model->tokenizer(), model->hash(), busy, pool->threads() / 2},
        adapters->files()});
  }
  absl::StatusOr<std::unique_ptr<NodeExecutors>> made =
      NodeExecutors::Make(std::move(served), options.executors, absl::StrCat(folder, "/executors"));
  if (!made.ok()) return made.status();
  executors = *std::move(made);
  return absl::OkStatus();
}

absl::Status ClusterNode::Impl::StartServer() {
  grpc::ServerBuilder& builder = *server_builder;
  int port = 0;
  builder.AddListeningPort(options.listen, credentials->server(), &port);
  SetServerLimits(builder);
  frames = std::make_unique<GrpcFrameService>(builder, *loop, *host);
  builder.RegisterService(admin->service());
  builder.RegisterService(&tiles->service());
  task_calls =
      forwarding->MakeTaskService(*tasks->service(), options.access.get(), [this] { return Leading(); });
  builder.RegisterService(task_calls.get());
  builder.RegisterService(tasks->lending());
  memory_calls =
      forwarding->MakeMemoryService(memories->service(), options.access.get(), [this] { return Leading(); });
  builder.RegisterService(memory_calls.get());
  builder.RegisterService(tasks->agent2agent_service());
  inference_calls = forwarding->MakeService(inference == nullptr ? nullptr : inference->service(),
                                            options.access.get(), options.log_requests);
  builder.RegisterService(inference_calls.get());
  reflection = std::make_unique<ReflectionServices>(NodeServices());
  for (grpc::Service* service : reflection->services()) builder.RegisterService(service);
  server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen,
                                               "; is the address one of this machine's, and the port free?"));
  }
  health.Attach(*server);
  TellHealth();
  const std::string host_part = options.listen.substr(0, options.listen.rfind(':'));
  address = options.advertise.empty() ? absl::StrCat(host_part, ":", port) : options.advertise;
  if (id.empty()) id = address;
  std::lock_guard lock(other_mutex);
  known_address = address;
  return absl::OkStatus();
}

absl::Status ClusterNode::Impl::Start() {
  if (options.listen.find(':') == std::string::npos)
    return absl::InvalidArgumentError(absl::StrCat("'", options.listen, "' is no HOST:PORT to listen on"));
  id = options.id;
  std::vector<std::string> addresses = options.join;
  addresses.push_back(options.listen);
  absl::StatusOr<std::unique_ptr<NodeCredentials>> made = NodeCredentials::Make(
      options.certificates, addresses, options.allow_plain, options.access, options.tls);
  if (!made.ok()) return made.status();
  credentials = *std::move(made);
  for (const std::string& other : options.join) {
    const bool secured = !options.certificates.empty();
    if (absl::Status s = CheckPlain(other, secured || options.allow_plain); !s.ok()) return s;
  }
  if (absl::Status s = OpenTheModel(); !s.ok()) return s;
  server_builder = std::make_unique<grpc::ServerBuilder>();
  auto waiting = std::make_unique<GrpcLoop>(
      *server_builder, options.etcd.empty() ? GrpcLoop::Waiting::kWatching : GrpcLoop::Waiting::kSleeping);
  loop = waiting.get();
  absl::StatusOr<std::unique_ptr<ActorSystem>> system = ActorSystem::Start(std::move(waiting));
  if (!system.ok()) return system.status();
  actors = *std::move(system);
  if (absl::Status s = OpenStores(); !s.ok()) return s;

  const ModelConfig& config = model->config();
  pool = std::make_unique<WorkerPool>(options.swarm.threads > 0 ? options.swarm.threads : DefaultThreads());
  if (!pool->status().ok()) return pool->status();
  keeper = std::make_unique<WarmKeeper>(config, model->experts(), model->cache(), *model_files,
                                        credentials->channel());
  absl::StatusOr<std::unique_ptr<TileService>> served = TileService::Make(model_files);
  if (!served.ok()) return served.status();
  tiles = *std::move(served);
  HostOptions host_options;
  host_options.model_hash = model->hash();
  host_options.offered_bytes = Offered();
  host_options.threads = static_cast<uint32_t>(pool->threads());
  host_options.program = OMNI_VERSION;
  const NodeDuties duties{coordinates(), options.join.empty()};
  if (absl::Status s = TakeDevice(config, *pool, duties, options.swarm.device, runner); !s.ok()) return s;
  host =
      std::make_unique<Host>(*actors, config, model->experts(), *pool, *keeper, host_options, runner.get());
  transport = std::make_unique<GrpcFrameTransport>(credentials->channel(), *loop);
  const ClusterRecord cluster{options.cluster, model->hash(), static_cast<int32_t>(config.num_regions()),
                              kClusterProtocols.oldest, RandomHex(32)};
  if (coordinates()) MakeInference();
  if (absl::Status s = OpenMemories(); !s.ok()) return s;
  if (absl::Status s = OpenTasks(); !s.ok()) return s;
  forwarding = std::make_unique<ForwardingBackend>(
      *this, credentials->channel(),
      ForwardingBackend::Leader{[this](size_t turn) { return LeaderAddress(turn); },
                                [this] { return stopping.load(); },
                                [this] {
                                  std::lock_guard lock(other_mutex);
                                  return known_address;
                                }});
  admin = std::make_unique<AdminService>(cluster, [this] { return Elsewhere(); });
  if (absl::Status s = StartServer(); !s.ok()) return s;

  // Only now are its address, and by that its id, known.
  ProcessFacts facts = FactsOf(*model);
  facts.node = id;
  facts.max_context = options.swarm.max_context;
  status = std::make_unique<ClusterNodeStatus>(
      std::move(facts), *model, [this] { return Stats(); }, [this] { return Serving(); },
      [this] { return tasks->Now(); });
  host->Serve(*frames, {id});
  if (coordinates()) {
    CoordinatorRoleOptions with;
    with.cluster.self = {id};
    with.cluster.program = OMNI_VERSION;
    with.cluster.address = address;
    with.cluster.cluster = cluster;
    with.cluster.offered_bytes = Offered();
    for (int64_t bytes : region_bytes) with.cluster.region_bytes.push_back(static_cast<uint64_t>(bytes));
    with.cluster.gone = options.gone;
    with.leadership.self = {{id}, address, holder->token()};
    with.cluster.placement.shadows = options.shadows;
    // Where the store is its own nobody waits for the lease's end, and a slow disk need not end anything.
    constexpr std::chrono::milliseconds kAlone = std::chrono::minutes(1);
    with.leadership.ttl =
        options.etcd.empty() ? std::max(options.leader_lease, kAlone) : options.leader_lease;
    with.leadership.margin = with.leadership.ttl / 5;
    with.leadership.exclusive = options.etcd.empty();
    with.peers = options.peers;
    with.hedges = options.hedges;
    role = std::make_unique<CoordinatorRole>(*actors, config, std::move(with), *stores.coordination,
                                             *transport, *this);
    {
      std::unique_lock lock(swarm_mutex);
      if (absl::Status s = StartSwarm(); !s.ok()) return s;
    }
    admin->set_role(role.get());
    status->Follow(*role);
    role->Start();
  }
  if (executors != nullptr)
    if (absl::Status s = tasks->Begin(id, executors->all(), executors->artifacts()); !s.ok()) return s;
  frames->Start();
  if (!options.join.empty()) {
    JoinOffer offer = Offer(model->hash());
    offer.regions = static_cast<uint32_t>(config.num_regions());
    offer.offered_bytes = Offered();
    joiner = std::make_unique<Joiner>(options.join, *credentials, std::move(offer),
                                      Joiner::Events{[this] { return IsLed(); },
                                                     [this](const JoinAnswer& answer) {
                                                       host->OnJoined(answer.cluster, answer.cluster_id);
                                                     }});
  }
  return absl::OkStatus();
}

ClusterNode::ClusterNode(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ClusterNode::~ClusterNode() = default;

absl::StatusOr<std::unique_ptr<ClusterNode>> ClusterNode::Start(ClusterNodeOptions options) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  if (absl::Status s = impl->Start(); !s.ok()) return s;
  return std::unique_ptr<ClusterNode>(new ClusterNode(std::move(impl)));
}

const std::string& ClusterNode::address() const { return impl_->address; }
const std::string& ClusterNode::id() const { return impl_->id; }
const Model& ClusterNode::model() const { return *impl_->model; }
InferenceBackend& ClusterNode::backend() { return *impl_->forwarding; }
SwarmStats ClusterNode::Stats() const { return impl_->Stats(); }

void ClusterNode::StopServing() { impl_->StopServing(); }
bool ClusterNode::WaitForAnswers(std::chrono::milliseconds most) {
  const auto until = std::chrono::steady_clock::now() + most;
  if (impl_->inference != nullptr && !impl_->inference->WaitForNone(most)) return false;
  return impl_->forwarding->WaitForNone(until);
}

bool ClusterNode::WaitForLeader(std::chrono::milliseconds most) {
  std::unique_lock lock(impl_->other_mutex);
  return impl_->led.wait_for(lock, most, [this] {
    return impl_->leading || !impl_->other.address.empty() || !impl_->coordinates();
  });
}
bool ClusterNode::Turned() { return impl_->Turned(); }
StatusSource& ClusterNode::status() { return *impl_->status; }
std::vector<HttpExtension*> ClusterNode::OpenHttpExtensions() {
  return {&impl_->tasks->agent2agent(), &impl_->memories->http(),
          &impl_->tasks->OpenTools(*impl_->forwarding, impl_->options.most_tokens)};
}

}  // namespace omni
