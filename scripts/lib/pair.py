#!/usr/bin/env python3
"""Compares the programs of two build folders on this machine: each round runs the old and the new, one straight after
the other and every second round the other way round, and takes the ratio of their speeds within the round, so that
what slows the machine for minutes slows both. 1.02: the new one is 2 % faster. A figure's result is the median over
the rounds. Needs decode_bench, token_bench and omni in both folders."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent


def decode(folder, arguments):
    return [folder / "decode_bench", "-m", ROOT / "models" / "mini", "-n", "2048", "--json"]


def token(folder, arguments):
    return [folder / "token_bench", "--gib", str(arguments.gib), "-n", "12", "--json"]


def stream(folder, arguments):
    return [folder / "omni", "bench", "stream", "-m", arguments.model, "--ram", arguments.ram, "--cases", "mixed,hot",
            "-n", "48", "--warmup", "32", "--json"]


# Figure: the program's arguments, the key of its JSON, and whether more of it is faster (1) or slower (-1).
FIGURES = {
    "decode_tok_per_s": (decode, "tok_per_s", 1),
    "decode_plain_tok_per_s": (decode, "plain_tok_per_s", 1),
    "hop_us": (decode, "hop_us", -1),
    "prefill_tok_per_s": (decode, "prefill_tok_per_s", 1),
    "token_roofline_share": (token, "token_roofline_share", 1),
    "token_tok_per_s": (token, "token_tok_per_s", 1),
    "stream_hot_tok_per_s": (stream, "hot_tok_per_s", 1),
    "stream_hot_share": (stream, "hot_share", 1),
    "stream_mixed_tok_per_s": (stream, "mixed_tok_per_s", 1),
    "stream_mixed_share": (stream, "mixed_share", 1),
}


def run(command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise RuntimeError("%s: exit %d: %s" % (
            " ".join(map(str, command)), done.returncode, done.stderr.decode(errors="replace").strip()[-500:]))
    return json.loads(done.stdout)


def make_model(arguments, old):
    """A part of the full-size model, which is kept for the next time."""
    if not Path(arguments.model, "model.json").is_file():
        print("pair: writing %s, about 5 GB" % arguments.model, file=sys.stderr)
        subprocess.run([str(old / "omni"), "synth", "--layers", "8", "--delta", "0.10", "--seed", "1", "--out",
                        str(arguments.model)], stdout=sys.stderr, check=True)


def compare(arguments, old, new):
    wanted = {name: FIGURES[name] for name in arguments.only}
    programs = list(dict.fromkeys(make for make, _, _ in wanted.values()))
    seen = {name: {"old": [], "new": [], "ratios": []} for name in wanted}
    for make in programs:
        for folder in (old, new):
            run(make(folder, arguments))  # not counted: files and memory are warm afterwards
        for number in range(arguments.rounds):
            result, turns = {}, [("old", old), ("new", new)]
            for which, folder in turns if number % 2 == 0 else reversed(turns):
                result[which] = run(make(folder, arguments))
            for name, (program, key, sign) in wanted.items():
                if program is not make:
                    continue
                before, after = result["old"][key], result["new"][key]
                seen[name]["old"].append(before)
                seen[name]["new"].append(after)
                seen[name]["ratios"].append((after / before) ** sign)
            print("pair: %s, round %d of %d" % (make.__name__, number + 1, arguments.rounds), file=sys.stderr)
    for figure in seen.values():
        figure["median_ratio"] = median(figure["ratios"])
    return {"rounds": arguments.rounds, "figures": seen}


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench pair", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD", help="a build folder: build/release of another checkout")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure; may be given several times")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "pair.model",
                        help="for stream, a packed model; made there if it is not (default: build/pair.model)")
    parser.add_argument("--ram", default="2G", help="the memory that stream may take (default: 2G)")
    parser.add_argument("--gib", type=float, default=4, help="GiB of the full-size token's weights (default: 4)")
    parser.add_argument("--least", type=float, metavar="RATIO", help="exit 1 if a median is below this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    arguments.only = arguments.only or list(FIGURES)
    if arguments.rounds < 1:
        parser.error("--rounds: at least one")
    try:
        if any(FIGURES[name][0] is stream for name in arguments.only):
            make_model(arguments, arguments.old)
        result = compare(arguments, arguments.old, arguments.new)
    except (OSError, RuntimeError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        print("pair: error: %s" % error, file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, figure in result["figures"].items():
            print("%-24s %.3f   %s" % (name, figure["median_ratio"], " ".join("%.3f" % r for r in figure["ratios"])))
    slower = [name for name, figure in result["figures"].items()
              if arguments.least is not None and figure["median_ratio"] < arguments.least]
    for name in slower:
        print("pair: %s is below %g" % (name, arguments.least), file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
