#!/usr/bin/env bash
# The container image with the model, run by podman: as whom, what it can write, how it is asked whether it is well,
# what it plans of its memory, how its first process ends, and how soon it is ready.
# usage: container_test.sh IMAGES WORK
#   IMAGES  the folder that `scripts/package image` has written
# Needs root, podman, runc, nsenter and curl; is skipped without.
set -euo pipefail
images=$1
work=$2
skip() { echo "SKIPPED: $*"; exit 77; }
((EUID == 0)) || skip "needs root"
for tool in podman runc nsenter curl; do
  command -v "$tool" >/dev/null || skip "needs $tool (apt-get install podman runc)"
done
archive=$images/omni-mini-image.tar
[[ -s $archive ]] || skip "$images has no images; scripts/package image makes them"
mkdir -p "$work"
at=$(mktemp -d)
# Without systemd, and with either version of control groups.
printf '%s\n' '[engine]' 'runtime = "runc"' 'cgroup_manager = "cgroupfs"' 'events_logger = "file"' '[containers]' \
  'log_driver = "k8s-file"' 'default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]' >"$at/containers.conf"
export CONTAINERS_CONF=$at/containers.conf
pod() { podman --root "$at/storage" --runroot "$at/run" --storage-driver vfs --log-level fatal "$@"; }
finish() {
  pod rm -f -a -t 1 >/dev/null 2>&1 || true
  rm -rf "$at"
}
trap finish EXIT
failures=0
check() { # check WHAT COMMAND...: the command must succeed
  if "${@:2}"; then echo "ok: $1"; else
    echo "FAIL: $1"
    failures=$((failures + 1))
  fi
}
fails() { ! "$@" >/dev/null 2>&1; }
soon() { # soon SECONDS COMMAND...: until the command succeeds
  local until=$((SECONDS + $1))
  until "${@:2}" >/dev/null 2>&1; do
    ((SECONDS < until)) || return 1
    sleep 0.05
  done
}
now() { date +%s%N; }

pod load -q -i "$archive" >"$work/load.log" || skip "podman cannot run here: $(tail -n 1 "$work/load.log")"
image=$(pod images --format '{{.Repository}}:{{.Tag}}' | grep omni-mini)
# A network of its own, with nobody in it; asked from within that.
create() { # create NAME PODMAN_FLAGS...
  pod create -q --name "$1" --network none --read-only --read-only-tmpfs=false --cap-drop all \
    --security-opt no-new-privileges "${@:2}" "$image" >/dev/null
}
pid_of() { pod inspect -f '{{.State.Pid}}' "$1"; }
ask() { # ask NAME PATH CURL...
  nsenter -t "$(pid_of "$1")" -n curl -sS --max-time 60 "http://127.0.0.1:8080$2" "${@:3}"
}
ready() { [[ $(ask "$1" /ready -o /dev/null -w '%{http_code}') == 200 ]]; }
ends() { [[ $(pod inspect -f '{{.State.Status}}' "$1") == exited ]]; }
status_of() { pod inspect -f '{{.State.ExitCode}}' "$1"; }

create one --memory 512m
# What its files have in the page cache is dropped: they are read from the disk, as after the image was fetched.
forget() {
  sync
  find "$(pod mount one)" -xdev -type f -exec dd if={} iflag=nocache count=0 status=none \;
  pod unmount one >/dev/null
}
started() { # milliseconds from `podman start` until /ready says so
  local begin
  begin=$(now)
  pod start one >/dev/null
  soon 60 ready one || return 1
  echo $((($(now) - begin) / 1000000))
}
echo "--- start"
forget
cold=$(started)
pod stop -t 20 one >/dev/null
warm=$(started)
echo "ready $cold ms after podman start with nothing of it in the page cache, $warm ms with all of it"
check "it is ready within 3 s" test "$cold" -le 3000 -a "$warm" -le 3000
answer=$(ask one /v1/completions -H 'Content-Type: application/json' -d '{"prompt": "The sea", "max_tokens": 4}')
check "and answers" grep -q '"text"' <<<"$answer"

echo "--- confinement"
status=$(pod exec one cat /proc/1/status)
check "it is nobody's root" grep -qP '^Uid:\t10001\t10001\t10001\t10001$' <<<"$status"
check "it has no capability" grep -qP '^CapBnd:\t0+$' <<<"$status"
check "it gains no privileges" grep -qP '^NoNewPrivs:\t1$' <<<"$status"
check "its system calls are filtered" grep -qP '^Seccomp:\t2$' <<<"$status"
wrote=$(pod exec one sh -c 'for d in / /usr /usr/bin /etc /tmp /root /var /home /run; do
  touch $d/x 2>/dev/null && echo $d; done; true')
check "nothing can be written but its volume: $wrote" test -z "$wrote"
check "that one can" pod exec one touch /var/lib/omni/x
tree=$(pod mount one)
check "its files can be looked at" test -x "$tree/usr/bin/omni"
check "nothing in it becomes somebody else" test -z "$(find "$tree" -xdev -perm /6000 -type f)"
pod unmount one >/dev/null
check "it has neither compiler nor package manager" fails pod exec one sh -c \
  'command -v cc || command -v gcc || command -v ld || command -v dpkg || command -v apt-get || command -v perl'

echo "--- health"
check "it is healthy" pod healthcheck run one
kill -STOP "$(pid_of one)"
check "one that hangs is not" fails pod healthcheck run one
kill -CONT "$(pid_of one)"
check "and is again when it goes on" soon 20 pod healthcheck run one

echo "--- memory"
budget() { ask "$1" /metrics | sed -n 's/^omni_memory_budget_bytes \(.*\)/\1/p'; }
create small --memory 160m
pod start small >/dev/null
soon 20 ready small
for pair in one:512 small:160; do
  planned=$(budget "${pair%:*}")
  echo "of ${pair#*:} MiB ${pair%:*} plans with $planned bytes"
  check "it plans with what the limit leaves, and most of that" python3 -c "
import sys
limit = ${pair#*:} << 20
sys.exit(not 0.5 * limit <= float('$planned') <= limit)"
done
pod rm -f -t 1 small >/dev/null

echo "--- signals"
stream() { # stream TOKENS FILE
  ask one /v1/completions -N -H 'Content-Type: application/json' -d "{\"prompt\": \"The sea\", \"max_tokens\": $1,
    \"temperature\": 0, \"stream\": true, \"ignore_eos\": true}" >"$2"
}
rm -f "$work/stream"
stream 3000 "$work/stream" &
client=$!
soon 20 test -s "$work/stream"
pod kill --signal TERM one >/dev/null
wait "$client" || true
check "the first process of a container finishes what is under way" grep -q '^data: \[DONE\]' "$work/stream"
check "all of it" test "$(grep -c '"text"' "$work/stream")" -ge 3000
check "and ends" soon 20 ends one
check "well" test "$(status_of one)" = 0
pod start one >/dev/null
soon 20 ready one
rm "$work/stream"
stream 1000000 "$work/stream" 2>/dev/null &
client=$!
soon 20 test -s "$work/stream"
pod kill --signal TERM one >/dev/null
sleep 0.5
check "one signal leaves it at work" fails ends one
pod kill --signal TERM one >/dev/null
check "a second one ends it" soon 5 ends one
check "as a signal does" test "$(status_of one)" = 143
wait "$client" || true
((failures == 0)) && echo "the image does in a container what it is for"
exit $((failures > 0))
