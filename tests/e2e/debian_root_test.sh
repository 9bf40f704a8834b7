#!/usr/bin/env bash
# The Debian packages on a bare Debian 12 that runs systemd, as a container of its own: installed, asked, hung, stopped,
# upgraded in the middle of an answer, removed and purged. usage: debian_root_test.sh ROOT WORK
# Needs root, mmdebstrap, systemd-nspawn and a mirror of Debian; is skipped without.
set -euo pipefail
root=$1
work=$2
skip() { echo "SKIPPED: $*"; exit 77; }
((EUID == 0)) || skip "needs root"
for tool in mmdebstrap systemd-nspawn dpkg-shlibdeps nsenter; do
  command -v "$tool" >/dev/null || skip "needs $tool (apt-get install mmdebstrap systemd-container dpkg-dev)"
done
mkdir -p "$work"
debian=$work/debian.tar
[[ -s $debian ]] || mmdebstrap --quiet --variant=minbase --include=systemd-sysv,dbus,adduser,curl bookworm "$debian" \
  2>"$work/mmdebstrap.log" || skip "no mirror of Debian: $(tail -n 1 "$work/mmdebstrap.log")"

at=$(mktemp -d)
container=
finish() {
  if [[ -n $container ]] && kill "$container" 2>/dev/null; then wait "$container" 2>/dev/null || true; fi
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
fails() { ! "$@" 2>/dev/null; }
soon() { # soon SECONDS COMMAND...: until the command succeeds
  local until=$((SECONDS + $1))
  until "${@:2}" >/dev/null 2>&1; do
    ((SECONDS < until)) || return 1
    sleep 0.2
  done
}

for version in 1.0.0 1.0.1; do "$root/scripts/package" deb --version $version --to "$work/debs" >/dev/null; done
tar -C "$at" -xf "$debian"
cp "$work"/debs/*.deb "$at/opt/"
# What the packages need is fetched before: the container has a network of its own, with nobody in it.
systemd-nspawn -q --register=no --keep-unit --console=pipe -D "$at" sh -c \
  'apt-get -qq update && apt-get -qq install -y -d --no-install-recommends /opt/omni_1.0.0_*.deb' </dev/null \
  >"$work/fetch.log" 2>&1 || skip "no mirror of Debian: $(tail -n 1 "$work/fetch.log")"
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=0 systemd-nspawn -q -b --register=no --keep-unit --private-network --console=pipe \
  -D "$at" </dev/null >"$work/boot.log" 2>&1 &
container=$!
inside() { nsenter -t "$(pgrep -P "$container")" -m -u -i -p -n -C -- "$@"; }
# Not the state of the whole, which has no say in what is tested.
soon 120 inside systemctl is-active multi-user.target || { cat "$work/boot.log"; exit 1; }
ask() { # ask PATH CURL...: what is answered over HTTP
  inside curl -sS --max-time 60 "http://127.0.0.1:8080$1" "${@:2}"
}
active() { [[ $(inside systemctl is-active "$1") == active ]]; }

echo "--- install"
inside sh -c 'apt-get -q install -y --no-install-recommends /opt/omni_1.0.0_*.deb /opt/omni-model-mini_1.0.0_all.deb' \
  >"$work/install.log" 2>&1 || { cat "$work/install.log"; exit 1; }
answer=$(ask /v1/completions -H 'Content-Type: application/json' -d '{"prompt": "The sea", "max_tokens": 8}')
check "two commands, and a token is served: $answer" grep -q '"text":"[^"]' <<<"${answer//\" : \"/\":\"}"
check "the manager knows what is served" grep -q 'StatusText=serving mini at 127.0.0.1:8080' \
  <(inside systemctl show omni -p StatusText)
pid=$(inside systemctl show omni -p MainPID --value)
check "it runs as its own user" test "$(inside ps -o user= -p "$pid" 2>/dev/null ||
  inside stat -c %U "/proc/$pid")" = omni
check "its state is its own" test "$(inside stat -c '%U %a' /var/lib/omni)" = 'omni 750'
check "it is begun with the system" test "$(inside systemctl is-enabled omni)" = enabled

echo "--- start"
# What its files have in the page cache is dropped, but for libraries that systemd itself has in use.
forget() {
  sync
  find "$at"/usr/{bin,lib,share/omni} -xdev -type f -exec dd if={} iflag=nocache count=0 status=none \;
}
at_us() { inside systemctl show omni -p "$1TimestampMonotonic" --value; }
started() { # milliseconds from the start until it has said that it is ready
  inside systemctl start omni
  echo $((($(at_us ActiveEnter) - $(at_us InactiveExit)) / 1000))
}
inside systemctl stop omni
forget
cold=$(started)
inside systemctl stop omni
warm=$(started)
echo "ready $cold ms after systemctl start with nothing of it in the page cache, $warm ms with all of it"
check "it is ready within 3 s" test "$cold" -gt 0 -a "$cold" -le 3000 -a "$warm" -le 3000

echo "--- a node beside it"
inside sh -c 'printf "%s\n" OMNI_LISTEN=127.0.0.1:7301 OMNI_JOIN=127.0.0.1:8081 OMNI_MODEL=/var/lib/omni/b/model \
  >/etc/omni/b.conf && systemctl start omni@b'
has_node() { inside omni cluster status --cluster 127.0.0.1:8081 --json | grep -q '"node": *"b"'; }
check "omni@b joins, with a folder that fills itself" soon 60 has_node
check "and says that it serves" inside omni cluster health --cluster 127.0.0.1:7301
inside systemctl stop omni@b

echo "--- the watchdog"
inside sh -c 'mkdir -p /etc/systemd/system/omni.service.d && printf "[Service]\nWatchdogSec=4s\nTimeoutAbortSec=1s\n" \
  >/etc/systemd/system/omni.service.d/short.conf && systemctl daemon-reload && systemctl restart omni'
sleep 6
check "one that lives is left alone" test "$(inside systemctl show omni -p NRestarts --value)" = 0
inside sh -c 'kill -STOP $(systemctl show omni -p MainPID --value)'
restarted() { [[ $(inside systemctl show omni -p NRestarts --value) -ge 1 ]] && active omni; }
check "one that hangs is started again" soon 30 restarted
inside sh -c 'rm /etc/systemd/system/omni.service.d/short.conf && systemctl daemon-reload && systemctl restart omni'

echo "--- stop"
rm -f "$work/stream" # of a run before
ask /v1/completions -N -H 'Content-Type: application/json' \
  -d '{"prompt": "The sea", "max_tokens": 1500, "temperature": 0, "stream": true, "ignore_eos": true}' \
  >"$work/stream" &
stream=$!
check "a stream has begun" soon 30 test -s "$work/stream"
inside systemctl stop omni
wait "$stream" || true
check "a stop finishes what is under way" grep -q '^data: \[DONE\]' "$work/stream"
check "all of it" test "$(grep -c '"text"' "$work/stream")" -ge 1500
check "and is no failure" test "$(inside systemctl show omni -p Result --value)" = success

echo "--- upgrade in the middle of an answer"
inside sh -c 'echo OMNI_DRAIN=1s >>/etc/omni/omni.conf && systemctl start omni'
words=(omni run 'It was a dark night' -n 30000 --temp 0 --ignore-eos)
inside env HOME=/root "${words[@]}" --log-level error >"$work/want"
inside env HOME=/root "${words[@]}" --cluster 127.0.0.1:8081 --json >"$work/got.json" 2>"$work/got.err" &
client=$!
sleep 1
began=$(date +%s%N)
inside sh -c 'dpkg --force-confold -i /opt/omni_1.0.1_*.deb' >"$work/upgrade.log" 2>&1 ||
  { cat "$work/upgrade.log"; exit 1; }
echo "the upgrade took $((($(date +%s%N) - began) / 1000000)) ms"
check "the client comes to its end" wait "$client"
python3 - "$work" <<'P' || failures=$((failures + 1))
import json, sys
got, want = json.load(open(sys.argv[1] + "/got.json")), open(sys.argv[1] + "/want").read().rstrip("\n")
print({k: got[k] for k in ("reconnects", "timings")})
assert got["text"].rstrip("\n") == want, "the answer is another"
assert got.get("reconnects", 1) >= 1, "the answer was over before the upgrade: nothing was shown"
P
check "the settings are what they were" inside grep -q OMNI_DRAIN=1s /etc/omni/omni.conf
check "the new version runs" test "$(inside dpkg-query -W -f '${Version}' omni)" = 1.0.1
check "and serves" soon 30 active omni

echo "--- credentials"
inside sh -c 'cd /etc/omni &&
  omni cluster cert authority --node one --hosts 127.0.0.1 --out /etc/omni/certificates &&
  cp /usr/share/doc/omni/examples/certificates.conf /etc/systemd/system/omni.service.d/ && systemctl daemon-reload &&
  systemctl restart omni' >/dev/null
check "a key that is root's alone is lent to the service" inside omni cluster health --cluster 127.0.0.1:8081 \
  --certificates /etc/omni/certificates
check "and who shows none is refused" fails inside omni cluster health --cluster 127.0.0.1:8081
inside rm -r /etc/systemd/system/omni.service.d /etc/omni/authority /etc/omni/certificates /etc/omni/b.conf
inside systemctl daemon-reload

echo "--- remove, purge"
inside apt-get -qq remove -y omni >"$work/remove.log" 2>&1
check "a removed package keeps its settings and its state" inside test -e /etc/omni/omni.conf -a -d /var/lib/omni
check "and serves nothing" fails inside systemctl is-active -q omni
inside sh -c 'apt-get -q install -y --no-install-recommends /opt/omni_1.0.1_*.deb' >"$work/again.log" 2>&1
check "installed again it serves" soon 30 active omni
inside apt-get -qq purge -y omni omni-model-mini >"$work/purge.log" 2>&1
check "a purged one leaves nothing" inside sh -c '[ ! -e /etc/omni ] && [ ! -e /var/lib/omni ] &&
  [ ! -e /usr/share/omni ] && ! getent passwd omni && ! ls /etc/systemd/system/multi-user.target.wants/omni*'
((failures == 0)) && echo "the packages do on a bare Debian what they are for"
exit $((failures > 0))
