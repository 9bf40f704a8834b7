#!/usr/bin/env python3
"""One JSON object of the three that a measurement of streaming consists of: KNOWN FORMAT1 FORMS, files.

KNOWN is of the model whose routes are known before, and gives all keys but these: own_speedup, its own rate over that
of the same weights in format 1; format1, what was measured of those; and of FORMS the comparison of shared tiles."""

import json
import sys
from pathlib import Path


def main(names):
    known, format1, forms = (json.loads(Path(name).read_text()) for name in names)
    for which, part, wanted in (("the first model", known, 2), ("the second", format1, 1)):
        if part["format"] != wanted:
            sys.exit("stream: %s, %s, is of format %d, and not %d; move it away" % (
                which, part["model"], part["format"], wanted))
    for key in ("seed", "parameters_nominal", "ram_bytes"):
        if known[key] != format1[key]:
            sys.exit("stream: %s and %s are not to be compared: their %s are %s and %s" % (
                known["model"], format1["model"], key, known[key], format1[key]))
    own = {case["case"]: case for case in format1["cases"]}["own"]
    known["format1"] = {"own": own, "own_tok_per_s": format1["own_tok_per_s"], "own_share": format1["own_share"],
                        "own_best_tok_per_s": format1["own_best_tok_per_s"], "disk_bytes": format1["disk_bytes"],
                        "parameters_unique": format1["parameters_unique"]}
    known["own_speedup"] = known["own_tok_per_s"] / format1["own_tok_per_s"]
    known.update({key: value for key, value in forms.items() if key.endswith("_form") or key.startswith("delta_")})
    json.dump(known, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main(sys.argv[1:])
