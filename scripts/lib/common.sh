# Sourced by the programs in scripts/: messages, how many jobs this machine can bear, and how a preset is
# built. Everything here speaks on stderr, so that stdout stays free for results.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
program=${0##*/}

say() { printf '%s: %s\n' "$program" "$*" >&2; }
fail() {
  printf '%s: error: %s\n' "$program" "$*" >&2
  exit 1
}

# Least of two numbers, the second of which may be a word such as "max" (then it does not count).
least() {
  if [[ $2 =~ ^[0-9]+$ ]] && (($2 < $1)); then echo "$2"; else echo "$1"; fi
}

# Compile jobs: one per core this process may use, but no more than memory allows (the heaviest files take up
# to 2 GB).
build_jobs() {
  local cores memory_mb limit quota period
  cores=$(nproc)
  memory_mb=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
  if read -r limit 2>/dev/null </sys/fs/cgroup/memory.max && [[ $limit =~ ^[0-9]+$ ]]; then
    memory_mb=$(least "$memory_mb" $((limit / 1048576)))
  fi
  if read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max && [[ $quota =~ ^[0-9]+$ ]]; then
    cores=$(least "$cores" $(((quota + period - 1) / period)))
  fi
  cores=$(least "$cores" $((memory_mb / 2048)))
  if ((cores < 1)); then cores=1; fi
  echo "${OMNI_JOBS:-$cores}"
}

# What a build folder's cache holds for a variable, or nothing.
cached() { sed -n "s/^$2:[A-Z]*=//p" "$1/CMakeCache.txt" 2>/dev/null || true; }

# build PRESET TARGETS -- CMAKE_ARGS...: configures build/PRESET only if it is new or one of the -DNAME=VALUE
# arguments differs from its cache; ninja does the rest (and is nearly instant when no source is newer).
# TARGETS is one word list; "all" builds everything. Quiet unless something has to be built; the whole log is
# in build/PRESET.log.
build() {
  local preset=$1 targets=$2 dir=$root/build/$1 log=$root/build/$1.log stale=0 arg name value
  shift 3
  mkdir -p "$root/build"
  if [[ ! -f $dir/build.ninja ]]; then stale=1; fi
  for arg in "$@"; do
    name=${arg#-D}
    value=${name#*=}
    if [[ $(cached "$dir" "${name%%=*}") != "$value" ]]; then stale=1; fi
  done
  : >"$log"
  if ((stale)); then
    say "configuring build/$preset"
    (cd "$root" && cmake --preset "$preset" "$@") >>"$log" 2>&1 || build_failed "$preset" "$log"
  fi
  # shellcheck disable=SC2086
  if [[ -t 2 ]]; then
    NINJA_STATUS="$program: build/$preset %p %f/%t %es  " ninja -C "$dir" -j "$(build_jobs)" $targets >&2 ||
      fail "build/$preset failed (see above)"
  else
    ninja -C "$dir" -j "$(build_jobs)" $targets 2>&1 | build_progress "$preset" "$log" ||
      build_failed "$preset" "$log"
  fi
}

# Writes ninja's output to the log and says every tenth of the way, for terminals that cannot overwrite a
# line.
build_progress() {
  awk -v log_file="$2" -v tag="$program: build/$1" '
    { print >> log_file; fflush(log_file) }
    match($0, /^\[[0-9]+\/[0-9]+\]/) {
      split(substr($0, 2, RLENGTH - 2), n, "/")
      tenth = int(10 * n[1] / n[2])
      if (n[2] > 1 && tenth > said) { printf "%s: %d of %d steps\n", tag, n[1], n[2] > "/dev/stderr"; said = tenth }
    }'
}

build_failed() {
  grep -m 1 -A 30 -E '^FAILED|error:|CMake Error' "$2" >&2 || tail -n 30 "$2" >&2
  fail "build/$1 failed; the whole log is build/$1.log"
}
