# Sourced by scripts/test, after common.sh: the actor library with the thread sanitizer in it.
#
# Debian's libcaf_core is not built with the sanitizer, which so cannot see that its mailboxes synchronise: every
# message between actors would be reported. A suppression wide enough for that would hide races in our own handlers,
# which CAF calls; so the same version is built from Debian's source, once, and put in front of the installed one.

# caf_with_tsan DIR: afterwards DIR holds libcaf_core.so. Fails, saying why, if the source cannot be had.
caf_with_tsan() {
  local dir=$1 version archive uri list
  version=$(dpkg-query -W -f='${source:Version}' libcaf-core0.17) || return 1
  if [[ -f $dir/lib/libcaf_core.so && $(cat "$dir/version" 2>/dev/null) == "$version" ]]; then return 0; fi
  rm -rf "$dir"
  mkdir -p "$dir/lists/partial"
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Component: main' 'Codename: bookworm' | sort -u | head -n 1)
  echo "deb-src $uri bookworm main" >"$dir/sources.list"
  list=(-o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$dir/lists"
    -o APT::Get::List-Cleanup=0 -o APT::Sandbox::User=root)
  apt-get "${list[@]}" -qq update >"$dir/log" 2>&1 || true
  # Of the source package only the original archive is needed.
  read -r archive < <(apt-get "${list[@]}" -qq source --print-uris "actor-framework=$version" 2>>"$dir/log" |
    sed -n "s/^'\([^']*[.]orig[.]tar[.][a-z0-9]*\)' .* \(SHA256:[0-9a-f]*\)$/\1 \2/p")
  [[ -n ${archive:-} ]] || { say "Debian's source of CAF $version cannot be had (see $dir/log)"; return 1; }
  /usr/lib/apt/apt-helper download-file "${archive% *}" "$dir/caf.tar" "${archive#* }" >>"$dir/log" 2>&1 ||
    { say "Debian's source of CAF $version cannot be downloaded (see $dir/log)"; return 1; }
  mkdir "$dir/src"
  tar -xf "$dir/caf.tar" -C "$dir/src" --strip-components=1
  cmake -S "$dir/src" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_POLICY_DEFAULT_CMP0000=OLD \
    -DCMAKE_CXX_FLAGS="-fsanitize=thread -fno-omit-frame-pointer -O1 -g1 -w" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache \
    -DCAF_NO_{EXAMPLES,UNIT_TESTS,TOOLS,IO,OPENSSL,OPENCL,PYTHON}=yes >>"$dir/log" 2>&1 &&
    ninja -C "$dir/build" -j "$(build_jobs)" libcaf_core_shared >>"$dir/log" 2>&1 ||
    { say "CAF $version cannot be built with the thread sanitizer (see $dir/log)"; return 1; }
  mkdir "$dir/lib"
  cp -P "$dir/build"/lib/libcaf_core.so* "$dir/lib/"
  echo "$version" >"$dir/version"
  rm -rf "$dir/src" "$dir/build" "$dir/caf.tar" "$dir/lists"
}
