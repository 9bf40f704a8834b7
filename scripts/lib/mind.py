#!/usr/bin/env python3
"""What acts around the token step, measured with one model: each part is a function that takes the measurement's
settings and gives keys of the result.

usage: mind.py --omni PROGRAM -m MODEL --valid TEXT --test TEXT [--fit-tokens N] [--tokens N] [--rounds N] [--json]

The model is copied first, since what is fitted lies beside it."""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import mind_memory

PROMPT = "The captain looked at the sea, and"


def omni(settings, *words):
    """The JSON that the program prints."""
    command = [settings.omni, *words, "-m", settings.model, "--json"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"mind: {' '.join(str(word) for word in command)} ended with {done.returncode}")
    return json.loads(done.stdout)


def decode_seconds(settings, seed, *more):
    """Of a token after the first, of one answer."""
    words = ["run", PROMPT, "-n", 256, "--ignore-eos", "--seed", seed, "--stop", "\x01", *more]
    return 1 / omni(settings, *words)["timings"]["decode_tok_per_s"]


def cost(settings, *more):
    """Time of a token with these flags over time without, the median of answers in turns."""
    ratios = []
    for seed in range(1, settings.rounds + 1):
        plain = decode_seconds(settings, seed)
        ratios.append(decode_seconds(settings, seed, *more) / plain)
    return statistics.median(ratios)


def perspectives(settings):
    keys = {}
    for kind in ("near", "far"):
        flags = ["--perspectives", kind]
        omni(settings, "eval", "calibration", settings.valid, "--fit", "--first-tokens", settings.fit_tokens, *flags)
        measured = omni(settings, "eval", "calibration", settings.test, "--first-tokens", settings.tokens, *flags)
        plain, scaled = measured["softmax"], measured["temperature"]
        own, average = measured["perspectives"], measured["average"]
        keys |= {f"{kind}.{name}": value for name, value in {
            "ece": own["ece"],
            "full_ece": own["full_ece"],
            "aurc": own["aurc"],
            "brier": own["brier"],
            "accuracy": own["accuracy"],
            "ensemble_gain": 1 - average["bits_per_byte"] / plain["bits_per_byte"],
            "mixture_gain": 1 - own["bits_per_byte"] / scaled["bits_per_byte"],
            "disagreement": measured["disagreement"],
            "plain_rule_aurc": measured["plain_rule"]["aurc"],
        }.items()}
        for method, of in (("plain", plain), ("temperature", scaled), ("isotonic", measured["isotonic"])):
            for name in ("ece", "full_ece", "aurc", "brier", "accuracy", "bits_per_byte"):
                keys[f"{method}.{name}"] = of[name]
    # The cheap kind is the default one.
    for name in ("ece", "full_ece", "aurc", "ensemble_gain"):
        keys[name] = keys[f"near.{name}"]
    for name in ("ece", "full_ece", "aurc"):
        keys[f"{name}_temperature"] = keys[f"temperature.{name}"]
    return keys


def costs(settings):
    """Of perspectives, in time of a token: as they are by default, and at every token."""
    keys = {}
    for kind in ("near", "far"):
        keys[f"{kind}.mpd_cost"] = cost(settings, "--perspectives", kind)
        keys[f"{kind}.every_token_cost"] = cost(settings, "--perspectives", f"{kind},use=average,every=1,examine=0")
    return keys | {"mpd_cost": keys["near.mpd_cost"]}


PARTS = {"perspectives": perspectives,
         "costs": costs,
         "memory": lambda settings: mind_memory.memory(omni, settings),
         "recall": lambda settings: mind_memory.recall(omni, settings),
         "safety": lambda settings: mind_memory.safety(omni, settings),
         "adaptation": lambda settings: mind_memory.adaptation(omni, settings)}


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n")[0])
    parser.add_argument("--omni", required=True)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--valid", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--fit-tokens", type=int, default=65536)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS), help="of: " + ", ".join(PARTS))
    parser.add_argument("--documents", "--unseen", default="",
                        help="numbers of the documents of TEST, from 1, with commas, that adaptation is measured on "
                             "(default: all); --unseen says that the model has read nothing of their authors")
    parser.add_argument("--books", default="",
                        help="a word for each of these, with commas: what adaptation gives is told of each by its own")
    parser.add_argument("--budget", default="",
                        help="of time to learn each book in (default: omni adapt's); what a busy machine takes longer")
    parser.add_argument("--most-tokens", type=int, default=0,
                        help="adaptation is measured on so many of each document's rest (default: all of it)")
    parser.add_argument("--safety-words", default="", help="a list of words, one a line, for a polytope to deny")
    parser.add_argument("--behaviours", default="", help="a table with a column Behavior that the polytope is tried on")
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    for part in settings.parts.split(","):
        if part not in PARTS:
            sys.exit(f"mind: there is no part {part}; there are {', '.join(PARTS)}")
    keys = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "model"
        shutil.copytree(settings.model, copy)
        settings.model = copy
        for part in settings.parts.split(","):
            keys |= PARTS[part](settings)
    if settings.json:
        print(json.dumps(keys))
        return
    for name, value in keys.items():
        print(f"{name:28} {value:.5g}")


if __name__ == "__main__":
    main()
