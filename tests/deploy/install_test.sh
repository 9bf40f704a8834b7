#!/usr/bin/env bash
# What `cmake --install` gives, at a place of one's own: a program that finds its model there, man pages without a
# complaint, completion, and units that systemd has nothing against. usage: install_test.sh BUILD WORK
set -euo pipefail
build=$1
work=$2
prefix=$work/at
failures=0
check() { # check WHAT COMMAND...: the command must succeed
  if ! "${@:2}"; then
    echo "FAIL: $1"
    failures=$((failures + 1))
  fi
}
rm -rf "$work"
mkdir -p "$work"
for component in omni model; do
  cmake --install "$build" --component "$component" --prefix "$prefix" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
done

# Moved: nothing in it knows where it was.
mv "$prefix" "$work/moved"
prefix=$work/moved
text=$(env -u OMNI_MODEL XDG_STATE_HOME="$work/state" "$prefix/bin/omni" run 'The sea' -n 4 --temp 0 --log-level error)
check "an installed program finds the model beside it" test -n "$text"
check "omni-child is no program for people" test -x "$prefix/libexec/omni/omni-child"
check "a verb has a page" test -s "$prefix/share/man/man1/omni-serve.1.gz"
check "every verb has a page, but train, which is another program" test \
  "$(find "$prefix/share/man/man1" -name 'omni-*.1.gz' | wc -l)" -eq \
  "$("$prefix/bin/omni" completion bash | grep '^    [a-z]*) words=' | grep -vc ' train)')"
check "bash completes it" bash -c \
  "source '$prefix/share/bash-completion/completions/omni' && complete -p omni >/dev/null"
if command -v groff >/dev/null; then
  for page in "$prefix"/share/man/man1/*.gz; do
    said=$(zcat "$page" | groff -man -Tutf8 -ww -z 2>&1) || true
    check "$page is what groff wants: $said" test -z "$said"
  done
fi

if ! command -v systemd-analyze >/dev/null; then
  echo "SKIPPED: the units, there is no systemd-analyze here"
  exit $((failures > 0 ? 1 : 77))
fi
units=$work/units
mkdir "$units"
for unit in omni omni@; do
  sed "s#$work/at#$prefix#g" "$prefix/lib/systemd/system/$unit.service" >"$units/${unit/@/@one}.service"
done
for unit in omni omni@one; do
  for part in "" tls certificates; do
    rm -rf "$units/$unit.service.d"
    [[ -z $part ]] || { mkdir "$units/$unit.service.d" && cp "$prefix/share/doc/omni/examples/$part.conf" \
      "$units/$unit.service.d/"; }
    said=$(SYSTEMD_UNIT_PATH=$units: systemd-analyze verify --man=no "$units/$unit.service" 2>&1 |
      grep -F "$unit" || true)
    check "systemd takes $unit.service${part:+ with $part.conf}: $said" test -z "$said"
  done
  # Ten times the exposure; 25 is what is asked for.
  check "$unit.service is confined" systemd-analyze security --offline=yes --threshold=25 --no-pager \
    "$units/$unit.service" >"$work/security" 2>&1
  tail -n 1 "$work/security"
done
# A unit that is less confined is found.
grep -v -E '^(Protect|Private|Restrict|Capability|SystemCall|NoNew)' "$units/omni.service" >"$units/bare.service"
check "and one that is not would be found" bash -c \
  "! systemd-analyze security --offline=yes --threshold=25 --no-pager '$units/bare.service' >/dev/null 2>&1"
((failures == 0)) && echo "all that is installed is as it should be"
exit $((failures > 0))
