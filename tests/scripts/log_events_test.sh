#!/usr/bin/env bash
# log_events.sh must find every planted difference between source and page, and none where there is none.
set -euo pipefail
check=$(cd "$(dirname "$0")" && pwd)/log_events.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/engine/base" "$tree/store" "$tree/docs"

write() { # write ROW...: a tree without a difference, and further rows of the page
  cat >"$tree/engine/base/log.cc" <<'END'
//   LogWarning("only_an_example", "x");
  state.current().Write({.level = left_out.level,
                         .event = "log_left_out",
                         .sentence = "{lines} more lines of {of}"});
END
  cat >"$tree/store/a.cc" <<'END'
  LogWarning("tile_damaged", "{path}: \"tile\" {tile} :-) fails its check",
             {{"tile", t}, {"path", Path(file)},
              {"expert", e}});
  if (late) LogInfo(
      "nothing_more", "done");
  MyLogInfo("no_event");
END
  {
    printf '%s\n' '## Start' '| `no_row` | x | |' '## Log' '| event | level | fields | do |' '|---|---|---|---|' \
      '| `log_left_out` | that of the event | `of`, `lines` | wait |' \
      '| `tile_damaged` | warning | `path`, `expert`, `tile` | verify |' \
      '| `nothing_more` | info | | nothing |' "$@" '## After' '| `no_row_either` | y | |'
  } >"$tree/docs/operations.md"
}

failures=0
expect() { # expect TEXT: the check must fail with one line that has TEXT
  local out
  if out=$(bash "$check" "$tree"); then
    echo "FAIL: not reported: $1"
    failures=$((failures + 1))
  elif [[ $out != *"$1"* || $out == *$'\n'* ]]; then
    printf 'FAIL: expected %s, got:\n%s\n' "$1" "$out"
    failures=$((failures + 1))
  fi
}

write
if ! out=$(bash "$check" "$tree"); then
  printf 'FAIL: a correct tree was rejected:\n%s\n' "$out"
  exit 1
fi
write '| `never_logged` | info | | nothing |'
expect 'nothing logs never_logged'
write '| `nothing_more` | info | | again |'
expect 'nothing_more has two rows'
write
echo 'LogDebug("not_on_the_page", "x", {{"a", 1}});' >>"$tree/store/a.cc"
expect 'lacks the event not_on_the_page (debug, fields a)'
write
sed -i 's/LogInfo(/LogError(/' "$tree/store/a.cc"
sed -i '/MyLog/d' "$tree/store/a.cc"
expect 'says info - of nothing_more, the source error -'
write
sed -i 's/{"expert", e}/{"layer", e}/' "$tree/store/a.cc"
expect 'says warning expert,path,tile of tile_damaged, the source warning layer,path,tile'
write
sed -i '/log_left_out/d' "$tree/docs/operations.md"
expect 'lacks the event log_left_out'

((failures == 0)) && echo "all differences found"
exit $((failures > 0))
