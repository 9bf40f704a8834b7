"""Parts of scripts/bench mind: the memories and the polytopes. Each takes omni, which runs the program and gives its
JSON, and the measurement's settings."""

import json
import os
import subprocess
import sys


def memory(omni, settings):
    """What the associative memory holds, and what a memory of contexts is worth on the second halves of the texts."""
    done = subprocess.run([settings.omni, "memory", "capacity", "--items", "200000", "--json"],
                          stdout=subprocess.PIPE, check=True)
    points = {point["items"]: point for point in json.loads(done.stdout)["points"]}
    keys = {}
    for items, name in ((10_000, "10k"), (100_000, "100k"), (200_000, "200k")):
        keys |= {f"hdm_exact_{name}": points[items]["exact"],
                 f"hdm_noisy_{name}": points[items]["noisy"],
                 f"hdm_exact_{name}_expected": points[items]["exact_expected"],
                 f"hdm_noisy_{name}_expected": points[items]["noisy_expected"],
                 f"hdm_lookup_us_{name}": points[items]["lookup_median_us"]}
    worth = omni(settings, "memory", "measure", settings.test)
    for name in ("context_memory_gain", "ngram_cache_gain", "memory_us_per_token", "ngram_us_per_token"):
        keys[name] = worth[name]
    return keys


def safety(_, settings):
    """Of a token of full size, the share that a projection takes: token_bench lies beside the program."""
    bench = os.path.join(os.path.dirname(settings.omni), "token_bench")
    if not os.path.exists(bench):
        sys.exit(f"mind: there is no {bench}; build the target token_bench")
    done = subprocess.run([bench, "--json"], stdout=subprocess.PIPE, check=True)
    measured = json.loads(done.stdout)
    return {name: measured[name] for name in ("spp_share", "spp_inside_share")}
