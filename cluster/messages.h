// What travels between the actors of a cluster inside one process; between processes travel frames
// (frames.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <caf/all.hpp>

#include "actors/messages.h"
#include "cluster/frames.h"

namespace omni {

// --- To whoever has a node's stream

struct PeerRequests {
  std::vector<RegionRequestPtr> requests;  // of one layer
};
struct PeerPrefetch {
  PrefetchFrame frame;
};
struct PeerCancel {
  uint64_t request = 0;
};
struct PeerAssign {
  AssignFrame frame;
};
struct PeerAddress {
  std::string address;
};
// From the stream that was opened as the `stream`th.
struct PeerFrame {
  uint64_t stream = 0;
  FrameBytes bytes;
};
struct PeerClosed {
  uint64_t stream = 0;
  absl::Status status;
};

// --- To whoever serves coordinators

struct HostOpened {
  uint64_t stream = 0;
};
struct HostFrame {
  uint64_t stream = 0;
  FrameBytes bytes;
};
struct HostClosed {
  uint64_t stream = 0;
  absl::Status status;
};
struct HostHeld {
  HoldingsFrame holdings;
};
struct HostFlush {};
struct HostJoined {
  std::string cluster, id;
};

// --- To whoever runs a state that hears of things from other threads

using Deed = std::shared_ptr<std::function<void()>>;

using PeerRequestsPtr = std::shared_ptr<PeerRequests>;
using PeerPrefetchPtr = std::shared_ptr<PeerPrefetch>;
using PeerAssignPtr = std::shared_ptr<PeerAssign>;
using PeerAddressPtr = std::shared_ptr<PeerAddress>;
using PeerFramePtr = std::shared_ptr<PeerFrame>;
using PeerClosedPtr = std::shared_ptr<PeerClosed>;
using HostFramePtr = std::shared_ptr<HostFrame>;
using HostClosedPtr = std::shared_ptr<HostClosed>;
using HostHeldPtr = std::shared_ptr<HostHeld>;
using HostJoinedPtr = std::shared_ptr<HostJoined>;

}  // namespace omni

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::PeerRequestsPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::PeerPrefetchPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::PeerCancel)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::PeerAssignPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::PeerAddressPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::PeerFramePtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::PeerClosedPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::HostOpened)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::HostFramePtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::HostClosedPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::HostHeldPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::HostFlush)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::HostJoinedPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::Deed)

namespace omni {

using PeerActor = caf::typed_actor<caf::reacts_to<PeerRequestsPtr>, caf::reacts_to<PeerPrefetchPtr>,
                                   caf::reacts_to<PeerCancel>, caf::reacts_to<PeerAssignPtr>,
                                   caf::reacts_to<PeerAddressPtr>, caf::reacts_to<PeerFramePtr>,
                                   caf::reacts_to<PeerClosedPtr>, caf::reacts_to<tick_atom>>;

// It asks this node's regions, too.
using HostActor =
    caf::typed_actor<caf::reacts_to<RegionReplyPtr>, caf::reacts_to<HostOpened>, caf::reacts_to<HostFramePtr>,
                     caf::reacts_to<HostClosedPtr>, caf::reacts_to<HostHeldPtr>, caf::reacts_to<HostFlush>,
                     caf::reacts_to<HostJoinedPtr>>;

using ClusterActor = caf::typed_actor<caf::reacts_to<Deed>, caf::reacts_to<tick_atom>>;

}  // namespace omni
