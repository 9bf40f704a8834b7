#!/usr/bin/env bash
# clients.sh NODE SCRIPT [FOLDER]: runs a test of clients in this folder, with the packages that install.sh has put in
# FOLDER of it; exits with 77, and says why, where they are missing. NODE: the least version of the machine's own node,
# or "npm": the one among the packages. Of SCRIPT codex.mjs all that is reached is loopback.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
skip() {
  echo "SKIPPED: $1"
  exit 77
}
[[ -f ${3:-.}/node_modules/.installed ]] || skip "the packages are not installed: npm or the network is missing"
node=node
if [[ $1 == npm ]]; then
  # Its package has this machine's kind in its name.
  found=("${3:-.}"/node_modules/node-*/bin/node)
  [[ -x ${found[0]} ]] || skip "npm's node is not for this machine"
  node=$PWD/${found[0]#./}
elif (($(node -p 'process.versions.node.split(".")[0]') < $1)); then
  skip "node is $(node --version); this client wants $1 or later"
fi
run=("$node" --test --test-reporter=spec --test-timeout=250000 "$2")
[[ $2 == codex.mjs ]] || exec "${run[@]}"
for alone in "unshare -n" "unshare -rn"; do
  if $alone ip link set lo up 2>/dev/null; then exec $alone bash -c 'ip link set lo up && exec "$@"' _ "${run[@]}"; fi
done
skip "no network of its own can be made here: it wants root or user namespaces, and ip"
