#!/usr/bin/env bash
# The Debian packages: what is in them, whose it is, what they need, and what lintian says; and that they are the same
# bytes when they are built again. usage: deb_test.sh ROOT WORK
set -euo pipefail
root=$1
work=$2
for tool in dpkg-deb dpkg-shlibdeps; do
  command -v "$tool" >/dev/null || { echo "SKIPPED: needs $tool (apt-get install dpkg-dev)"; exit 77; }
done
failures=0
check() { # check WHAT COMMAND...: the command must succeed
  if ! "${@:2}"; then
    echo "FAIL: $1"
    failures=$((failures + 1))
  fi
}
rm -rf "$work"
mkdir -p "$work"
export SOURCE_DATE_EPOCH=1700000000
for n in 1 2; do "$root/scripts/package" deb --version 1.2.3 --to "$work/$n" >"$work/names"; done
check "two files are named" test "$(wc -l <"$work/names")" -eq 2
deb=$work/1/omni_1.2.3_$(dpkg --print-architecture).deb
model=$work/1/omni-model-mini_1.2.3_all.deb
for file in "$deb" "$model"; do
  check "$(basename "$file") is there" test -s "$file"
  check "$(basename "$file") is the same bytes again" cmp "$file" "$work/2/$(basename "$file")"
done

dpkg-deb -c "$deb" >"$work/list"
for file in ./usr/bin/omni ./usr/libexec/omni/omni-child ./usr/lib/systemd/system/omni.service \
  ./usr/lib/systemd/system/omni@.service ./etc/omni/omni.conf ./usr/share/man/man1/omni.1.gz \
  ./usr/share/man/man1/omni-serve.1.gz ./usr/share/bash-completion/completions/omni \
  ./usr/share/zsh/vendor-completions/_omni ./usr/share/doc/omni/copyright ./usr/share/doc/omni/changelog.gz \
  ./usr/share/doc/omni/examples/tls.conf; do
  check "$file is in it" grep -q " ${file//./\\.}$" "$work/list"
done
check "all is root's" test -z "$(awk '$2 != "root/root"' "$work/list")"
check "nobody but root can write" test -z "$(awk '$1 !~ /^l/ && (substr($1, 6, 1) == "w" || substr($1, 9, 1) == "w")' \
  "$work/list")"
check "no trainer and no tests are in it" test -z "$(grep -E 'omni-train|_test|/include/' "$work/list")"
check "the model is a package of its own" test -z "$(grep models "$work/list")"
dpkg-deb -c "$model" >"$work/model-list"
check "which has its weights" grep -q ' ./usr/share/omni/models/mini/shared.bin$' "$work/model-list"
depends=$(dpkg-deb -f "$deb" Depends)
for package in libgrpc++ librocksdb libcaf-core libssl3 adduser; do
  check "it needs $package" grep -q "$package" <<<"$depends"
done
check "it needs no compiler and no library for building" test -z "$(grep -oE '[a-z0-9+.-]+-dev|g\+\+-[0-9]+' \
  <<<"$depends")"
check "its settings are kept over upgrades" grep -qx /etc/omni/omni.conf <(dpkg-deb --ctrl-tarfile "$deb" |
  tar -xO ./conffiles)
dpkg-deb -x "$deb" "$work/root"
check "units name where it lies" grep -q '^ExecStart=/usr/bin/omni serve$' \
  "$work/root/usr/lib/systemd/system/omni.service"
check "and where its settings do" grep -q '^EnvironmentFile=-/etc/omni/omni.conf$' \
  "$work/root/usr/lib/systemd/system/omni.service"
for script in postinst prerm postrm; do
  dpkg-deb --ctrl-tarfile "$deb" | tar -xO "./$script" >"$work/$script"
  check "$script is a script of sh" sh -n "$work/$script"
done

if ! command -v lintian >/dev/null; then
  echo "SKIPPED: what lintian says, there is none here (apt-get install lintian)"
  exit $((failures > 0 ? 1 : 77))
fi
lintian --allow-root --fail-on error "$deb" "$model" >"$work/lintian" 2>&1 || failures=$((failures + 1))
cat "$work/lintian"
((failures == 0)) && echo "the packages are as they should be"
exit $((failures > 0))
