# Sourced by scripts/setup: the Debian 12 packages this project builds with. docs/dependencies.md says what
# each is for.

tools=(cmake ninja-build g++ ccache mold git ca-certificates python3 protobuf-compiler protobuf-compiler-grpc)
libraries=(libabsl-dev nlohmann-json3-dev libcli11-dev libxxhash-dev liblzma-dev librocksdb-dev libcaf-dev
  liburing-dev libspdlog-dev libgrpc++-dev libprotobuf-dev libssl-dev libboost-dev prometheus-cpp-dev
  libedit-dev)
test_libraries=(libgtest-dev libgmock-dev libbenchmark-dev libboost-context-dev etcd-server iproute2 nftables)
# Programs that tests/e2e lets loose on `omni serve`; its tests say so when they are skipped without them.
e2e=(chromium prometheus dpkg-dev lintian systemd python3-yaml mmdebstrap systemd-container buildah
  podman runc etcd-client)
command -v kubectl >/dev/null || e2e+=(kubernetes-client)
trainer=(libtorch-dev libopenblas0-openmp)
